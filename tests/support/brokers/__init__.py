"""Real brokers on loopback, which tests start, cut, freeze and start again."""
