"""The commands about runs: start, list, show, watch, repair, dead letters."""
