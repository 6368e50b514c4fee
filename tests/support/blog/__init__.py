"""The blog in tests: its services, their articles and people, and whether all agree in the end."""
