"""Answers that are there already: of rows that ask the same, and of earlier jobs."""
