"""What the data floor's tests are made of."""

from __future__ import annotations

from typing import Any


def settings(*source: str, **changed: Any) -> dict[str, Any]:
    """Canonical data settings with a validation split that a tiny corpus can fill."""
    return {
        "source": list(source),
        "valid_source": None,
        "valid_text_bytes": None,
        "text_field": "text",
        "tokenizer": {"name": "bytes"},
        "valid_fraction": 0.2,
        "valid_bytes": 1_000_000,
        "span": 64,
    } | changed


def texts(count: int) -> list[str]:
    """Documents of very different lengths, none twice, some beyond ASCII."""
    return [f"document {i} " + "héllo wörld\n" * (i * 7 % 23) + "x" * (i % 5) for i in range(count)]
