"""What is said before money is spent."""
