"""The flight service: seats that an airline confirms later, on an asynchronous database."""
