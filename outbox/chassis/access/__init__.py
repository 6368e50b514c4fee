"""Who may come in: keys, tokens, rates, and what each route asks for."""
