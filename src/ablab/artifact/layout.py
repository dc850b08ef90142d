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
from ablab.artifact.codes import n_bytes, order_pays, pack, row_order, unpack

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
