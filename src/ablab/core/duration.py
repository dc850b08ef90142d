"""Spans of time as people write them."""

from __future__ import annotations

import re

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> float | None:
    """Read `90s`, `30m`, `8h`, `2d` in seconds; None for anything else."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhd])", text.strip())
    return float(match[1]) * _UNITS[match[2]] if match else None
