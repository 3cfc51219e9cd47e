"""OpenRouter's batches."""
