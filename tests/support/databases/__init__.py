"""Databases in tests: real servers, templates, disks, locks, copies."""
