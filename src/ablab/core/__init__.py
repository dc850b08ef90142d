"""What everything stands on: faults, whole files, named streams, slots."""
