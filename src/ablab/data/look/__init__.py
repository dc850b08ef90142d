"""Token files looked at and checked."""
