"""Virtual time, processes, network and tables, for random histories."""
