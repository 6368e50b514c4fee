"""Packets that could not be handled: they wait in a table of the receiver, the rest of their key
behind them."""
