"""What is about databases and not about messages: engines, errors, time, pages."""
