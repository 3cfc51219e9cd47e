"""Running batches to ended ones."""
