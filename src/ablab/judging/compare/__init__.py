"""Two groups of runs that are not ours, held against each other: whether they compare, the word, what would settle it."""
