"""Frameworks over zapq: the real ones, against a real server."""
