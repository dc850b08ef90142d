"""verify(): everything that can be checked about token files, as a list of faults; empty when all is well."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from ablab.core.fault import CheckFailed, Fault
from ablab.core.files import sha256_file
from ablab.core.forms import fits
from ablab.core.loose_json import lines
from ablab.core.opened import opened
from ablab.core.sealed import changed
from ablab.data.formats.indexed import Indexed, open_indexed, open_sidecars, paths
from ablab.data.formats.located import AGAIN, MANIFEST, leaves, locate, prefix_of, shards_of
from ablab.data.formats.shards import bytes_path, bytes_sidecar, read_shard
from ablab.data.look.looks import no_zeros, right_width
from ablab.data.spans import NAMES
from ablab.records.corpus import File
from ablab.records.harmony import Encoder, HarmonyManifest, Quarantine, Shard, Split

EOD = {"o200k_harmony": 199_999}
_PIECE = 1 << 22  # tokens looked at a time
_AGAIN = "build the dataset again"
Tell = Callable[[str], object]


def verify(
    place: Path | str, *, vocab_size: int | None = None, tell: Tell = lambda _: None, warn: Tell = lambda _: None
) -> list[Fault]:
    """List every fault of the data at `place`: a Megatron prefix with its sidecars, a shard, or the folder of a build.

    Checked: structure and lengths of every file; ids not below 0, and below `vocab_size` (a build's own where it is not
    given); masks 0 or 1, spans 0 to 2, both zero together, no label behind a document's end; in a build also each file's
    size and sha256, files that are missing or not listed, counts, and EOD at the end of each document and nowhere else.
    `tell` hears each file before it is read; `warn` what is odd of a shard and no fault.
    """
    try:
        located = locate(place, whole=False)
        if located.kind == "shard":
            return _shard(located.path, vocab_size, tell, warn)
        made = located.manifest["tokenizer"] if located.manifest else Encoder(sha256="")
        eod = EOD.get(made.get("name", ""))
        if vocab_size is None:
            vocab_size = made.get("vocab_size")
        if located.kind == "megatron":
            above = located.manifest and changed(located.manifest, located.path.parent.parent / MANIFEST, AGAIN)
            return [*([above] if above else []), *_prefix(located.path, vocab_size, eod, tell)[0]]
        assert located.manifest is not None
        return _folder(located.path, located.manifest, vocab_size, eod, tell)
    except CheckFailed as error:
        return list(error.faults)


def _shard(path: Path, vocab_size: int | None, tell: Tell, warn: Tell) -> list[Fault]:
    tell(path.name)
    tokens = read_shard(path)
    faults = [*_looks(path, tokens, shard=True, warn=warn), *_ids(path, tokens, vocab_size)]
    side = bytes_path(path)
    if side is not None and side.exists():
        tell(side.name)
        try:
            bytes_sidecar(path)
        except CheckFailed as error:
            faults += error.faults
    return faults


def _prefix(prefix: Path, vocab_size: int | None, eod: int | None, tell: Tell) -> tuple[list[Fault], dict[str, int]]:
    """Verify a prefix with its sidecars: its faults; documents, tokens and tokens per span, as far as they can be read."""
    tell(prefix.name)
    tokens = open_indexed(prefix)
    counts = {"rows": tokens.n_documents, "tokens": len(tokens.tokens)}
    path = paths(prefix)[0]
    faults = [*_looks(path, tokens.tokens, shard=False), *_ids(path, tokens.tokens, vocab_size)]
    starts = tokens.document_starts()
    if eod is not None:
        faults += _ends(path, tokens, starts, eod)
    try:
        sides = open_sidecars(tokens)
    except CheckFailed as error:
        return [*faults, *error.faults], counts
    if sides is None:
        missing = f"has no {prefix.name.removesuffix('_tokens')}_lossmask and _span beside it"
        return [*faults, *([Fault(str(prefix), missing, _AGAIN)] if eod is not None else [])], counts
    more, spans = _labels(sides, starts)
    return faults + more, counts | spans


def _looks(path: Path, tokens: np.ndarray, *, shard: bool, warn: Tell = lambda _: None) -> Iterator[Fault]:
    try:
        if shard:
            right_width(path, tokens)
        if warning := no_zeros(path, tokens):
            warn(warning)
    except CheckFailed as error:
        yield from error.faults


def _ids(path: Path, tokens: np.ndarray, vocab_size: int | None) -> Iterator[Fault]:
    for first, piece in _pieces(tokens):
        wrong = np.flatnonzero((piece < 0) if vocab_size is None else (piece < 0) | (piece >= vocab_size))
        if len(wrong):
            where = int(wrong[0])
            outside = "below 0" if vocab_size is None else f"outside of the vocabulary of {vocab_size:,}"
            fault = f"token {first + where:,} is {piece[where]}, {outside}"
            yield Fault(str(path), fault, "use the tokenizer that made the file, or build it again")
            return


def _ends(path: Path, tokens: Indexed, starts: np.ndarray, eod: int) -> Iterator[Fault]:
    empty = np.flatnonzero(np.diff(starts) == 0)
    if len(empty):
        yield Fault(str(path), f"document {empty[0]} is empty", _AGAIN)
    ends = starts[1:][np.diff(starts) > 0] - 1
    last = np.asarray(tokens.tokens)[ends]
    if len(wrong := np.flatnonzero(last != eod)):
        where = int(np.searchsorted(starts, ends[wrong[0]], "right")) - 1
        yield Fault(str(path), f"document {where} ends in {last[wrong[0]]}, not in EOD {eod}", _AGAIN)
    inside = sum(int((piece == eod).sum()) for _, piece in _pieces(tokens.tokens)) - int((last == eod).sum())
    if inside:
        yield Fault(str(path), f"EOD {eod} stands {inside:,} times inside of documents", _AGAIN)


def _labels(sides: tuple[Indexed, Indexed], starts: np.ndarray) -> tuple[list[Fault], dict[str, int]]:
    mask, span = sides
    faults: list[Fault] = []
    counts = np.zeros(3, np.int64)
    apart: int | None = None
    odd: dict[Path, tuple[int, int]] = {}
    for first, values in _pieces(mask.tokens):
        spans = np.asarray(span.tokens[first : first + len(values)])
        for side, numbers, limit in ((mask, values, 1), (span, spans, 2)):
            wrong = np.flatnonzero((numbers < 0) | (numbers > limit))
            if len(wrong):
                odd.setdefault(paths(side.prefix)[0], (first + int(wrong[0]), int(numbers[wrong[0]])))
        counts += np.bincount(np.clip(spans, 0, 2), minlength=3)
        differ = np.flatnonzero((values != 0) != (spans != 0))
        if apart is None and len(differ):
            apart = first + int(differ[0])
    for path, (where, value) in odd.items():
        allowed = "0 or 1" if path == paths(mask.prefix)[0] else "0 (none), 1 (reasoning) or 2 (final)"
        faults.append(Fault(str(path), f"value {where:,} is {value}, not {allowed}", _AGAIN))
    if apart is not None:
        fault = f"label {apart:,} has mask {mask.tokens[apart]} and span {span.tokens[apart]}; both are 0 or neither is"
        faults.append(Fault(str(paths(span.prefix)[0]), fault, _AGAIN))
    ends = starts[1:][np.diff(starts) > 0] - 1
    for side in sides:
        if len(wrong := np.flatnonzero(np.asarray(side.tokens)[ends])):
            document = int(np.searchsorted(starts, ends[wrong[0]], "right")) - 1
            fault = (
                f"document {document} ends in label {side.tokens[ends[wrong[0]]]}; nothing follows it, so it must be 0"
            )
            faults.append(Fault(str(paths(side.prefix)[0]), fault, _AGAIN))
    return faults, {f"span_{name}": int(count) for name, count in zip(NAMES, counts)}


def _folder(
    folder: Path, manifest: HarmonyManifest, vocab_size: int | None, eod: int | None, tell: Tell
) -> list[Fault]:
    path = folder / MANIFEST
    faults = [fault] if (fault := changed(manifest, path, AGAIN)) else []
    listed: dict[str, File] = {}
    totals: dict[str, dict[str, int]] = {split: {} for split in manifest["splits"]}
    try:
        shards = shards_of(manifest, path)
    except CheckFailed as error:
        return [*faults, *error.faults]
    for split, shard in shards:
        listed |= shard["files"]
        faults += _files(folder, shard["files"], tell)
        if not all((folder / name).is_file() for name in shard["files"]):
            continue
        prefix = prefix_of(folder, split, shard)
        try:
            more, counts = _prefix(prefix, vocab_size, eod, tell)
        except CheckFailed as error:
            faults += error.faults
            continue
        faults += more
        faults += _counted(prefix, shard, counts)
        totals[split] = {name: totals[split].get(name, 0) + count for name, count in counts.items()}
    if not faults:
        for split, total in totals.items():
            faults += _counted(path, manifest["splits"][split], total, f"{split} ")
        faults += _spans(path, manifest, totals)
    faults += _quarantine(folder, manifest, tell)
    known = {*listed, MANIFEST, "quarantine.jsonl"}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        if file.is_file() and name.as_posix() not in known and not any(part.startswith(".") for part in name.parts):
            faults.append(Fault(str(file), f"is not listed in {MANIFEST}", "remove it"))
    return faults


def _files(folder: Path, entries: Mapping[str, File], tell: Tell) -> Iterator[Fault]:
    for name, entry in entries.items():
        file = folder / name
        if leaves(name):
            yield Fault(str(folder / MANIFEST), f"lists {name!r}, which lies outside of the folder", _AGAIN)
        elif not file.is_file():
            yield Fault(str(file), "is missing, though the manifest lists it", "copy it again, or build again")
        elif file.stat().st_size != entry["size"]:
            fault = f"has {file.stat().st_size:,} bytes, the manifest says {entry['size']:,}"
            yield Fault(str(file), fault, "copy it again, or build again")
        else:
            tell(name)
            digest = sha256_file(file)
            if digest != entry["sha256"]:
                fault = f"was changed: sha256 {digest[:12]}, the manifest says {entry['sha256'][:12]}"
                yield Fault(str(file), fault, "copy it again, or build again")


def _counted(place: Path, said: Shard | Split, counts: dict[str, int], what: str = "") -> Iterator[Fault]:
    for name, words, told in (("rows", "documents", said["rows"]), ("tokens", "tokens", said["tokens"])):
        if told != counts.get(name, 0):
            yield Fault(str(place), f"{what}has {counts.get(name, 0):,} {words}, the manifest says {told}", _AGAIN)


def _spans(path: Path, manifest: HarmonyManifest, totals: dict[str, dict[str, int]]) -> Iterator[Fault]:
    for name, said in manifest.get("spans", {}).items():
        counted = sum(total.get(f"span_{name}", 0) for total in totals.values())
        if counted != said:
            yield Fault(str(path), f"has {counted:,} tokens of {name}, the manifest says {said}", _AGAIN)


def _quarantine(folder: Path, manifest: HarmonyManifest, tell: Tell) -> Iterator[Fault]:
    entry = manifest.get("quarantine")
    if not fits(entry, Quarantine):
        yield Fault(str(folder / MANIFEST), "does not list the quarantine with name, size and sha256", _AGAIN)
        return
    file = folder / entry["name"]
    yield from _files(folder, {entry["name"]: entry}, tell)
    if not leaves(entry["name"]) and file.is_file():
        with opened(file) as rows:
            count = sum(1 for _ in lines(rows, file))
        if count != manifest.get("quarantined"):
            yield Fault(str(file), f"has {count:,} rows, the manifest says {manifest.get('quarantined')}", _AGAIN)


def _pieces(values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for first in range(0, len(values), _PIECE):
        yield first, np.asarray(values[first : first + _PIECE])
