"""Which conversations are held out, and the hash of the settings that decide what a build means."""

from __future__ import annotations

import hashlib
import math
from decimal import Decimal
from hashlib import blake2b

from ablab.core.files import canonical

RULE = "valid iff int(blake2b(id, digest_size=8), big endian) < threshold"


def hash_of(row_id: str) -> int:
    """Hash a row's id to 64 bits. UnicodeEncodeError where it holds a lone surrogate."""
    return int.from_bytes(blake2b(row_id.encode(), digest_size=8).digest(), "big")


def threshold(valid_fraction: float) -> int:
    """Return the hash below which rows are held out. Through Decimal: 0.001 is a thousandth, not the float beside it."""
    if not (math.isfinite(valid_fraction) and 0 <= valid_fraction <= 1):
        raise ValueError(f"{valid_fraction!r} is not between 0 and 1; 0.001 holds out one row in a thousand")
    return int(Decimal(str(valid_fraction)) * (1 << 64))


def config(valid_fraction: float, eod_id: int) -> dict[str, object]:
    """Return what the vpMoE project writes about its builds under the same name, field by field."""
    return {
        "valid_fraction": valid_fraction,
        "hash": "blake2b-8",
        "loss_mask_alignment": "labels_shifted_with_pad",
        "eod_token_id": eod_id,
        "roles_preserved": ["system", "developer", "user", "assistant"],
        "assistant_channels": ["analysis", "final"],
    }


def config_hash(settings: dict[str, object]) -> str:
    """Hash (sha256) the compact, sorted JSON of `config`: equal to theirs for equal settings."""
    return hashlib.sha256(canonical(settings).encode()).hexdigest()
