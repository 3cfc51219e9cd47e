"""Calls one by one, many at once."""
