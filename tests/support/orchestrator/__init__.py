"""What the tests of sagas tell stories with: engines, nodes, trips, stubs."""
