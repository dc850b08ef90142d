"""Which held-out documents belong together: of one package or folder, or alike in a field of their rows (a site, a domain).

Documents of a group are alike for reasons that have nothing to do with an arm, so an interval that takes them as independent
is too narrow. Groups say how scores are read, never what is trained or scored: they lie beside the prepared corpora, not in
them, and no key of a corpus, a training or a score knows of them. Declaring them later trains nothing again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ablab.core.fault import CheckFailed, Fault
from ablab.core.files import key_of, write_json
from ablab.core.patterns import root_of
from ablab.core.sealed import read_sealed, sealed
from ablab.data.corpus.split import digest_of
from ablab.data.sources.find import Sources
from ablab.data.sources.sources import InFile, Mock, PythonLibrary, RowFile, Source
from ablab.records.corpus import Grouped

FOLDER = "folder"
SETTING = "data.groups"


@dataclass(frozen=True, eq=False)
class Groups:
    """The group of every held-out document, in document order: `numbers` (documents,) int64; `by` what they were made."""

    by: str
    numbers: np.ndarray


def refused(sources: Sources, by: str) -> list[Fault]:
    """Say why these sources have no such groups."""
    if sources.parts or sources.held_parts:
        fault = (
            f"'{by}' groups nothing: token files keep neither folders nor fields of the text that they were made from"
        )
        return [Fault(SETTING, fault, "remove it, or name the text itself as data.source")]
    faults = []
    for source in sources.held_texts or sources.texts:
        if isinstance(source, Mock):
            faults.append(
                Fault(SETTING, f"'{by}' groups nothing: 'mock' is made up, document by document", "remove it")
            )
        elif by == FOLDER and _folder(source, Path("/")) is None:
            fault = f"'{source.name}' lies in no folder: the datasets library keeps rows, not files"
            faults.append(Fault(SETTING, fault, "name a field of its rows"))
        elif by != FOLDER and not isinstance(source, RowFile):
            faults.append(
                Fault(SETTING, f"'{source.name}' has no rows, so no field '{by}'", f'write groups = "{FOLDER}"')
            )
    return faults


def groups_of(corpus: str, digests: np.ndarray, by: str, named: Sources, patterns: Sequence[str], data: Path) -> Groups:
    """Return the groups of the held-out documents with these digests (documents, 16), read off the sources once and then kept.

    corpus: its key. patterns: what the study names as held out, or as source. CheckFailed where a held-out document has no
    name of its group, or all are in one.
    """
    sources = named.held_texts or named.texts
    root = _root(patterns)
    names = key_of([_folder(source, root) for source in sources] if by == FOLDER else [])
    file = _file(data, corpus, by)
    if file.exists():
        kept = read_sealed(file, form=Grouped, cure="delete it to have it made again")
        if kept["names"] == names:
            return _opened(kept, by, len(digests))
    found_names = _names(sources, by, root, digests)
    if len(set(found_names)) < 2:
        fault = f"all {len(digests):,} held-out documents are of one group by {by} ({found_names[0]}): nothing is independent"
        raise CheckFailed(Fault(SETTING, fault, "remove it, hold out more, or name what tells documents apart"))
    listed = list(dict.fromkeys(found_names))
    place = {name: number for number, name in enumerate(listed)}
    numbers = [place[name] for name in found_names]
    kept = {"corpus": corpus, "by": by, "names": names, "groups": listed, "numbers": numbers}
    write_json(file, sealed(kept))
    return Groups(by, np.array(numbers, np.int64))


def recalled(corpus: str, documents: int, by: str, data: Path) -> Groups | None:
    """Return the groups as they were when the sources could last be read; None where they never were."""
    file = _file(data, corpus, by)
    if not file.exists():
        return None
    return _opened(read_sealed(file, form=Grouped, cure="delete it to have it made again"), by, documents)


def _file(data: Path, corpus: str, by: str) -> Path:
    return data / "groups" / f"{key_of([corpus, by])}.json"


def _opened(kept: Grouped, by: str, documents: int) -> Groups:
    numbers = np.array(kept["numbers"], np.int64)
    if numbers.shape != (documents,):
        fault = f"has groups of {numbers.size} held-out documents, and the corpus {kept['corpus']} has {documents}"
        raise CheckFailed(Fault(SETTING, fault, "delete the folder 'groups' of the store's data"))
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(kept["groups"]):
        fault = f"has documents of a group beyond the {len(kept['groups'])} that it names"
        raise CheckFailed(Fault(SETTING, fault, "delete the folder 'groups' of the store's data"))
    return Groups(by, numbers)


def _names(sources: Sequence[Source], by: str, root: Path, digests: np.ndarray) -> list[str]:
    """Return the name of each document's group. Equal documents that are held out more than once are met in source order."""
    wanted = [digest.tobytes() for digest in digests]
    met: dict[bytes, list[str]] = {digest: [] for digest in wanted}
    for source in sources:
        for place, text, name in _named(source, by, root):
            if text and (digest := digest_of(text.encode())) in met:
                met[digest].append(_name(name, place, by))
    taken = dict.fromkeys(met, 0)
    out = []
    for digest in wanted:
        if taken[digest] == len(met[digest]):
            raise CheckFailed(
                Fault(SETTING, "the sources changed while they were read", "run again when nothing writes")
            )
        out.append(met[digest][taken[digest]])
        taken[digest] += 1
    return out


def _named(source: Source, by: str, root: Path) -> Iterator[tuple[str, str | None, object]]:
    """Yield (place, text, what names its group) of every document."""
    if by != FOLDER:
        assert isinstance(source, RowFile)  # `refused` says so of others
        rows = source.values(by, SETTING)
        for (place, text), (_, value) in zip(source.documents(), rows, strict=True):
            yield place, text, value
        return
    folder = _folder(source, root)
    for place, text in source.documents():
        yield place, text, _package(place) if isinstance(source, PythonLibrary) else folder


def _name(value: object, place: str, by: str) -> str:
    if isinstance(value, str | int):
        return str(value)
    what = "missing" if value is None else type(value).__name__
    raise CheckFailed(Fault(place, f"'{by}' is {what}, which names no group", "give it a name, or remove data.groups"))


def _package(place: str) -> str:
    """Name the top package, or the module that stands alone: `python:json/decoder.py` is of json, the topics are pydoc's."""
    inside = place.removeprefix("python:")
    return (
        "python: pydoc_data" if inside.startswith("topic ") else f"python: {inside.split('/')[0].removesuffix('.py')}"
    )


def _folder(source: Source, root: Path) -> str | None:
    """Name the top folder below `root` in which a file lies; the file itself where it lies in none; None of what is no file."""
    if isinstance(source, PythonLibrary):
        return source.name
    if not isinstance(source, InFile) or source.name.startswith("hf:"):
        return None
    return Path(os.path.relpath(source.path, root)).parts[0]


def _root(patterns: Sequence[str]) -> Path:
    """Find the folder that holds everything the patterns look through."""
    roots = [root_of(one).absolute() for one in patterns if one not in ("python", "mock") and not one.startswith("hf:")]
    return Path(os.path.commonpath(roots)) if roots else Path("/")
