"""What is made of the codes of rounded weights before they are compressed: k bits each, rows where they lie near their like."""

from __future__ import annotations

import numpy as np

PIECE = 1 << 20  # codes at a time: the bits of a piece take 16 MB, whatever the size of the whole
WORK = 2**32  # number differences that one matrix may cost: a few seconds; above it fewer rows are compared
NEARER = 0.9  # an order is worth its permutation where neighbours come at least a tenth nearer


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


def row_order(rows_RD: np.ndarray, work: int = WORK) -> np.ndarray:
    """Order row indices, int64 (R,): from row 0 always to the nearest (L1) of the next rows not yet taken. Deterministic.

    Every row left is compared where R * R * D is at most `work`; otherwise the first ones left, as many as fit.
    Source: parameter-golf, PR #1855 (greedy L1 row sort of tok_emb, c_q and mlp.fc).
    """
    n_rows, width = rows_RD.shape
    kind = np.int16 if rows_RD.dtype.itemsize == 1 else np.int64
    left = rows_RD.astype(kind)
    reach = min(n_rows, max(16, work // max(n_rows * width, 1)))
    window, places, unread = left[:reach].copy(), np.arange(reach), reach
    taken, here, size = np.empty(n_rows, np.int64), 0, reach
    difference = np.empty_like(window)
    for i in range(n_rows):
        taken[i], row = places[here], window[here].copy()
        if unread < n_rows:
            window[here], places[here], unread = left[unread], unread, unread + 1
        else:
            size -= 1
            window[here], places[here] = window[size], places[size]
        if size:
            np.subtract(window[:size], row, out=difference[:size])
            np.abs(difference[:size], out=difference[:size])
            here = _nearest(difference[:size], places[:size])
    return taken


def order_pays(rows_RD: np.ndarray) -> bool:
    """Tell whether an order is worth storing: one made on every second column must bring the columns between them nearer.

    Judged on the columns it was found on, an order of pure noise gains a fifth: the best of many rows is near by chance.
    """
    order_R, held = row_order(np.ascontiguousarray(rows_RD[:, ::2])), rows_RD[:, 1::2]
    return between(held[order_R]) < NEARER * between(held)


def between(rows_RD: np.ndarray) -> int:
    """Return the sum of |difference| of neighbouring rows."""
    wide = np.int16 if rows_RD.dtype.itemsize == 1 else np.int64
    step = max(1, (1 << 24) // max(rows_RD.shape[1], 1))
    total = 0
    for start in range(0, rows_RD.shape[0] - 1, step):
        piece = rows_RD[start : start + step + 1].astype(wide)
        total += int(np.abs(np.diff(piece, axis=0)).sum(dtype=np.int64))
    return total


def _nearest(distance_RD: np.ndarray, places_R: np.ndarray) -> int:
    """Return the place of the least row sum; of equal ones that of the earliest row of the matrix."""
    sums = distance_RD.sum(axis=1, dtype=np.int32 if distance_RD.dtype == np.int16 else np.int64)
    least = np.flatnonzero(sums == sums.min())
    return int(least[np.argmin(places_R[least])])
