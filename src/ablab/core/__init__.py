"""What everything is built on: faults, whole files, named streams, slots."""
