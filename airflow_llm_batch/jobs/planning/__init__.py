"""Rows to shards: rendered, encoded, cut at the vendor's limits, and written down before anything is sent."""
