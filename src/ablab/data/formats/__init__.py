"""Token files of others and of ours."""
