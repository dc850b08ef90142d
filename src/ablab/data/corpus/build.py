"""prepare(): sources to a content-addressed corpus. Two readings: the first splits, the second writes tokens."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from ablab.core import folders, places
from ablab.core.fault import CheckFailed, Fault, Halted, InvalidStudy
from ablab.core.files import key_of, sha256_file, write_json
from ablab.core.inputs import Inputs
from ablab.core.kinds import kind_of
from ablab.core.lever import Choice, value_of
from ablab.core.opened import no_file
from ablab.data.corpus import checks, groups, sidecar, stretches, tokenised, verbatim
from ablab.data.corpus.corpus import Corpus, digest_of_manifest, open_corpus, read_manifest
from ablab.data.corpus.split import HELD, TRAIN, Scan, counted, digest_of, scan
from ablab.data.corpus.tokens import Tokens
from ablab.data.corpus.writer import Writer
from ablab.data.sources.find import Sources, find
from ablab.data.sources.renewed import renewed
from ablab.data.sources.sources import SEPARATOR, Source, TextFile
from ablab.data.tokenizers import slot
from ablab.data.tokenizers.tokenizer import Tokenizer
from ablab.records.corpus import Input, Laid, Looked, Manifest
from ablab.records.settings import DataSettings

VALID_FRACTION, TEXT_FIELD = 0.01, "text"  # what the study file means where it says nothing
FORMAT = 2  # raised when the same sources and settings would give other files
SEPARATORS = (
    "</s>",
    "<|end_of_text|>",
    "\f",
    "\r\n\r\n",
    "\n\n",
)  # what joined texts have between documents, surest first
LARGE, MANY = 100_000, 20  # characters of one document that is looked at, and how many there should be
MOST_OF_VALID = 0.05  # of valid_bytes: no more in one document, where a source leaves the choice (its `held`)
SAMPLE_CHARS = 8_000_000  # of the training split, to train a tokenizer on
Say = Callable[[str], object]


def prepare(data: DataSettings, root: Path, say: Say = print) -> Corpus:
    """Return the corpus of the settings `data` under `root`: opened where it exists, made where it does not.

    Its folder is named by a key over the sources' contents, the settings and the tokenizer's revision; it appears whole
    or not at all, so processes may prepare it at once. InvalidStudy for settings, CheckFailed for contents.
    """
    separator = data.get("text_separator", SEPARATOR)
    return prepare_sources(find(data["source"], data["text_field"], data["valid_source"], separator), data, root, say)


def prepare_sources(sources: Sources, data: DataSettings, root: Path, say: Say) -> Corpus:
    """Do the work of prepare() on sources that were resolved already."""
    _check(data)
    _idle(sources, data)
    inputs = Inputs(root / "inputs.json")
    described = _described(sources, inputs)
    identity: dict[str, object] = {
        "format": tokenised.FORMAT if sources.parts else FORMAT,
        "kind": "tokens" if sources.parts else "text",
        "sources": {name: [entry["sha256"] for entry in entries] for name, entries in described.items()},
        "text_field": data["text_field"] if sources.texts else None,
        "text_separator": next((one.separator for one in _text_files(sources)), None),
        "tokenizer": _by_content(data["tokenizer"], inputs),
        "tokenizer_revision": slot.revision(data["tokenizer"]),
        "valid_fraction": None if described["valid"] else float(data["valid_fraction"]),
        "valid_bytes": int(data["valid_bytes"]),
        "verbatim": verbatim.REVISION,
    }
    if rules := [vars(rule) for source in sources.texts if (rule := source.held)]:
        identity |= {"held": rules, "most_of_valid_bytes": MOST_OF_VALID}
    if any(part.kind == "shard" and len(part.files) > 1 for part in sources.held_parts or sources.parts):
        identity |= sidecar.identity(slot.build(data["tokenizer"]))
    inputs.save()
    key = key_of(identity)
    if not (root / key).exists():
        if told := renewed(root, identity, described["train"] + described["valid"]):
            say(told)
        with folders.folder(root, f".{key}.", ".part", among=".") as part:
            try:
                _build(part, key, identity, sources, described, data, say)
                if _described(sources, inputs) != described:
                    raise _changed("data.source")
                _publish(part, root / key)
            except OSError as error:
                raise _refused(error, part, root / key) from error
    _relocate(root / key, sources, described)
    corpus = _looked_at(open_corpus(root / key), say)
    checks.whole_text(int(corpus.valid.n_bytes.sum(dtype=np.int64)), data["valid_text_bytes"])
    if (by := data.get("groups")) is None:
        return corpus
    patterns = data["source"] if data["valid_source"] is None else data["valid_source"]
    made = groups.groups_of(key, corpus.valid.digests, by, sources, patterns, root)
    return dataclasses.replace(corpus, groups=made)


def _idle(sources: Sources, data: DataSettings) -> None:
    """Refuse settings that these sources leave without anything to act on."""
    faults = []
    if (sources.held_texts or sources.held_parts) and data["valid_fraction"] != VALID_FRACTION:
        fault = f"{data['valid_fraction']:g} chooses nothing: the held-out part has files of its own"
        faults.append(Fault("data.valid_fraction", fault, "remove it"))
    readier = max((rule.readier for source in sources.texts if (rule := source.held)), default=1)
    if not (sources.held_texts or sources.held_parts) and data["valid_fraction"] * readier > 1:
        fault = (
            f"{data['valid_fraction']:g} holds out no more than {1 / readier:g}: of this source only short files are"
        )
        faults.append(Fault("data.valid_fraction", fault, f"set it to {1 / readier:g} or less"))
    if sources.parts and data["text_field"] != TEXT_FIELD:
        fault = f"'{data['text_field']}' is read from nothing: token files hold no fields"
        faults.append(Fault("data.text_field", fault, "remove it"))
    separator = data.get("text_separator", SEPARATOR)
    if separator != SEPARATOR and not _text_files(sources):
        faults.append(Fault("data.text_separator", "cuts nothing: no source is a .txt file", "remove it"))
    elif separator not in ("", SEPARATOR) and not any(map(_cut, _text_files(sources))):
        fault = f"{separator!r} occurs in no .txt file of the sources"
        cure = 'remove it; lines that end in \\r\\n have "\\r\\n\\r\\n" between paragraphs'
        faults.append(Fault("data.text_separator", fault, cure))
    if (by := data.get("groups")) is not None:
        faults += groups.refused(sources, by)
    if faults:
        raise InvalidStudy(faults)


def _text_files(sources: Sources) -> list[TextFile]:
    return [source for source in (*sources.texts, *sources.held_texts) if isinstance(source, TextFile)]


def _hints(files: Sequence[TextFile]) -> Iterator[str]:
    """Yield for large files that are one document each what would cut them, where it occurs there often."""
    for file in files:
        texts = [text for _, text in islice(file.documents(), 2)]
        if len(texts) > 1 or not texts[0] or len(texts[0]) < LARGE:
            continue
        counts = {mark: 1 + len(re.findall(f"{re.escape(mark)}+", texts[0])) for mark in SEPARATORS}
        mark = next((mark for mark in SEPARATORS if counts[mark] >= MANY), None)
        if mark is not None:
            cut = f"data.text_separator = {json.dumps(mark)} would make {counts[mark]:,} of it"
            yield f"data: {file.name} is one document; {cut}"


def _pages(files: Sequence[TextFile]) -> str:
    """Say what must be known of files that are one page of the web each: they may be what is learned, or what a server said."""
    names = [file.name for file in files if (kind := kind_of(file.path)) and kind.name == "html" and not _cut(file)]
    if not names:
        return ""
    one = len(names) == 1
    many = f"{names[0]} is one page" if one else f"{len(names):,} files, the first {names[0]}, are one page each"
    cure = f"if a server gave {'it' if one else 'them'} in place of text, download that text"
    return f"data: warning: {many} of the web (HTML), read with its tags; {cure}"


def _cut(file: TextFile) -> bool:
    """Tell whether a file is cut into documents."""
    return len(list(islice(file.documents(), 2))) > 1


def _described(sources: Sources, inputs: Inputs) -> dict[str, list[Input]]:
    """Return what the manifest says of every source, by what it is for."""
    return {
        "train": [source.describe(inputs) for source in sources.texts or sources.parts],
        "valid": [source.describe(inputs) for source in sources.held_texts or sources.held_parts],
    }


def _relocate(path: Path, sources: Sources, described: dict[str, list[Input]]) -> None:
    """Note where token files of the same content lie now, in the corpus that is read in place."""
    manifest = read_manifest(path)
    here = [{"path": part.name, "kind": part.kind} for part in sources.parts]
    if manifest["parts"] and manifest["parts"] != here:
        moved = manifest | {"parts": here, "inputs": described["train"] + described["valid"]}
        write_json(path / "manifest.json", moved | {"digest": digest_of_manifest(moved)})


def _looked_at(corpus: Corpus, say: Say) -> Corpus:
    """Return the corpus, once it has something to learn from and little of its held-out text in training: kept in the manifest.

    Looked at here and not while it is made, so that corpora made before are, too. CheckFailed each time where it is not so.
    """
    if "looked_at" in corpus.manifest:
        return corpus
    ends = np.append(corpus.documents[1:], corpus.n_train)
    targets = corpus.n_train - len(ends) if corpus.marks is None else corpus.marks.n_targets(ends)
    warning = checks.something_to_learn(targets, corpus.n_train)
    parts = corpus.tokens.parts if isinstance(corpus.tokens, Tokens) else [corpus.tokens]
    many, copied = stretches.share(corpus.valid, parts)
    for told in (warning, stretches.check(many, copied)):
        if told:
            say(told)
    looked: Looked = {"targets": targets, "stretches": many, "in_training": copied}
    manifest: Manifest = {**corpus.manifest, "looked_at": looked}
    manifest["digest"] = digest_of_manifest(manifest)
    try:
        write_json(corpus.path / "manifest.json", manifest)
    except Halted as halted:  # a store that is read-only, or full
        say(f"note: {halted.faults[0].place}: {halted.faults[0].fault}; the data are looked at again the next time")
    return dataclasses.replace(corpus, manifest=manifest)


def _by_content(choice: Choice, inputs: Inputs) -> Choice:
    """Return a tokenizer's choice with every file named by what it holds."""
    paths = slot.load(value_of(choice, "name", str)).paths
    named = {path: value_of(choice, path, str) for path in paths if choice.get(path)}
    for path, file in named.items():
        if not Path(file).is_file():
            said = no_file(file) or "is no file"
            raise InvalidStudy(Fault(f"data.tokenizer.{path}", f"'{file}' {said}", "check the path"))
    return choice | {path: inputs.sha256(Path(file)) for path, file in named.items()}


