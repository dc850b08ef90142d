"""A hand-made Harmony dataset: four documents in two splits, with masks, spans and a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ablab.core.files import key_of, read_json, sha256_file, write_json
from ablab.data.formats.indexed import IndexedWriter

EOD = 199_999
# tokens of three documents; the labels (which speak of the next token) train on some of them
TRAIN = [([5, 6, 7, 8, EOD], [0, 1, 2, 0, 0]), ([9, 10, 11, EOD], [1, 1, 0, 0]), ([12, 13, EOD], [0, 2, 0])]
VALID = [([14, 15, 16, EOD], [0, 1, 2, 0])]


def write_prefix(stem: Path, documents: list[tuple[list[int], list[int]]]) -> dict[str, Any]:
    """STEM_tokens, _lossmask and _span; returns what a manifest says about the shard."""
    columns: dict[str, tuple[Any, list[list[int]]]] = {
        "tokens": (np.int32, [ids for ids, _ in documents]),
        "lossmask": (np.uint8, [[int(value > 0) for value in spans] for _, spans in documents]),
        "span": (np.uint8, [spans for _, spans in documents]),
    }
    for kind, (dtype, rows) in columns.items():
        with IndexedWriter(Path(f"{stem}_{kind}"), dtype) as writer:
            for row in rows:
                writer.add(row)
                writer.end_document()
    return {"name": stem.name, "rows": len(documents), "tokens": sum(len(ids) for ids, _ in documents), "files": {}}


def write_dataset(out: Path, tokenizer: str = "o200k_harmony", vocab_size: int = 201_088) -> Path:
    """The dataset at `out`."""
    shards = {
        "train": [
            write_prefix(out / "train/shard_00000", TRAIN[:2]),
            write_prefix(out / "train/shard_00001", TRAIN[2:]),
        ],
        "valid": [write_prefix(out / "valid/shard_00000", VALID)],
    }
    (out / "quarantine.jsonl").write_text('{"id": 1}\n')
    splits = {
        name: {"rows": sum(s["rows"] for s in found), "tokens": sum(s["tokens"] for s in found), "shards": found}
        for name, found in shards.items()
    }
    manifest = {
        "kind": "harmony",
        "tokenizer": {"name": tokenizer, "sha256": "00" * 32, "vocab_size": vocab_size},
        "splits": splits,
        "spans": {"reasoning": 4, "final": 3},
        "quarantined": 1,
        "quarantine": {"name": "quarantine.jsonl"},
    }
    return seal(out, manifest)


def seal(out: Path, manifest: dict[str, Any]) -> Path:
    """Write the manifest with the sizes and hashes of the files as they are now."""
    for split, entry in manifest["splits"].items():
        for shard in entry["shards"]:
            found = sorted((out / split).glob(f"{shard['name']}_*"))
            shard["files"] = {f"{split}/{file.name}": _entry(file) for file in found}
    manifest["quarantine"] |= _entry(out / "quarantine.jsonl")
    manifest["digest"] = key_of({name: value for name, value in manifest.items() if name != "digest"})
    write_json(out / "manifest.json", manifest)
    return out


def reseal(out: Path) -> None:
    """Hash files that were changed on purpose, so that only their content can be wrong."""
    seal(out, read_json(out / "manifest.json"))


def _entry(file: Path) -> dict[str, Any]:
    return {"size": file.stat().st_size, "sha256": sha256_file(file)}
