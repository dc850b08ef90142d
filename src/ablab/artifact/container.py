"""The bytes of an artifact: who compressed them, what lies in them, the streams, and a sha256 over all of it.

magic "ablab", version (1 byte), sha256 (32), length and name of the codec, decoded and encoded length of the header, the
header, the streams. The header is compact JSON and goes through the codec like the streams. The sha256 covers what
precedes the header, the decoded header and the decoded streams: nothing that was damaged is ever given to a compressor.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import TypedDict, TypeVar

import numpy as np

from ablab.artifact.arrays import Array
from ablab.artifact.layout import PACKED, SORTED, TURNED, Form, Layout, interleaved, lay, restore, sizes, streams
from ablab.core.fault import CheckFailed, Fault, Interrupted, Refused, to_install
from ablab.core.forms import fits, misfit
from ablab.core.strict_json import record

MAGIC, VERSION = b"ablab", 1
FREE, MOST_RATIO = (
    1 << 29,
    256,
)  # an artifact grows to FREE bytes, or to so many times its own; unpacking takes it twice
MOST_HEADER = 1 << 26  # bytes of a header, a description of a million arrays
MOST_PARTS = 1 << 20  # arrays of an artifact; a stream belongs to at least one
MOST_DIMENSIONS = 32
T = TypeVar("T")
Compress = Callable[[bytes], bytes]
Expand = Callable[[memoryview, int], bytes | memoryview]  # (encoded, decoded length) -> decoded, never longer
FOREIGN = (  # first bytes of what people put in an artifact's place
    (b"PK\x03\x04", "a zip, as torch.save writes"),
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "bare zstd"),
    (b"\xfd7zXZ", "xz"),
    (b"\x93NUMPY", "an npy array"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x03", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"\x80\x05", "a pickle"),
)


class Told(TypedDict):
    """The header of an artifact; a column of one entry per array is a list of its distinct values and one of their places."""

    names: list[str]
    types: list[list[object]]
    shapes: list[list[object]]
    bits: list[list[object]]
    done: list[list[object]]
    groups: list[list[object]]
    grouped: bool
    streams: list[list[int]]
    meta: object


def write(codec: str, parts: Sequence[Array], meta: Mapping[str, object], layout: Layout, compress: Compress) -> bytes:
    """Write the artifact. Streams are compressed side by side on the cores; the bytes do not depend on how many there are.

    Raises ValueError where two parts have one name, meta is no JSON, or a part holds no plain numbers.
    """
    if len({part.name for part in parts}) < len(parts):
        raise ValueError("two parts have one name; name them apart")
    laid = [lay(part, layout) for part in parts]
    plain = []
    for places in streams(parts, layout.group):
        segments = [laid[i][1] for i in places]
        plain.append(b"".join(segments[i][j].data for i, j in interleaved(map(len, segments))))
    encoded = _side_by_side(compress, plain)
    header = _header(parts, [form for form, _ in laid], meta, layout.group, plain, encoded)
    packed_header = compress(header)
    front = b"".join(
        [bytes([len(codec)]), codec.encode("ascii"), _varint(len(header)), _varint(len(packed_header))],
    )
    digest = _digest(front, header, plain)
    return b"".join([MAGIC, bytes([VERSION]), digest, front, packed_header, *encoded])


def _side_by_side(compress: Compress, plain: Sequence[bytes]) -> list[bytes]:
    import torch

    # As many as this process computes with: its share of the cores, or fewer where OMP_NUM_THREADS says so.
    threads = ThreadPoolExecutor(max_workers=max(1, min(len(plain), torch.get_num_threads())))
    try:
        return list(threads.map(compress, plain))
    finally:
        threads.shutdown(cancel_futures=True)  # interrupted: streams that were not begun are left


def imported(name: str) -> ModuleType:
    """Import the module of a compression library. CheckFailed, with the command that installs it, where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CheckFailed(Fault(f"codec {name}", f"the library {name} is not installed", to_install(name))) from error


def codec_of(blob: bytes) -> str:
    """Name the codec that wrote the artifact. ValueError, saying what they look like, for bytes of another kind."""
    if blob[: len(MAGIC)] != MAGIC:
        raise ValueError(f"are no ablab artifact ({_looks(blob)})")
    if len(blob) < len(MAGIC) + 34:
        raise ValueError("end before their header does")
    if blob[len(MAGIC)] != VERSION:
        raise ValueError(f"are of version {blob[len(MAGIC)]}, this ablab reads version {VERSION}")
    at = len(MAGIC) + 33
    return bytes(blob[at + 1 : at + 1 + blob[at]]).decode("ascii", errors="replace")


