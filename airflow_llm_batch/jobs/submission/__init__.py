"""Shards to batches, exactly once: planned -> creating -> running."""
