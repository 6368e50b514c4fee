"""The blog's services as processes, and those who let it delete articles."""
