"""Launchers: where runs are executed. `local` runs them side by side on this machine."""
