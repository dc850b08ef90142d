"""prepare(): sources to a content-addressed corpus. Two readings: the first splits, the second writes tokens."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from ablab.data import gates
from ablab.data.corpus import FILES, Corpus, Tokenizer, digest_of_manifest, open_corpus
from ablab.data.inputs import Inputs
from ablab.data.sources import Source, find
from ablab.data.split import HELD, TRAIN, Scan, digest_of, scan
from ablab.fault import Fault, GateFailed, InvalidStudy
from ablab.files import key_of, sha256_file, write_json
from ablab.tokenizers import slot

FORMAT = 1  # raised when the same sources and settings would give other files
SAMPLE_CHARS = 8_000_000  # of the training split, to train a tokenizer on
Say = Callable[[str], object]


def prepare(data: dict[str, Any], root: Path, say: Say = print) -> Corpus:
    """The corpus of the settings `data` under `root`: opened where it exists, made where it does not.

    Its folder is named by a key over the sources' contents, the settings and the tokenizer's revision; it appears whole
    or not at all, so processes may prepare it at once. InvalidStudy for settings, GateFailed for contents.
    """
    return prepare_sources(find(data["source"], data["text_field"]), data, root, say)


def prepare_sources(sources: Sequence[Source], data: dict[str, Any], root: Path, say: Say) -> Corpus:
    """prepare() on sources already found."""
    _check(data)
    inputs = Inputs(root / "inputs.json")
    described = [source.describe(inputs) for source in sources]
    inputs.save()
    identity = {
        "format": FORMAT,
        "sources": [entry["sha256"] for entry in described],
        "text_field": data["text_field"],
        "tokenizer": data["tokenizer"],
        "tokenizer_revision": slot.revision(data["tokenizer"]),
        "valid_fraction": float(data["valid_fraction"]),
        "valid_bytes": int(data["valid_bytes"]),
    }
    key = key_of(identity)
    if not (root / key).exists():
        part = _begin(root, key)
        try:
            _build(part, key, identity, sources, described, data, say)
            if [source.describe(inputs)["sha256"] for source in sources] != identity["sources"]:
                raise _changed("data.source")
            _publish(part, root / key)
        except OSError as error:
            fault = f"cannot be written ({error.strerror or error})"
            raise GateFailed(Fault(str(root / key), fault, "free space or choose another --out")) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return open_corpus(root / key)


def _build(
    part: Path,
    key: str,
    identity: dict[str, Any],
    sources: Sequence[Source],
    described: list[dict[str, Any]],
    data: dict[str, Any],
    say: Say,
) -> None:
    tokenizer: Tokenizer = slot.build(data["tokenizer"])
    found = scan(sources, data["valid_fraction"], SAMPLE_CHARS if tokenizer.trained else 0, say)
    if tokenizer.trained:
        begun = time.monotonic()
        try:
            tokenizer.train(found.sample)
        except ValueError as error:
            raise GateFailed(Fault("data.tokenizer", str(error))) from error
        chars = sum(map(len, found.sample))
        say(f"data: tokenizer trained on {chars / 1e6:.1f} M characters in {time.monotonic() - begun:.1f} s")
    tokenizer.save(part / "tokenizer")
    dtype = "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"
    writer = _Writer(part, dtype, tokenizer.bos_id)
    with writer:
        _tokenize(sources, found, tokenizer, writer, say)
        counts = found.counts | writer.finish(data["valid_bytes"])
    gates.no_leak(writer.train_digests(found), writer.taken_digests)
    manifest = {
        "key": key,
        "identity": identity,
        "inputs": described,
        "tokenizer": {
            "choice": data["tokenizer"],
            "vocab_size": tokenizer.vocab_size,
            "bos_id": tokenizer.bos_id,
            "fingerprint": tokenizer.fingerprint,
        },
        "dtype": dtype,
        "counts": counts,
        "files": {name: {"size": (part / name).stat().st_size, "sha256": sha256_file(part / name)} for name in FILES},
    }
    write_json(part / "manifest.json", manifest | {"digest": digest_of_manifest(manifest)})
    say(
        f"data: {counts['train_tokens']:,} training tokens in {counts['train_documents']:,} documents, "
        f"{counts['valid_tokens']:,} validation tokens in {counts['valid_documents']:,}"
    )


def _tokenize(sources: Sequence[Source], found: Scan, tokenizer: Tokenizer, writer: _Writer, say: Say) -> None:
    total, done, said = found.counts["bytes"], 0, time.monotonic()
    index = -1
    for place, text in _with_text(sources):
        index += 1
        raw = text.encode()
        digest = digest_of(raw)
        if index >= len(found.roles) or digest != found.digests[index].tobytes():
            raise _changed(place)
        role = found.roles[index]
        if role in (TRAIN, HELD):
            ids, n_bytes = tokenizer.encode(text)
            gates.ids_in_range(ids, tokenizer.vocab_size, tokenizer.bos_id, place)
            gates.bytes_accounted(n_bytes, tokenizer.to_bytes(ids), raw, place)
            if role == TRAIN:
                writer.train(ids, len(raw), index)
            else:
                writer.hold(ids, n_bytes, digest)
        done += len(raw)
        if time.monotonic() - said > 5:
            said = time.monotonic()
            say(f"data: {done / 1e6:.0f} of {total / 1e6:.0f} MB tokenized")
    if index + 1 != len(found.roles):
        raise _changed("data.source")


class _Writer:
    """Token files of one corpus. Held-out documents go to a spool first: which are taken depends on all of them."""

    def __init__(self, part: Path, dtype: str, bos_id: int) -> None:
        self._part, self._dtype, self._bos = part, np.dtype(dtype), np.array([bos_id], dtype)
        self._starts, self._indices, self._n_tokens, self._n_bytes = array("q"), array("q"), 0, 0
        self._held: list[tuple[bytes, int, int, int]] = []  # digest, start in the spool, tokens, bytes
        self._spooled = 0
        self.taken_digests: list[bytes] = []

    def __enter__(self) -> None:
        self._tokens: IO[bytes] = (self._part / "train.tokens").open("wb")
        self._spool: IO[bytes] = (self._part / "spool.tokens").open("w+b")
        self._spool_bytes: IO[bytes] = (self._part / "spool.bytes").open("w+b")

    def __exit__(self, *_: object) -> None:
        for file in (self._tokens, self._spool, self._spool_bytes):
            file.close()

    def train(self, ids: np.ndarray, n_bytes: int, index: int) -> None:
        """A training document: BOS and its tokens."""
        self._starts.append(self._n_tokens)
        self._indices.append(index)
        self._tokens.write(self._bos.tobytes() + ids.astype(self._dtype).tobytes())
        self._n_tokens += 1 + len(ids)
        self._n_bytes += n_bytes

    def hold(self, ids: np.ndarray, n_bytes: np.ndarray, digest: bytes) -> None:
        """A held-out document, a candidate for the validation set."""
        self._held.append((digest, self._spooled, len(ids), int(n_bytes.sum())))
        self._spool.write(ids.astype(self._dtype).tobytes())
        self._spool_bytes.write(n_bytes.astype("<u2").tobytes())
        self._spooled += len(ids)

    def finish(self, valid_bytes: int) -> dict[str, int]:
        """Choose the validation documents, write what is left to write, and say how many there are of everything."""
        taken = _take(self._held, valid_bytes)
        starts, position, n_bytes = array("q"), 0, 0
        with (self._part / "valid.tokens").open("wb") as tokens, (self._part / "valid.bytes").open("wb") as sizes:
            for _, start, length, _ in taken:
                starts.append(position)
                tokens.write(self._bos.tobytes() + _cut(self._spool, start, length, self._dtype.itemsize))
                counted = _cut(self._spool_bytes, start, length, 2)
                sizes.write(b"\0\0" + counted)
                position += 1 + length
                n_bytes += int(np.frombuffer(counted, "<u2").sum(dtype=np.int64))
        (self._part / "valid.starts").write_bytes(np.array(starts, "<i8").tobytes())
        (self._part / "train.starts").write_bytes(np.array(self._starts, "<i8").tobytes())
        self.taken_digests = [digest for digest, *_ in taken]
        (self._part / "valid.digests").write_bytes(b"".join(self.taken_digests))
        for name in ("spool.tokens", "spool.bytes"):
            (self._part / name).unlink()
        self._tokens.flush()
        return {
            "train_documents": len(self._starts),
            "train_tokens": self._n_tokens,
            "train_bytes": self._n_bytes,
            "valid_documents": len(taken),
            "valid_tokens": position - len(taken),
            "valid_bytes": n_bytes,
            "unused_documents": len(self._held) - len(taken),
        }

    def train_digests(self, found: Scan) -> Iterator[bytes]:
        """The digests of the documents that were written to the training split."""
        return (found.digests[index].tobytes() for index in self._indices)


def _take(held: list[tuple[bytes, int, int, int]], valid_bytes: int) -> list[tuple[bytes, int, int, int]]:
    """Documents in hash order, each taken where it still fits; where none fits, the shortest.

    Counted in bytes of text, so that arms with different tokenizers are scored on the same documents.
    """
    taken, left = [], valid_bytes
    for entry in sorted(held):
        if entry[3] <= left:
            taken.append(entry)
            left -= entry[3]
    return taken or [min(held, key=lambda entry: (entry[3], entry[0]))]


def _cut(file: IO[bytes], start: int, length: int, size: int) -> bytes:
    file.seek(start * size)
    return file.read(length * size)


def _with_text(sources: Sequence[Source]) -> Iterator[tuple[str, str]]:
    for source in sources:
        for place, text in source.documents():
            if text:
                yield place, text


def _check(data: dict[str, Any]) -> None:
    faults = []
    if not 0 < data["valid_fraction"] < 1:
        fault = f"{data['valid_fraction']!r} is not between 0 and 1"
        faults.append(Fault("data.valid_fraction", fault, "0.01 holds out one document in a hundred"))
    if data["valid_bytes"] < 1:
        faults.append(Fault("data.valid_bytes", f"{data['valid_bytes']!r} is no positive number", "1000000 is usual"))
    try:
        slot.build(data["tokenizer"])
    except ValueError as error:
        faults.append(Fault("data.tokenizer", str(error)))
    if faults:
        raise InvalidStudy(faults)


def _begin(root: Path, key: str) -> Path:
    try:
        root.mkdir(parents=True, exist_ok=True)
        for old in root.glob(".*.part"):  # left by a process that was killed
            if old.is_dir() and time.time() - max(p.stat().st_mtime for p in (old, *old.iterdir())) > 86_400:
                shutil.rmtree(old, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=f".{key}.", suffix=".part", dir=root))
    except OSError as error:
        fault = f"cannot be written ({error.strerror or error})"
        raise GateFailed(Fault(str(root), fault, "free space or choose another --out")) from error


def _publish(part: Path, place: Path) -> None:
    for file in part.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    part.chmod(0o755)
    try:
        part.rename(place)
    except OSError:
        if not place.is_dir():  # otherwise another process was first, with the same content
            raise


def _changed(place: str) -> GateFailed:
    return GateFailed(Fault(place, "changed while it was read", "run again when nothing writes to it"))