def _build(
    part: Path,
    key: str,
    identity: dict[str, object],
    sources: Sources,
    described: dict[str, list[Input]],
    data: DataSettings,
    say: Say,
) -> None:
    make = tokenised.build if sources.parts else _of_text
    tokenizer, made = make(part, sources, data, say)
    names = sorted(file.name for file in part.iterdir() if file.name != folders.LOCK)
    manifest = {
        "key": key,
        "identity": identity,
        "inputs": described["train"] + described["valid"],
        "tokenizer": {
            "choice": data["tokenizer"],
            "vocab_size": tokenizer.vocab_size,
            "bos_id": tokenizer.bos_id,
            "fingerprint": tokenizer.fingerprint,
        },
        **made,
        "files": {name: {"size": (part / name).stat().st_size, "sha256": sha256_file(part / name)} for name in names},
    }
    write_json(part / "manifest.json", manifest | {"digest": digest_of_manifest(manifest)})
    counts = made["counts"]
    say(
        f"data: {counted(counts['train_tokens'], 'training token')} in {counted(counts['train_documents'], 'document')}, "
        f"{counted(counts['valid_tokens'], 'validation token')} in {counts['valid_documents']:,}"
    )


def _of_text(part: Path, sources: Sources, data: DataSettings, say: Say) -> tuple[Tokenizer, Laid]:
    """Train the tokenizer, write the token files; what the manifest says of them."""
    if told := _pages(_text_files(sources)):
        say(told)
    if data.get("text_separator", SEPARATOR):
        for hint in _hints(_text_files(sources)):
            say(hint)
    tokenizer = slot.build(data["tokenizer"])
    sample = SAMPLE_CHARS if tokenizer.trained else 0
    first = scan(sources.texts, data["valid_fraction"], sample, say, sources.held_texts)
    if tokenizer.trained:
        begun = time.monotonic()
        try:
            tokenizer.train(first.sample)
        except ValueError as error:
            raise CheckFailed(Fault("data.tokenizer", str(error))) from error
        chars = sum(map(len, first.sample))
        say(f"data: tokenizer trained on {chars / 1e6:.1f} M characters in {time.monotonic() - begun:.1f} s")
    tokenizer.save(part / "tokenizer")
    dtype = "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"
    writer = Writer(part, dtype, tokenizer.bos_id)
    with writer:
        _tokenize([*sources.texts, *sources.held_texts], first, tokenizer, writer, say)
        if first.copies is not None:
            first.counts["also_trained_documents"] = writer.leave_out(first.copies.digests(say))
        even = all(source.held for source in [*sources.texts, *sources.held_texts])
        longest = int(data["valid_bytes"] * MOST_OF_VALID) if even else None
        counts = first.counts | writer.finish(data["valid_bytes"], longest)
    checks.no_leak(writer.train_digests(first), writer.taken_digests)
    return tokenizer, {"dtype": dtype, "counts": counts, "parts": []}


