"""What was measured, for people: the table of goals, pages, pictures. Pure."""
