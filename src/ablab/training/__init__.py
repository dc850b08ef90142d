"""One run to weights."""
