"""A service that numbers what it sends, and one that writes down what it got: real processes, for
tests that let them die and hang."""
