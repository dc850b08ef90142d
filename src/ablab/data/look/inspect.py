"""inspect(): what token files hold, in numbers and one document to look at; show() prints it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from ablab.core.fault import CheckFailed, Fault
from ablab.core.lever import Choice
from ablab.data.formats.indexed import Indexed, open_indexed, open_sidecars
from ablab.data.formats.located import MANIFEST, locate, prefix_of, shards_of
from ablab.data.formats.shards import bytes_sidecar, is_golf, read_shard
from ablab.data.look.excerpt import MARKS, Passage, Speller, decoder, runs
from ablab.data.look.looks import right_width
from ablab.data.look.shown import BuildFacts, Excerpt, FileFacts, Numbers, show
from ablab.data.spans import NAMES
from ablab.data.tokenizers.tokenizer import Tokenizer
from ablab.records.harmony import Carried, HarmonyManifest

__all__ = ["inspect", "show"]
LIMIT = 1000  # tokens of the document that are shown
_QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99}
_PIECE = 1 << 22


def inspect(
    place: Path | str, *, document: int = 0, tokenizer: str | Choice | Tokenizer | None = None, limit: int = LIMIT
) -> FileFacts | BuildFacts:
    """Describe the data at `place` (see locate), JSON-able: counts, lengths, tokens per span, and one document.

    `tokenizer`: a lever's name, its settings or the lever itself, to show text; a build's own is used where none is
    given. CheckFailed where the data is broken or has no such document.
    """
    located = locate(place)
    words = decoder(tokenizer, located.manifest)
    if located.kind == "shard":
        return _shard(located.path, document, words, limit)
    if located.kind == "megatron":
        facts = _prefixes([located.path], document, words, limit)
        return {"kind": "megatron", "place": str(located.path), **facts}
    assert located.manifest is not None
    return _folder(located.path, located.manifest, document, words, limit)


def _folder(folder: Path, manifest: HarmonyManifest, document: int, words: Speller, limit: int) -> BuildFacts:
    listed: dict[str, list[Path]] = {split: [] for split in manifest["splits"]}
    for split, shard in shards_of(manifest, folder / MANIFEST):
        listed[split].append(prefix_of(folder, split, shard))
    full = [split for split, prefixes in listed.items() if prefixes]
    if not full:
        raise CheckFailed(Fault(str(folder / MANIFEST), "lists no shard", "build the dataset again"))
    facts = {split: _prefixes(prefixes, document, words, limit, split == full[0]) for split, prefixes in listed.items()}
    sample = facts[full[0]].pop("sample")
    about = cast(Carried, {name: value for name, value in manifest.items() if name in Carried.__annotations__})
    made: dict[str, object] = {name: manifest["tokenizer"].get(name) for name in ("name", "sha256", "vocab_size")}
    return {
        "kind": "harmony",
        "place": str(folder),
        "tokenizer": made,
        **about,
        "splits": facts,
        "sample": {**sample, "split": full[0]},
    }


def _prefixes(prefixes: Sequence[Path], document: int, words: Speller, limit: int, with_sample: bool = True) -> Numbers:
    """Describe one or more prefixes together."""
    datas = [open_indexed(prefix) for prefix in prefixes]
    sides = [open_sidecars(data) for data in datas]
    lengths = [np.diff(data.document_starts()) for data in datas]
    facts: Numbers = {
        "shards": len(datas),
        "documents": sum(data.n_documents for data in datas),
        "sequences": sum(map(len, datas)),
        "tokens": sum(len(data.tokens) for data in datas),
        "dtype": sorted({data.dtype.name for data in datas}),
        "largest_id": max((_largest(data.tokens) for data in datas), default=-1),
        "lengths": _quantiles(np.concatenate(lengths) if lengths else np.empty(0, np.int64)),
    }
    if any(data.modes is not None for data in datas):
        facts["modes"] = "multimodal, every sequence is text"
    labelled = [both for both in sides if both is not None]
    if labelled and len(labelled) == len(datas):
        masks = sum((_counts(mask.tokens, 2) for mask, _ in labelled), np.zeros(3, np.int64)).tolist()
        spans = sum((_counts(span.tokens, 3) for _, span in labelled), np.zeros(4, np.int64)).tolist()
        facts["trained"] = masks[1]
        facts["spans"] = dict(zip(NAMES, spans))
        odd = {"loss masks are neither 0 nor 1": masks[2], "spans are none of 0, 1, 2": spans[3]}
        if spans[3]:
            facts["spans"]["unknown"] = spans[3]
        if any(odd.values()):
            facts["warnings"] = [f"{count:,} {what}" for what, count in odd.items() if count]
    if with_sample:
        facts["sample"] = _sample(datas, sides, document, words, limit)
    return facts


def _sample(
    datas: Sequence[Indexed],
    sides: Sequence[tuple[Indexed, Indexed] | None],
    document: int,
    words: Speller,
    limit: int,
) -> Excerpt:
    at = _checked(document, sum(data.n_documents for data in datas), str(datas[0].prefix))
    which = 0
    while at >= datas[which].n_documents:
        at -= datas[which].n_documents
        which += 1
    ids, both = datas[which].document(at), sides[which]
    marks = None
    if both is not None:
        mask, span = both[0].document(at), both[1].document(at)
        # labels speak of the next token: the mark of a token is the label before it, the first one has none
        marks = np.zeros(len(ids), np.int64)
        marks[1:] = np.where(mask[:-1] == 0, 0, np.where(np.isin(span[:-1], (1, 2)), span[:-1], 3))
        marks[1:][~np.isin(mask[:-1], (0, 1)) | ~np.isin(span[:-1], (0, 1, 2))] = MARKS.index("unknown")
    return _shown(document, datas[which].prefix.name, ids, marks, words, limit)


def _shown(document: int, name: str, ids: np.ndarray, marks: np.ndarray | None, words: Speller, limit: int) -> Excerpt:
    cut = max(0, min(limit, len(ids)))
    passages: list[Passage] = runs(ids[:cut], None if marks is None else marks[:cut], words)
    return {
        "document": document,
        "file": name,
        "tokens": len(ids),
        "shown": cut,
        "ids": ids[:8].tolist(),
        "marked": marks is not None,
        "note": words.note,
        "runs": [run.shown() for run in passages],
    }


def _shard(path: Path, document: int, words: Speller, limit: int) -> FileFacts:
    tokens, sizes = read_shard(path), bytes_sidecar(path)
    right_width(path, tokens)  # what is shown otherwise are halves of tokens
    facts: FileFacts = {
        "kind": "golf" if is_golf(path) else "plain",
        "place": str(path),
        "documents": None,  # a shard does not say where documents begin; a tokenizer's BOS does
        "tokens": len(tokens),
        "dtype": [tokens.dtype.name],
        "largest_id": _largest(tokens),
    }
    starts = np.zeros(1, np.int64)
    if words.bos_id is not None:
        begun = [np.flatnonzero(piece == words.bos_id) + i * _PIECE for i, piece in enumerate(_pieces(tokens))]
        starts = np.unique(np.concatenate([starts, *begun])) if len(tokens) else starts[:0]
        ends = np.append(starts[1:], len(tokens)) if len(starts) else starts
        facts["documents"], facts["lengths"] = len(starts), _quantiles(ends - starts)
    if sizes is not None:
        facts["bytes"] = sum(int(piece.sum(dtype=np.int64)) for piece in _pieces(sizes))
    at = _checked(document, len(starts), str(path)) if len(tokens) else 0
    end = int(starts[at + 1]) if at + 1 < len(starts) else len(tokens)
    piece = np.asarray(tokens[int(starts[at]) : end]) if len(tokens) else np.empty(0, np.int64)
    facts["sample"] = _shown(document, path.name, piece, None, words, limit)
    return facts


def _checked(document: int, count: int, place: str) -> int:
    if not 0 <= document < count:
        raise CheckFailed(Fault(place, f"has no document {document}: there are {count:,}", "count from 0"))
    return document


def _quantiles(lengths: np.ndarray) -> dict[str, float]:
    if not len(lengths):
        return {}
    middle = np.quantile(lengths, list(_QUANTILES.values())).tolist()
    ends = {"min": int(lengths.min()), "max": int(lengths.max()), "mean": float(lengths.mean())}
    return {"min": ends["min"], **dict(zip(_QUANTILES, middle)), "max": ends["max"], "mean": ends["mean"]}


def _counts(labels: np.ndarray, known: int) -> np.ndarray:
    """Count how many are 0, 1 and so on below `known`, and how many are none of them."""
    counts = np.zeros(known + 1, np.int64)
    for piece in _pieces(labels):
        counts += np.bincount(np.where((piece >= 0) & (piece < known), piece, known), minlength=known + 1)
    return counts


def _largest(tokens: np.ndarray) -> int:
    return max((int(piece.max()) for piece in _pieces(tokens)), default=-1)


def _pieces(values: np.ndarray) -> Iterable[np.ndarray]:
    for first in range(0, len(values), _PIECE):
        yield np.asarray(values[first : first + _PIECE])
