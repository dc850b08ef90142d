"""Runs that are not ours, read from what their programs wrote: one file a format (`formats` lists them), nothing executed."""
