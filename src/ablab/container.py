"""The bytes of an artifact: who compressed them, what lies in them, the streams, and a sha256 over all of it.

magic "ablab", version (1 byte), sha256 (32), length and name of the codec, decoded and encoded length of the header, the
header, the streams. The header is compact JSON and goes through the codec like the streams. The sha256 covers what
precedes the header, the decoded header and the decoded streams: nothing that was damaged is ever given to a compressor.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np

from ablab.fault import Fault, GateFailed, Interrupted, Refused, to_install
from ablab.layout import Form, Layout, interleaved, lay, restore, sizes, streams
from ablab.packed import Part

MAGIC, VERSION = b"ablab", 1
FREE, MOST_RATIO = 1 << 30, 4096  # above a gigabyte, a stream that claims to grow more than this is not expanded
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


def write(codec: str, parts: Sequence[Part], meta: dict[str, Any], layout: Layout, compress: Compress) -> bytes:
    """The artifact. Streams are compressed side by side on the cores; the bytes do not depend on how many there are.

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
    """The module of a compression library. GateFailed, with the command that installs it, where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise GateFailed(Fault(f"codec {name}", f"the library {name} is not installed", to_install(name))) from error


def codec_of(blob: bytes) -> str:
    """Name of the codec that wrote the artifact. ValueError, saying what they look like, for bytes of another kind."""
    if blob[: len(MAGIC)] != MAGIC:
        raise ValueError(f"are no ablab artifact ({_looks(blob)})")
    if len(blob) < len(MAGIC) + 34:
        raise ValueError("end before their header does")
    if blob[len(MAGIC)] != VERSION:
        raise ValueError(f"are of version {blob[len(MAGIC)]}, this ablab reads version {VERSION}")
    at = len(MAGIC) + 33
    return bytes(blob[at + 1 : at + 1 + blob[at]]).decode("ascii", errors="replace")


def read(blob: bytes, expand: Expand) -> tuple[list[Part], dict[str, Any]]:
    """The parts and `meta`, as they were written. ValueError, to be read after "packed weights", for damaged bytes."""
    codec_of(blob)
    try:
        return _read(memoryview(blob), expand)
    except (Refused, Interrupted):
        raise
    except Exception as error:  # codecs, JSON and numpy each have their own words for damaged bytes
        said = str(error).rstrip(".") or type(error).__name__
        raise ValueError(f"are damaged or cut short ({said})") from error


def _read(blob: memoryview, expand: Expand) -> tuple[list[Part], dict[str, Any]]:
    begin = len(MAGIC) + 33
    at = begin + 1 + blob[begin]
    n_header, at = _read_varint(blob, at)
    n_packed, at = _read_varint(blob, at)
    front, start = blob[begin:at], at + n_packed
    header = _expanded(blob[at:start], n_packed, n_header, expand)
    told = json.loads(bytes(header))
    wanted = [(int(decoded), int(encoded)) for decoded, encoded in told["streams"]]
    if start + sum(encoded for _, encoded in wanted) != len(blob):
        raise ValueError("their length is not what the header says")
    plain = []
    for decoded, encoded in wanted:
        plain.append(_expanded(blob[start : start + encoded], encoded, decoded, expand))
        start += encoded
    if _digest(front, header, plain) != blob[begin - 32 : begin]:
        raise ValueError("their sha256 differs from the one they carry")
    return _parts(told, plain), told["meta"]


def _parts(told: dict[str, Any], plain: Sequence[bytes | memoryview]) -> list[Part]:
    names, groups = told["names"], _column(told["groups"], len(told["names"]))
    columns = [_column(told[key], len(names)) for key in ("types", "shapes", "bits", "done")]
    forms = [Form(kind, tuple(shape), bits, done) for kind, shape, bits, done in zip(*columns)]
    empty = np.empty(0, np.uint8)
    parts = [Part(name, empty, form.bits, group) for name, form, group in zip(names, forms, groups)]
    for places, content in zip(streams(parts, told["grouped"]), plain, strict=True):
        lengths = [sizes(forms[i]) for i in places]
        found: list[list[np.ndarray]] = [[] for _ in places]
        whole, at = np.frombuffer(content, np.uint8), 0
        for i, j in interleaved(map(len, lengths)):
            found[i].append(whole[at : at + lengths[i][j]])
            at += lengths[i][j]
        if at != whole.size:
            raise ValueError("a stream holds another number of bytes than its arrays")
        for i, segments in zip(places, found):
            parts[i] = Part(names[i], restore(forms[i], segments), forms[i].bits, groups[i])
    return parts


def _expanded(encoded: memoryview, n_encoded: int, n_decoded: int, expand: Expand) -> bytes | memoryview:
    if len(encoded) != n_encoded:
        raise ValueError("they end too early")
    if n_decoded > FREE and n_decoded > MOST_RATIO * n_encoded:
        raise ValueError(f"{n_encoded} bytes claim to hold {n_decoded}")
    decoded = expand(encoded, n_decoded)
    if len(decoded) != n_decoded:
        raise ValueError(f"a stream of {n_decoded} bytes gives {len(decoded)}")
    return decoded


def _header(
    parts: Sequence[Part],
    forms: Sequence[Form],
    meta: dict[str, Any],
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


def _table(values: Sequence[Any]) -> list[Any]:
    """[distinct values, place of each in them]; the places are left out where all are equal."""
    distinct: list[Any] = []
    places = {}
    for value in values:
        if (word := json.dumps(value)) not in places:
            places[word] = len(distinct)
            distinct.append(value)
    return [distinct, [places[json.dumps(value)] for value in values] if len(distinct) > 1 else []]


def _column(table: list[Any], count: int) -> list[Any]:
    distinct, places = table
    return [distinct[i] for i in places] if places else list(distinct) * count


def _digest(front: bytes | memoryview, header: bytes | memoryview, plain: Sequence[bytes | memoryview]) -> bytes:
    total = hashlib.sha256()
    for piece in (front, header, *plain):
        total.update(piece)
    return total.digest()


def _varint(number: int) -> bytes:
    """Seven bits a byte, lowest first; the highest bit says that more follow."""
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
