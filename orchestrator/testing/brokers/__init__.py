"""A broker for random histories, and the real code that puts packets into it and reads them."""
