"""What a saga is, declared and checked. Pure."""
