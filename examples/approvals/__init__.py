"""A step of a saga that waits for a person."""
