"""The decoder, its parts, and every choice of them."""
