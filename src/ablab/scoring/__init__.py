"""Weights to scores per document."""
