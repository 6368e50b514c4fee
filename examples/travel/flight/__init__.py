"""The airline: seats, on an asynchronous database."""
