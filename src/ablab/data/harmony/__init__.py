"""Harmony: conversations with reasoning and answers as token ids, loss masks and spans."""
