"""Services as child processes of a terminal."""
