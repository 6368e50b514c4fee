"""The commands of the consistency kit: explore, simulate, coverage."""
