"""Megatron's flags, read and written."""
