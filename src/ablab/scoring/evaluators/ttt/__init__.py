"""What both ways of test-time training share: each piece of the held-out text is scored, and only then learned from."""
