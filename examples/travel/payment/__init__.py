"""The payment service: charges cards, each up to its limit, on an asynchronous database."""
