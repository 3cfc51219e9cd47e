"""What several models have answered, side by side."""
