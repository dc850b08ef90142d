"""From everything a study has produced to its answer."""
