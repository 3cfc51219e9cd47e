"""Vendors and servers of OpenAI's kind: OpenAI's endpoints, each in its vendor's manner."""
