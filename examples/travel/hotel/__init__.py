"""The hotel: rooms on a synchronous database; it sells trips, and asks for the saga."""
