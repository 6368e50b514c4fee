"""The sagas that come along: one file for each business process."""
