"""Two groups of runs that are not ours, compared: whether they compare, the word, what would settle it."""
