"""Ended batches and answered calls to one record per row."""