def read(blob: bytes, expand: Expand) -> tuple[list[Array], object]:
    """Read the parts and `meta` as they were written. ValueError, to be read after "packed weights", for damaged bytes."""
    codec_of(blob)
    try:
        return _read(memoryview(blob), expand)
    except (Refused, Interrupted):
        raise
    except Exception as error:  # codecs, JSON and numpy each have their own words for damaged bytes
        said = str(error).rstrip(".") or type(error).__name__
        raise ValueError(f"are damaged or cut short ({said})") from error


def _read(blob: memoryview, expand: Expand) -> tuple[list[Array], object]:
    begin = len(MAGIC) + 33
    at = begin + 1 + blob[begin]
    n_header, at = _read_varint(blob, at)
    n_packed, at = _read_varint(blob, at)
    front, start = blob[begin:at], at + n_packed
    if n_header > MOST_HEADER:
        raise ValueError(f"their header claims to have {n_header} bytes")
    header = _expanded(blob[at:start], n_packed, n_header, expand)
    told = record(bytes(header))
    if not fits(told, Told):
        raise ValueError(f"their header {misfit(told, Told)}")
    wanted = [_lengths(pair) for pair in told["streams"]]
    _bounded(sum(decoded for decoded, _ in wanted), len(blob))
    forms, groups = _forms(told)
    parts = [
        Array(name, np.empty(0, np.uint8), form.bits, group) for name, form, group in zip(told["names"], forms, groups)
    ]
    needed = [sum(sum(sizes(forms[i])) for i in places) for places in streams(parts, told["grouped"])]
    if needed != [decoded for decoded, _ in wanted]:
        raise ValueError("their streams have other lengths than their arrays")
    if start + sum(encoded for _, encoded in wanted) != len(blob):
        raise ValueError("their length is not what the header says")
    plain = []
    for decoded, encoded in wanted:
        plain.append(_expanded(blob[start : start + encoded], encoded, decoded, expand))
        start += encoded
    if _digest(front, header, plain) != blob[begin - 32 : begin]:
        raise ValueError("their sha256 differs from the one they carry")
    return _parts(parts, forms, told["grouped"], plain), told["meta"]


def _lengths(pair: list[int]) -> tuple[int, int]:
    decoded, encoded = pair
    if decoded < 0 or encoded < 0:
        raise ValueError("a stream has less than no bytes")
    return decoded, encoded


def _bounded(size: int, n_encoded: int) -> None:
    """Refuse an artifact that as a whole claims to hold far more than its bytes can be weights of.

    One bound for all streams: a limit for each is none where their number is free. Trained weights of which 99 in 100 are
    zeros still need a hundredth of their bytes.
    """
    if size > max(FREE, MOST_RATIO * n_encoded):
        raise ValueError(f"{n_encoded} bytes claim to hold {size}")


def _forms(told: Told) -> tuple[list[Form], list[str]]:
    """Read form and group of each array from the header. ValueError for a form that no array has."""
    count = len(told["names"])
    if count > MOST_PARTS or len(set(told["names"])) < count:
        raise ValueError("their header names too many arrays, or two by one name")
    kinds, shapes = _column(told["types"], count, list[str]), _column(told["shapes"], count, list[list[int]])
    widths, done = _column(told["bits"], count, list[int | None]), _column(told["done"], count, list[int])
    forms = [Form(kind, tuple(shape), *how) for kind, shape, how in zip(kinds, shapes, zip(widths, done))]
    for form in set(forms):
        numbers = [*form.shape, form.done, *([] if form.bits is None else [form.bits])]
        if len(form.type) > 4 or np.dtype(form.type).kind not in "biufc":
            raise ValueError(f"an array is of the type {form.type[:20]!a}")
        if len(form.shape) > MOST_DIMENSIONS or any(n < 0 for n in numbers) or form.done > 15:
            raise ValueError("an array has a shape that none has")
        if form.done & PACKED and not 0 < (form.bits or 0) < 8 * np.dtype(form.type).itemsize:
            raise ValueError(f"an array has codes of {form.bits} bits")
        if (form.done & (TURNED | SORTED) and len(form.shape) < 2) or (form.bits or 0) > 64:
            raise ValueError("an array is not laid as any is")
    return forms, _column(told["groups"], count, list[str])


