"""How a message looks as bytes, and how bytes become a message. Pure."""
