"""Token shards of uint16: golf shards with a header, plain .bin files without one, and sidecars of bytes per token.

A golf shard begins with 256 int32, little endian: magic 20240520, version 1, the number of tokens, zeros; then the tokens.
The layout is llm.c's and that of openai/parameter-golf. The sidecar fineweb_val_bytes_X.bin of fineweb_val_X.bin holds,
for every token, the bytes of original text that it stands for (PR 1729 of parameter-golf), in the same layout.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ablab.core.fault import CheckFailed, Fault
from ablab.core.kinds import instead, text_of
from ablab.core.opened import opened
from ablab.data.formats.mapped import map_file

MAGIC = 20240520
_OTHER_MAGIC = 20240801  # llm.c's shards of uint32, for vocabularies beyond 65536
_HEADER = 256 * 4
_TOKEN = np.dtype("<u2")
_TEXT = 64  # bytes of text that no tokens happen to be
_AGAIN = "copy or write the file again"


def is_golf(path: Path) -> bool:
    """Tell whether the file begins with the magic number of golf shards. CheckFailed where it cannot be read."""
    return _first(path) == MAGIC


def read_shard(path: Path) -> np.ndarray:
    """Read the tokens of a golf shard or of a plain .bin of uint16: uint16 (tokens,), memory-mapped.

    CheckFailed, with the sizes: empty, truncated, longer than its header says, half a token, another version or format.
    """
    first = _first(path)
    if path.suffix == ".bin" and path.with_suffix(".idx").exists():
        cure = f"give the prefix {path.with_suffix('').name}"
        raise _broken(path, f"is one of Megatron's files: {path.with_suffix('.idx').name} lies beside it", cure)
    stem, _, kind = path.stem.rpartition("_")
    if first != MAGIC and _part_of_prefix(path, stem, kind):
        fault = f"is one of Megatron's files, half-written: {path.with_suffix('.idx').name} is missing"
        raise _broken(path, fault, "write all files of the prefix again")
    if first == _OTHER_MAGIC:
        raise _broken(path, f"has magic {first}: llm.c's tokens of 32 bits", f"give a shard of uint16, magic {MAGIC}")
    size = path.stat().st_size
    if first != MAGIC:
        _no_other(path, first, size)
        if size % _TOKEN.itemsize:
            raise _broken(path, f"has {size:,} bytes, no whole number of uint16 tokens: half-written")
        return map_file(path, _TOKEN, 0, size // _TOKEN.itemsize)
    if size < _HEADER:
        raise _broken(path, f"has {size:,} bytes; the header of a golf shard alone has {_HEADER:,}: truncated")
    _, version, count = _numbers(path, "<i4", 3).tolist()
    if version != 1:
        raise _broken(path, f"has version {version}; only version 1 is known", "write it as version 1")
    if count < 0:
        raise _broken(path, f"counts {count:,} tokens in its header")
    needed = _HEADER + count * _TOKEN.itemsize
    if size != needed:
        relation = "truncated or half-written" if size < needed else "too long"
        wide = next((width for width in (4, 8) if size == _HEADER + count * width), 0)
        if wide:
            relation, cure = f"they have {8 * wide} bits", "write them as uint16"
            fault = f"has {size:,} bytes, its header counts {count:,} tokens: {relation}"
            raise _broken(path, fault, cure)
        raise _broken(path, f"has {size:,} bytes, its header counts {count:,} tokens, {needed:,} bytes: {relation}")
    return map_file(path, _TOKEN, _HEADER, count)


def _no_other(path: Path, first: int, size: int) -> None:
    """Refuse a file without our magic that is not headerless either."""
    if (other := instead(path, allowed=("utf16",))) is not None:
        raise _broken(path, other.what, other.cure)
    if (text := text_of(path)) and size >= _TEXT:
        raise _broken(path, f"is text and no tokens: it begins with '{text}'", "call it .txt or .jsonl, as it is")
    if size < _HEADER:
        return
    little, big = (_numbers(path, f"{order}i4", 256) for order in "<>")
    if big[0] in (MAGIC, _OTHER_MAGIC):
        raise _broken(path, "is a golf shard of big-endian numbers", "write it on this machine, little endian")
    held = [count for count in (1, 2, 4, 8) if little[1] == 1 and little[2] * count == size - _HEADER]
    if held or (0 <= little[1] < 100 and not little[3:].any() and little[:3].any()):
        cure = f"give a shard of magic {MAGIC}; if its tokens are uint16, write them again as one"
        raise _broken(path, f"begins like a golf shard with magic {first}", cure)


def bytes_path(path: Path) -> Path | None:
    """Return where the byte sidecar of `path` would lie; None for a file that is no validation shard or a sidecar itself."""
    head, mark, tail = path.name.rpartition("_val_")
    return path.with_name(f"{head}_val_bytes_{tail}") if mark and not tail.startswith("bytes_") else None


def bytes_sidecar(path: Path) -> np.ndarray | None:
    """Read the bytes of original text per token of the validation shard `path`: uint16, memory-mapped; None without one.

    CheckFailed where it is broken or does not count as many tokens as the shard.
    """
    side = bytes_path(path)
    if side is None or not side.exists():
        return None
    sizes, count = read_shard(side), len(read_shard(path))
    if len(sizes) != count:
        cure = f"write {side.name} again from the text of {path.name}"
        raise _broken(side, f"has {len(sizes):,} counts, {path.name} has {count:,} tokens", cure)
    return sizes


def _part_of_prefix(path: Path, stem: str, kind: str) -> bool:
    """Tell whether a .bin without .idx belongs to a prefix with labels: its tokens have 32 bits, its labels 8."""
    sides = [path.with_name(f"{stem}_{side}.{end}") for side in ("lossmask", "span") for end in ("bin", "idx")]
    return kind in ("lossmask", "span") or (kind == "tokens" and any(side.exists() for side in sides))


def _numbers(path: Path, dtype: str, count: int) -> np.ndarray:
    """Read the first `count` numbers of a file that has so many."""
    with opened(path) as file:
        return np.frombuffer(file.read(count * np.dtype(dtype).itemsize), dtype)


def _first(path: Path) -> int:
    try:
        with opened(path) as file:
            raw = file.read(4)
    except OSError as error:
        raise _broken(path, f"cannot be read ({error.strerror})", "check the path") from error
    if not raw:
        raise _broken(path, "is empty")
    return int.from_bytes(raw, "little") if len(raw) == 4 else 0


def _broken(path: Path, fault: str, cure: str = _AGAIN) -> CheckFailed:
    return CheckFailed(Fault(str(path), fault, cure))
