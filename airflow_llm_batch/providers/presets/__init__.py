"""Vendors and servers of OpenAI's kind: what each has of its own, as data."""
