"""The programs of contenders, each run in the environment that has its library."""