def _tokenize(sources: Sequence[Source], first: Scan, tokenizer: Tokenizer, writer: Writer, say: Say) -> None:
    total, done, said = first.counts["bytes"], 0, time.monotonic()
    index = -1
    for place, text in _with_text(sources):
        index += 1
        raw = text.encode()
        digest = digest_of(raw)
        if index >= len(first.roles) or digest != first.digests[index].tobytes():
            raise _changed(place)
        role = first.roles[index]
        if role in (TRAIN, HELD):
            try:
                ids, n_bytes = tokenizer.encode(text)
            except ValueError as error:
                raise CheckFailed(Fault(place, str(error))) from error
            checks.ids_in_range(ids, tokenizer.vocab_size, tokenizer.bos_id, place)
            checks.bytes_accounted(n_bytes, tokenizer.to_bytes(ids), raw, place)
            if role == TRAIN:
                writer.train(ids, len(raw), index)
                if first.copies is not None:
                    first.copies.train(np.frombuffer(raw, np.uint8))
            else:
                writer.hold(ids, n_bytes, digest)
        done += len(raw)
        if time.monotonic() - said > 5:
            said = time.monotonic()
            say(f"data: {done / 1e6:.0f} of {total / 1e6:.0f} MB tokenized")
    if index + 1 != len(first.roles):
        raise _changed("data.source")


