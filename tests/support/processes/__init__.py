"""Real processes of tests: started, watched, waited for, and always ended."""
