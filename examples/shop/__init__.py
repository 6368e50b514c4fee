"""A shop: two services, and the saga that places an order across both. `python run.py` runs it."""
