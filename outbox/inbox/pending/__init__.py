"""Commands whose answers come later: their rows, their completion, and the list of them."""
