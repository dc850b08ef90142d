"""Sources to a prepared corpus."""
