"""How things are executed: device, precision, locks, signals."""