def _with_text(sources: Sequence[Source]) -> Iterator[tuple[str, str]]:
    for source in sources:
        for place, text in source.documents():
            if text:
                yield place, text


def _check(data: DataSettings) -> None:
    faults = []
    if not 0 < data["valid_fraction"] < 1:
        fault = f"{data['valid_fraction']!r} is not between 0 and 1"
        faults.append(Fault("data.valid_fraction", fault, "0.01 holds out one document in a hundred"))
    if data["valid_bytes"] < 1:
        faults.append(Fault("data.valid_bytes", f"{data['valid_bytes']!r} is no positive number", "1000000 is usual"))
    try:
        slot.build(data["tokenizer"]).ready()  # a file that it reads is there, and is what it should be
    except ValueError as error:
        faults.append(Fault("data.tokenizer", str(error)))
    if faults:
        raise InvalidStudy(faults)


def _refused(error: OSError, part: Path, place: Path) -> CheckFailed:
    """Return the refusal for what could not be read or written while a corpus was made in `part`."""
    if error.filename is not None and not Path(error.filename).is_relative_to(place.parent):
        return CheckFailed(Fault(error.filename, f"cannot be read ({error.strerror})", "check the file"))
    written = sum(file.stat().st_size for file in part.rglob("*") if file.is_file())
    return places.unwritable(place, error, written, more=True)


def _publish(part: Path, place: Path) -> None:
    for file in part.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    part.chmod(0o755)
    try:
        part.rename(place)
        (place / folders.LOCK).unlink()
    except OSError:
        if not place.is_dir():  # otherwise another process was first, with the same content
            raise


def _changed(place: str) -> CheckFailed:
    return CheckFailed(Fault(place, "changed while it was read", "run again when nothing writes to it"))
