"""The payment service: has a provider charge cards, on an asynchronous database."""
