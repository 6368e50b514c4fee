"""Tries a participant in any language: does it keep the wire contract? See `sagabox conform`."""
