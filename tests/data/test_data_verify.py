"""verify(): every way in which token files can be wrong is found and named."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.built import EOD, reseal, seal, write_dataset, write_prefix
from tests.sharded import write_shard

from ablab.core.fault import CheckFailed
from ablab.core.files import read_json, write_json
from ablab.core.sealed import sealed
from ablab.data.formats.located import harmony_manifest, shards_of
from ablab.data.look import verify as verifying
from ablab.data.look.inspect import inspect
from ablab.data.look.verify import verify


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "out")


def said(place: Path, **settings: int) -> list[str]:
    """Faults, the folder left out of their places."""
    faults = verify(place, **settings)
    assert all(fault.cure for fault in faults)
    root = place if place.is_dir() else place.parent
    return [f"{fault.place}: {fault.fault}".replace(f"{root}/", "") for fault in faults]


def poke(path: Path, index: int, value: int, dtype: str) -> None:
    values = np.fromfile(path, dtype)
    values[index] = value
    values.tofile(path)


def test_a_sound_dataset_has_no_fault(dataset: Path) -> None:
    heard: list[str] = []
    assert verify(dataset, tell=heard.append) == []
    assert len(heard) == 3 * 7 + 1 and "train/shard_00001_span.idx" in heard and "quarantine.jsonl" in heard
    for prefix in ("shard_00000", "shard_00000_tokens", "shard_00000_tokens.bin", "shard_00000_tokens.idx"):
        assert verify(dataset / "train" / prefix) == []


def test_a_changed_byte_is_found_by_its_hash(dataset: Path) -> None:
    poke(dataset / "train/shard_00000_tokens.bin", 1, 99, "<i4")
    (fault,) = said(dataset)
    assert fault.startswith("train/shard_00000_tokens.bin: was changed: sha256 ")


def test_files_missing_cut_or_too_many(dataset: Path) -> None:
    (dataset / "train/shard_00001_span.idx").unlink()
    cut = dataset / "valid/shard_00000_tokens.bin"
    cut.write_bytes(cut.read_bytes()[:-4])
    (dataset / "train/shard_00002_tokens.bin").write_bytes(b"")
    (dataset / ".hidden").write_text("")
    assert said(dataset) == [
        "train/shard_00001_span.idx: is missing, though the manifest lists it",
        "valid/shard_00000_tokens.bin: has 12 bytes, the manifest says 16",
        "valid/shard_00000_tokens.bin: has 12 bytes, too short: shard_00000_tokens.idx counts 4 int32 tokens, 16 bytes",
        "train/shard_00002_tokens.bin: is not listed in manifest.json",
    ]


def test_a_manifest_that_was_edited(dataset: Path) -> None:
    manifest = read_json(dataset / "manifest.json")
    manifest["spans"]["final"] = 4
    write_json(dataset / "manifest.json", manifest)
    assert said(dataset) == ["manifest.json: was changed after it was written (its digest differs)"]
    seal(dataset, manifest)
    assert said(dataset) == ["manifest.json: has 3 tokens of final, the manifest says 4"]
    manifest["spans"]["final"] = 3
    manifest["quarantined"] = 2
    manifest["splits"]["valid"]["rows"] = 2
    seal(dataset, manifest)
    assert said(dataset) == [
        "manifest.json: valid has 1 documents, the manifest says 2",
        "quarantine.jsonl: has 1 rows, the manifest says 2",
    ]
    manifest["splits"]["train"]["shards"][1]["tokens"] = 4
    seal(dataset, manifest)
    assert "train/shard_00001_tokens: has 3 tokens, the manifest says 4" in said(dataset)


def drop(manifest: dict[str, Any]) -> None:
    manifest["splits"]["train"]["shards"].pop()


def rehash(manifest: dict[str, Any]) -> None:
    manifest["splits"]["valid"]["shards"][0]["files"]["valid/shard_00000_tokens.bin"]["sha256"] = "11" * 32


def unsign(manifest: dict[str, Any]) -> None:
    del manifest["digest"]


@pytest.mark.parametrize("edit", [drop, rehash, unsign])
def test_a_manifest_is_only_read_as_it_was_written(dataset: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    file = dataset / "manifest.json"
    manifest = read_json(file)
    assert harmony_manifest(file) == manifest
    edit(manifest)
    file.write_text(json.dumps(manifest))
    fault = "manifest.json: was changed after it was written (its digest differs)"
    for place in (dataset, dataset / "train/shard_00000"):
        with pytest.raises(CheckFailed, match=re.escape(f"{fault}; build the dataset again")):
            inspect(place)
        assert any(fault in one for one in said(place))


def test_a_manifest_with_a_number_that_is_none_is_not_read(dataset: Path) -> None:
    file = dataset / "manifest.json"
    manifest = read_json(file)
    manifest["spans"]["final"] = float("nan")
    file.write_text(json.dumps(manifest))
    with pytest.raises(CheckFailed, match=r"manifest\.json: cannot be read \(holds NaN, which is no JSON\)"):
        inspect(dataset)


def test_all_that_is_wrong_with_a_folder_is_said_at_once(dataset: Path) -> None:
    manifest = read_json(dataset / "manifest.json")
    drop(manifest)
    write_json(dataset / "manifest.json", manifest)
    (dataset / "train/shard_00000_span.idx").unlink()
    found = said(dataset)
    assert found[0] == "manifest.json: was changed after it was written (its digest differs)"
    assert "train/shard_00000_span.idx: is missing, though the manifest lists it" in found
    assert "train/shard_00001_tokens.bin: is not listed in manifest.json" in found


def test_a_manifest_of_something_else_above_a_prefix_is_none_of_its_build(dataset: Path) -> None:
    for text in ("{", "[]", '{"kind": "corpus"}'):
        (dataset / "manifest.json").write_text(text)
        assert verify(dataset / "train/shard_00000") == []


def test_a_manifest_of_another_shape_is_refused(dataset: Path) -> None:
    file = dataset / "manifest.json"
    manifest = read_json(file)
    outside = read_json(file)
    outside["splits"]["train"]["shards"][0]["name"] = "../../etc"
    absolute = read_json(file)
    absolute["splits"]["train"]["shards"][0]["files"]["/etc/passwd"] = {"size": 1, "sha256": "0"}
    nameless = read_json(file)
    del nameless["splits"]["train"]["shards"][0]["rows"]
    cases = [
        ({"kind": "corpus"}, "is of kind 'corpus', not 'harmony'"),
        ([], "is of kind None, not 'harmony'"),
        ({"kind": "harmony", "tokenizer": {}}, "does not hold splits"),
        ({**manifest, "splits": {"train": manifest["splits"]["train"]}}, "does not hold splits (train, valid)"),
        (
            {**manifest, "splits": {**manifest["splits"], "../x": manifest["splits"]["train"]}},
            "holds the split '../x'; known: train, valid",
        ),
        ({**manifest, "tokenizer": {"name": "x"}}, "does not hold tokenizer.sha256"),
        ({**manifest, "tokenizer": {"sha256": ""}}, "names no sha256 of the tokenizer that made it"),
        ({**manifest, "splits": {"train": {}, "valid": {}}}, "does not hold splits.train.rows"),
        (outside, "lists '../../etc', which lies outside of the folder"),
        (absolute, "lists '/etc/passwd', which lies outside of the folder"),
        (nameless, "does not hold splits.train.shards[0].rows"),
    ]
    for value, fault in cases:
        write_json(file, sealed(value) if isinstance(value, dict) else value)
        assert said(dataset) == [f"manifest.json: {fault}"]
        with pytest.raises(CheckFailed, match=re.escape(f"manifest.json: {fault}; ")):
            shards_of(harmony_manifest(file), file)
    file.write_text("{")
    (found,) = said(dataset)
    assert found.startswith("manifest.json: cannot be read")
    del manifest["quarantine"]["size"]
    write_json(file, manifest)
    assert "manifest.json: does not list the quarantine with name, size and sha256" in said(dataset)
    manifest["quarantine"] |= {"name": "../secret", "size": 1}
    manifest["digest"] = ""
    write_json(file, manifest)
    assert any("lists '../secret', which lies outside of the folder" in fault for fault in said(dataset))


def test_labels_that_mean_nothing(dataset: Path) -> None:
    # labels of shard 0: mask 0 1 1 0 0 | 1 1 0 0, span 0 1 2 0 0 | 1 1 0 0
    stem = dataset / "train/shard_00000"
    poke(Path(f"{stem}_lossmask.bin"), 1, 2, "u1")
    poke(Path(f"{stem}_span.bin"), 2, 3, "u1")
    poke(Path(f"{stem}_span.bin"), 6, 4, "u1")
    reseal(dataset)
    assert said(dataset) == [
        "train/shard_00000_lossmask.bin: value 1 is 2, not 0 or 1",
        "train/shard_00000_span.bin: value 2 is 3, not 0 (none), 1 (reasoning) or 2 (final)",
    ]


def test_mask_and_span_must_agree(dataset: Path) -> None:
    stem = dataset / "train/shard_00000"
    poke(Path(f"{stem}_lossmask.bin"), 6, 0, "u1")
    reseal(dataset)
    assert said(dataset) == ["train/shard_00000_span.bin: label 6 has mask 0 and span 1; both are 0 or neither is"]


def test_the_last_label_has_nothing_to_speak_of(dataset: Path) -> None:
    stem = dataset / "train/shard_00000"
    for kind, value in (("lossmask", 1), ("span", 2)):
        poke(Path(f"{stem}_{kind}.bin"), 8, value, "u1")
    reseal(dataset)
    manifest = said(dataset)
    assert manifest == [
        "train/shard_00000_lossmask.bin: document 1 ends in label 1; nothing follows it, so it must be 0",
        "train/shard_00000_span.bin: document 1 ends in label 2; nothing follows it, so it must be 0",
    ]
    assert [fault.replace("train/", "") for fault in manifest] == said(dataset / "train/shard_00000")


@pytest.mark.parametrize("piece", [2, 1 << 22])
def test_ids_and_ends_of_documents(dataset: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(verifying, "_PIECE", piece)
    tokens = dataset / "train/shard_00000_tokens.bin"
    poke(tokens, 8, 201_088, "<i4")
    poke(tokens, 2, EOD, "<i4")
    reseal(dataset)
    assert said(dataset) == [
        "train/shard_00000_tokens.bin: token 8 is 201088, outside of the vocabulary of 201,088",
        f"train/shard_00000_tokens.bin: document 1 ends in 201088, not in EOD {EOD}",
        f"train/shard_00000_tokens.bin: EOD {EOD} stands 1 times inside of documents",
    ]
    poke(tokens, 0, -1, "<i4")
    assert "shard_00000_tokens.bin: token 0 is -1, outside of the vocabulary of 201,088" in said(tokens)


def test_a_sidecar_one_token_short(dataset: Path) -> None:
    write_prefix(dataset / "other", [([5, 6, 7, 8, EOD], [0, 1, 2, 0, 0]), ([9, 10, EOD], [1, 1, 0])])
    for end in ("bin", "idx"):
        (dataset / f"other_lossmask.{end}").replace(dataset / f"train/shard_00000_lossmask.{end}")
        (dataset / f"other_tokens.{end}").unlink()
        (dataset / f"other_span.{end}").unlink()
    reseal(dataset)
    assert said(dataset) == [
        "train/shard_00000_lossmask.idx: gives sequence 1 3 values, shard_00000_tokens has 4 tokens"
    ]


def test_a_build_needs_its_sidecars(dataset: Path) -> None:
    for file in (dataset / "valid").glob("*_[ls]*"):
        if "tokens" not in file.name:
            file.unlink()
    reseal(dataset)
    assert said(dataset) == ["valid/shard_00000_tokens: has no shard_00000_lossmask and _span beside it"]


def test_an_empty_document_in_a_build(dataset: Path) -> None:
    write_prefix(dataset / "train/shard_00001", [([12, 13, EOD], [0, 2, 0]), ([], [])])
    assert "shard_00001_tokens.bin: document 1 is empty" in said(dataset / "train/shard_00001")


def test_plain_prefixes_need_no_build(tmp_path: Path) -> None:
    write_prefix(tmp_path / "a", [([1, 2, 3], [0, 0, 0])])
    for kind in ("lossmask", "span"):
        for end in ("bin", "idx"):
            (tmp_path / f"a_{kind}.{end}").unlink()
    assert verify(tmp_path / "a") == []
    assert said(tmp_path / "a", vocab_size=3) == ["a_tokens.bin: token 2 is 3, outside of the vocabulary of 3"]


def test_shards_and_their_sidecars(tmp_path: Path) -> None:
    path = tmp_path / "fineweb_val_000000.bin"
    write_shard(path, [1, 2, 3])
    write_shard(tmp_path / "fineweb_val_bytes_000000.bin", [0, 4, 5])
    assert verify(path) == verify(path, vocab_size=4) == []
    assert said(path, vocab_size=3) == ["fineweb_val_000000.bin: token 2 is 3, outside of the vocabulary of 3"]
    write_shard(tmp_path / "fineweb_val_bytes_000000.bin", [0, 4])
    assert said(path) == ["fineweb_val_bytes_000000.bin: has 2 counts, fineweb_val_000000.bin has 3 tokens"]
    path.write_bytes(path.read_bytes()[:-2])
    assert said(path)[0].startswith("fineweb_val_000000.bin: has 1,028 bytes, its header counts 3 tokens")


def test_an_id_below_0_is_a_fault_without_a_vocabulary_too(tmp_path: Path) -> None:
    write_prefix(tmp_path / "a", [([1, -2, 3], [0, 0, 0])])
    assert said(tmp_path / "a") == ["a_tokens.bin: token 1 is -2, below 0"]


@pytest.mark.parametrize("name", ["a.parquet", "a.bin.gz", "a"])
def test_only_bin_files_are_shards(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"PAR1PAR1")
    (fault,) = verify(path)
    assert fault.fault == f"has the suffix '{path.suffix}', which no token file has"
    assert fault.cure == "name a .bin shard, a .bin/.idx prefix, or the folder of a build"
    with pytest.raises(CheckFailed, match="which no token file has"):
        inspect(path)


def test_places_that_are_nothing(tmp_path: Path) -> None:
    assert said(tmp_path / "x") == [
        "x: is no prefix (there is no x.idx and no x_tokens.idx), no file and no folder",
    ]
    assert [fault.fault for fault in verify(tmp_path)] == ["is a folder without manifest.json"]
    (tmp_path / "z.bin").write_bytes(b"\1\0")
    assert said(tmp_path / "z.bin") == []
    assert said(tmp_path / "z") == ["z.idx: is missing, though z.bin is there: half-written"]
    (tmp_path / "y_tokens.bin").write_bytes(b"")
    assert said(tmp_path / "y") == ["y_tokens.idx: is missing, though y_tokens.bin is there: half-written"]
