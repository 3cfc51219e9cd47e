"""Fireworks' batch inference jobs."""
