"""What work is expected to cost, what it has cost, and what it may."""
