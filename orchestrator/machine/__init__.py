"""What happens next to a run, from values to values. Pure."""
