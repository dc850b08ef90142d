"""How the arrays of an artifact lie in the streams that a codec compresses: lossless, and undone without settings.

An array gives one or more segments (byte planes or packed codes, row order); a stream is the segments of its arrays: first
the first of each, then the second of each, so that equal planes of arrays of one group lie side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ablab.artifact.arrays import Array

PIECE = 1 << 20  # codes at a time: the bits of a piece take 16 MB, whatever the size of the whole
WORK = 2**32  # number differences that one matrix may cost: a few seconds; above it fewer rows are compared
NEARER = 0.9  # an order is worth its permutation where neighbours come at least a tenth nearer
SHUFFLED, TURNED, PACKED, SORTED = 1, 2, 4, 8  # what was done to an array, added up


@dataclass(frozen=True)
class Layout:
    """shuffle: numbers of several bytes as byte planes (all lowest bytes first). transpose: matrices of codes by columns.
    pack_bits: codes of k bits in k bits. group: one stream for each group. sort_rows: rows of codes in an order in which
    neighbours are alike, then by columns, where that brings neighbours a tenth nearer (the order is stored). Sorted rows
    that stay rows gain nothing, or lose: what is alike then lies a whole row apart.

    Bytes of one-byte codes are not strided: golf's stride of 2 over the whole file separates the bytes of fp16 numbers,
    which the planes do here, and parts even from odd columns of int8 codes, which gains nothing.
    """

    shuffle: bool = False
    transpose: bool = False
    pack_bits: bool = False
    group: bool = False
    sort_rows: bool = False


class Form(NamedTuple):
    """What is needed to read an array again: numpy type, shape, bits of its codes, what was done to it."""

    type: str
    shape: tuple[int, ...]
    bits: int | None
    done: int


def streams(parts: Sequence[Array], group: bool) -> list[list[int]]:
    """Return the places of the parts of each stream, groups in the order of their first part."""
    places: dict[str, list[int]] = {}
    for i, part in enumerate(parts):
        places.setdefault(part.group if group else "", []).append(i)
    return list(places.values())


def lay(part: Array, layout: Layout) -> tuple[Form, list[np.ndarray]]:
    """Return the array's form and its segments, uint8. Raises ValueError for numbers that are not plain, or codes too large."""
    array = part.array
    if array.dtype.kind not in "biufc":
        raise ValueError(f"{part.name} holds {array.dtype}; give plain numbers")
    codes = part.bits is not None and array.dtype.kind in "iu" and array.size > 0
    segments, order, done = list[np.ndarray](), list[np.ndarray](), 0
    flat = np.ascontiguousarray(array).reshape(-1)
    if codes and array.ndim >= 2:
        rows = flat.reshape(-1, array.shape[-1])
        if layout.sort_rows and order_pays(rows):
            order_R = row_order(rows)
            order = _planes(order_R.astype(_index(rows.shape[0])))
            rows, done = rows[order_R], done | SORTED
        if (layout.transpose or done & SORTED) and min(rows.shape) > 1:
            rows, done = rows.T, done | TURNED
        flat = np.ascontiguousarray(rows).reshape(-1)
    if codes and layout.pack_bits and part.bits is not None and part.bits < 8 * array.itemsize:
        try:
            segments.append(pack(flat, part.bits))
        except ValueError as error:
            raise ValueError(f"{part.name}: {error}") from error
        done |= PACKED
    elif layout.shuffle and array.itemsize > 1 and array.size > 1:
        segments += _planes(flat)
        done |= SHUFFLED
    else:
        segments.append(flat.view(np.uint8))
    # The order comes last: in front of the codes, its even bytes made zstd files of them an eighth larger.
    return Form(array.dtype.str, array.shape, part.bits, done), segments + order


def sizes(form: Form) -> list[int]:
    """Count the bytes of each segment of an array of that form."""
    n_rows, count, each = _extent(form)
    order = [n_rows] * _index(n_rows).itemsize if form.done & SORTED else []
    if form.done & PACKED and form.bits is not None:
        return [n_bytes(count, form.bits), *order]
    return [*([count] * each if form.done & SHUFFLED else [count * each]), *order]


def restore(form: Form, segments: Sequence[np.ndarray]) -> np.ndarray:
    """Restore the array in memory of its own."""
    n_rows, count, _ = _extent(form)
    dtype = np.dtype(form.type)
    rest = list(segments)
    order_R = None
    if form.done & SORTED:
        kind = _index(n_rows)
        order_R, rest = _joined(rest[-kind.itemsize :], kind), rest[: -kind.itemsize]
    if form.done & PACKED and form.bits is not None:
        flat = unpack(rest[0], form.bits, count, dtype)
    elif form.done & SHUFFLED:
        flat = _joined(rest, dtype)
    else:
        flat = np.empty(count, dtype)
        flat.view(np.uint8)[:] = rest[0]
    if form.done & TURNED:
        flat = np.ascontiguousarray(flat.reshape(-1, n_rows).T).reshape(-1)
    if order_R is not None:
        rows = flat.reshape(n_rows, -1)
        flat = np.empty_like(rows)
        flat[order_R] = rows
    return flat.reshape(form.shape)


def interleaved(counts: Iterable[int]) -> list[tuple[int, int]]:
    """List (array, segment) in the order in which a stream holds them; counts: segments of each array."""
    each = list(counts)
    return [(i, depth) for depth in range(max(each, default=0)) for i, n in enumerate(each) if depth < n]


def _extent(form: Form) -> tuple[int, int, int]:
    """Return rows, numbers and bytes of a number."""
    dtype = np.dtype(form.type)
    if dtype.kind not in "biufc":
        raise ValueError(f"the type {form.type} is none of plain numbers")
    count = int(np.prod(form.shape, dtype=object)) if form.shape else 1
    n_rows = count // form.shape[-1] if form.shape and form.shape[-1] else 0
    return n_rows, count, dtype.itemsize


def _index(n_rows: int) -> np.dtype:
    return np.dtype("<u2" if n_rows <= 1 << 16 else "<u4")


def _planes(flat: np.ndarray) -> list[np.ndarray]:
    """Split off the lowest bytes of all numbers, then the next ones."""
    return list(np.ascontiguousarray(flat.view(np.uint8).reshape(-1, flat.itemsize).T))


def _joined(planes: Sequence[np.ndarray], dtype: np.dtype) -> np.ndarray:
    joined = np.empty((planes[0].size, dtype.itemsize), np.uint8)
    for i, plane in enumerate(planes):
        joined[:, i] = plane
    return joined.reshape(-1).view(dtype)


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
