"""The trials of a participant, by the part of the contract that they try."""
