"""Other programs' words: what their flags really do, written as ablab's settings, and back."""
