"""What goes wrong in tests: wires, proxies, crashes, chaos."""
