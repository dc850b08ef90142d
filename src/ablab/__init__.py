"""ablab: declare one lever at a time, get a verdict you can defend."""

__version__ = "0.1.0"
