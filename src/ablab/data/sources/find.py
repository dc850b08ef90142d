"""What data.source and data.valid_source name: texts, or token files, never both in one study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ablab.core.fault import Fault, InvalidStudy
from ablab.core.kinds import instead
from ablab.core.opened import no_file
from ablab.core.patterns import literal, matched
from ablab.data.formats.parts import TokenFile, is_sidecar, parts_at
from ablab.data.sources.hub import arrow_files
from ablab.data.sources.sources import SEPARATOR, Arrow, JsonLines, Mock, Parquet, PythonLibrary, Source, TextFile

KNOWN = (
    "known: .jsonl (.jsonl.gz, .jsonl.zst), .parquet, .arrow, .txt, .md, token files (.bin, a Megatron prefix, a "
    'built folder), "hf:NAME", and the words "mock", "python"'
)


@dataclass
class Sources:
    """Sources in the order given: texts, or token files; `held` are those that were named as held out."""

    texts: list[Source] = field(default_factory=list)
    parts: list[TokenFile] = field(default_factory=list)
    held_texts: list[Source] = field(default_factory=list)
    held_parts: list[TokenFile] = field(default_factory=list)


def find(
    patterns: Sequence[str], text_field: str, valid: Sequence[str] | None = None, separator: str = SEPARATOR
) -> Sources:
    """Find the sources that `patterns` (and `valid`) name: words, paths and globs (sorted; ** goes deeper), in the order given.

    InvalidStudy with every pattern that matches nothing, is a folder without a manifest, or ends in an unknown suffix, and
    where texts and token files are mixed or held-out files are named beside a folder that has its own.
    """
    sources, faults = Sources(), list[Fault]()
    sources.texts, sources.parts, sources.held_parts = _named(patterns, text_field, "data.source", faults, separator)
    if valid is not None:
        sources.held_texts, parts, _ = _named(valid, text_field, "data.valid_source", faults, separator)
        if sources.held_parts:
            fault = "names held-out files, and the folder in data.source has its own"
            faults.append(Fault("data.valid_source", fault, "remove it, or name the folder's training files"))
        sources.held_parts = parts or sources.held_parts
    text, tokens = bool(sources.texts or sources.held_texts), bool(sources.parts or sources.held_parts)
    if text and tokens:
        faults.append(Fault("data.source", "mixes texts and token files", "give sources of one kind"))
    if faults:
        raise InvalidStudy(faults)
    return sources


def _named(
    patterns: Sequence[str], text_field: str, place: str, faults: list[Fault], separator: str
) -> tuple[list[Source], list[TokenFile], list[TokenFile]]:
    """Find texts, token files, and the held-out token files of built folders."""
    texts, parts, held = list[Source](), list[TokenFile](), list[TokenFile]()
    if not patterns:
        faults.append(Fault(place, "names nothing", 'write "python", or a .txt, .jsonl or .parquet file'))
    for pattern in patterns:
        if pattern in ("python", "mock"):
            texts.append(PythonLibrary() if pattern == "python" else Mock())
        elif pattern.startswith("hf:"):
            for one in arrow_files(pattern, place):
                texts.append(Arrow(one.path, one.name, text_field, None if one.whole else (one.start, one.stop)))
        elif (alone := _alone(pattern, place)) is not None:
            _add(alone, parts, held, faults)
        else:
            for path in _matched(pattern, place, faults):
                read = _file(path, text_field, place, separator)
                if isinstance(read, Fault | tuple):
                    _add(read, parts, held, faults)
                else:
                    texts.append(read)
    return texts, parts, held


def _alone(pattern: str, place: str) -> tuple[list[TokenFile], list[TokenFile]] | Fault | None:
    """Find token files that go by the very name `pattern`: a prefix is no file, and a name with brackets is a name."""
    path = literal(pattern)
    return None if path is None else parts_at(path, place)


def _matched(pattern: str, place: str, faults: list[Fault]) -> list[Path]:
    paths = matched(pattern)
    kept = [path for path in paths if not is_sidecar(path)] if len(paths) > 1 else paths
    if not kept:
        faults.append(Fault(place, f"'{pattern}' matches no file", 'check the path; "python" needs none'))
    return kept


def _add(
    one: tuple[list[TokenFile], list[TokenFile]] | Fault,
    parts: list[TokenFile],
    held: list[TokenFile],
    faults: list[Fault],
) -> None:
    if isinstance(one, Fault):
        faults.append(one)
    else:
        parts += one[0]
        held += one[1]


def _file(
    path: Path, text_field: str, place: str, separator: str
) -> Source | tuple[list[TokenFile], list[TokenFile]] | Fault:
    tokens = parts_at(path, place)
    if tokens is not None:
        return tokens
    if said := no_file(path):
        return Fault(place, f"'{path}' {said}", "give a file")
    if path.suffixes[-2:] in ([".jsonl", ".gz"], [".jsonl", ".zst"]):
        return JsonLines(path, text_field=text_field)
    match path.suffix:
        case ".txt" | ".md":
            return TextFile(path, separator=separator)
        case ".jsonl":
            return JsonLines(path, text_field=text_field)
        case ".parquet":
            return Parquet(path, text_field=text_field)
        case ".arrow":
            return Arrow(path, text_field=text_field)
    if path.suffix in (".html", ".htm"):
        return Fault(
            place, f"'{path}' is a page of the web", "call it .txt where pages are to be learned, else give its text"
        )
    if (other := instead(path)) is not None:
        return Fault(place, f"'{path}' {other.what}", other.cure)
    return Fault(place, f"'{path}' has the suffix '{path.suffix}', which has no reader", KNOWN)
