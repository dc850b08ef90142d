"""Codes of a few bits, laid without gaps: k bits a number instead of 8 or 16."""

from __future__ import annotations

import numpy as np

PIECE = 1 << 20  # codes at a time: the bits of a piece take 16 MB, whatever the size of the whole


def n_bytes(count: int, bits: int) -> int:
    """Count the bytes that `count` codes of `bits` bits take."""
    return -(-count * bits // 8)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Pack the codes of an integer array, in C order, as uint8 (n_bytes,): least bit first, offset so that none is negative.

    Raises ValueError where a code does not fit into `bits` bits (two's complement, or unsigned for an unsigned type).
    """
    if codes.dtype.kind not in "iu" or not 1 <= bits <= 16:
        raise ValueError(f"{codes.dtype} cannot be packed into {bits} bits; pack integers into 1 to 16")
    flat, low = codes.reshape(-1), _low(codes.dtype, bits)
    if flat.size and not (low <= int(flat.min()) and int(flat.max()) < low + 2**bits):
        raise ValueError(f"codes from {flat.min()} to {flat.max()} do not fit into {bits} bits; give them more bits")
    packed = np.empty(n_bytes(flat.size, bits), np.uint8)
    for start in range(0, flat.size, PIECE):
        piece = (flat[start : start + PIECE].astype(np.int64) - low).astype("<u2")
        rows = np.unpackbits(piece.view(np.uint8).reshape(-1, 2), axis=1, count=bits, bitorder="little")
        done = np.packbits(rows.reshape(-1), bitorder="little")
        packed[start * bits // 8 : start * bits // 8 + done.size] = done
    return packed


def unpack(packed: np.ndarray, bits: int, count: int, dtype: np.dtype) -> np.ndarray:
    """Unpack the `count` codes that `pack` wrote, in `dtype`. Raises ValueError where the bytes are more or fewer."""
    if packed.size != n_bytes(count, bits):
        raise ValueError(f"{packed.size} bytes do not hold {count} codes of {bits} bits; pack them again")
    flat, low = np.empty(count, dtype), _low(dtype, bits)
    for start in range(0, count, PIECE):
        here = min(PIECE, count - start)
        span = packed[start * bits // 8 : start * bits // 8 + n_bytes(here, bits)]
        rows = np.unpackbits(span, count=here * bits, bitorder="little").reshape(here, bits)
        whole = np.packbits(rows, axis=1, bitorder="little")
        value = whole[:, 0].astype(np.int64)
        if bits > 8:
            value += whole[:, 1].astype(np.int64) << 8
        flat[start : start + here] = value + low
    return flat


def _low(dtype: np.dtype, bits: int) -> int:
    return -(2 ** (bits - 1)) if dtype.kind == "i" else 0
