"""What makes a score legal."""
