"""Which runs there are, under which keys, and where they lie."""