def _parts(
    parts: list[Array], forms: Sequence[Form], grouped: bool, plain: Sequence[bytes | memoryview]
) -> list[Array]:
    for places, content in zip(streams(parts, grouped), plain, strict=True):
        lengths = [sizes(forms[i]) for i in places]
        arrays: list[list[np.ndarray]] = [[] for _ in places]
        whole, at = np.frombuffer(content, np.uint8), 0
        for i, j in interleaved(map(len, lengths)):
            arrays[i].append(whole[at : at + lengths[i][j]])
            at += lengths[i][j]
        if at != whole.size:
            raise ValueError("a stream holds another number of bytes than its arrays")
        for i, segments in zip(places, arrays):
            parts[i] = Array(parts[i].name, restore(forms[i], segments), forms[i].bits, parts[i].group)
    return parts


def _expanded(encoded: memoryview, n_encoded: int, n_decoded: int, expand: Expand) -> bytes | memoryview:
    if len(encoded) != n_encoded:
        raise ValueError("they end too early")
    decoded = expand(encoded, n_decoded)
    if len(decoded) != n_decoded:
        raise ValueError(f"a stream of {n_decoded} bytes gives {len(decoded)}")
    return decoded


def _header(
    parts: Sequence[Array],
    forms: Sequence[Form],
    meta: Mapping[str, object],
    grouped: bool,
    plain: Sequence[bytes],
    encoded: Sequence[bytes],
) -> bytes:
    told = {
        "names": [part.name for part in parts],
        "types": _table([form.type for form in forms]),
        "shapes": _table([list(form.shape) for form in forms]),
        "bits": _table([form.bits for form in forms]),
        "done": _table([form.done for form in forms]),
        "groups": _table([part.group for part in parts]),
        "grouped": grouped,
        "streams": [[len(p), len(e)] for p, e in zip(plain, encoded)],
        "meta": meta,
    }
    try:
        return json.dumps(told, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"what belongs to the packed weights is no JSON ({error}); give plain values") from error


def _table(values: Sequence[object]) -> list[list[object]]:
    """Return [distinct values, place of each in them]; the places are left out where all are equal."""
    distinct, places = list[object](), dict[str, int]()
    for value in values:
        if (word := json.dumps(value)) not in places:
            places[word] = len(distinct)
            distinct.append(value)
    return [distinct, [places[json.dumps(value)] for value in values] if len(distinct) > 1 else []]


def _column(table: list[list[object]], count: int, form: type[list[T]]) -> list[T]:
    distinct, places = table
    if not fits(distinct, form) or not fits(places, list[int]):
        raise ValueError("their header has a column of other values")
    if any(not 0 <= i < len(distinct) for i in places) or len(places) not in (0, count):
        raise ValueError("their header has a column of another length")
    if not places and len(distinct) != 1 and count:
        raise ValueError("their header has a column without a value")
    return [distinct[i] for i in places] if places else list(distinct) * count


def _digest(front: bytes | memoryview, header: bytes | memoryview, plain: Sequence[bytes | memoryview]) -> bytes:
    total = hashlib.sha256()
    for piece in (front, header, *plain):
        total.update(piece)
    return total.digest()


def _varint(number: int) -> bytes:
    """Encode a number as seven bits a byte, lowest first; the highest bit says that more follow."""
    made = bytearray()
    while number > 127:
        made.append(number & 127 | 128)
        number >>= 7
    return bytes([*made, number])


def _read_varint(blob: memoryview, at: int) -> tuple[int, int]:
    number = shift = 0
    while shift < 63:
        byte = blob[at]
        number, shift, at = number | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return number, at
    raise ValueError("a length has too many bytes")


def _looks(blob: bytes) -> str:
    if not blob:
        return "they are empty"
    for first, kind in FOREIGN:
        if blob.startswith(first):
            return f"they begin like {kind}"
    if MAGIC.startswith(bytes(blob[: len(MAGIC)])):
        return "they are cut short"
    if len(blob) > 8 and blob[8:9] == b"{" and int.from_bytes(blob[:8], "little") <= len(blob):
        return "they begin like safetensors"
    return f"they begin with {bytes(blob[:6]).hex(' ')}"
