"""A corpus to batches."""
