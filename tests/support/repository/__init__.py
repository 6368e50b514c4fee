"""What tests read of the repository itself: imports, layers, routes, pages, the report of a run."""
