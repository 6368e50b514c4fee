"""Topics of others, who never heard of Sagabox: events go to them, and their messages come from
them."""
