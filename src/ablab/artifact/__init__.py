"""Weights to the bytes that count, and back."""
