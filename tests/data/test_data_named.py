"""What a study's file names is what is read: slices, replaced files, both formats of Arrow, files that are something else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pytest
from tests.data.harmony.building import build, here, quiet, synth
from tests.data.tiny import settings
from tests.sharded import write_shard

from ablab.core import inputs
from ablab.core.fault import InvalidStudy, Refused
from ablab.data import prepare
from ablab.data.harmony import crew
from ablab.data.pieces import read
from ablab.data.sources.find import find
from ablab.data.tokenizers.bytes import Bytes

HALVES = """
import sys
from pathlib import Path
from ablab.data import prepare
from ablab.study import load
study = load(Path(sys.argv[1]))
counts = prepare(study.baseline.settings["data"], Path(sys.argv[2]), lambda _: None).manifest["counts"]
print(counts["train_documents"], counts["valid_documents"], counts.get("also_trained_documents"))
"""
STUDY = """
study = { name = "s", question = "?" }
decision = { metric = "bits_per_byte", stage = "pre_quant", matters = 0.01, seeds = 2 }
budget = { tokens = 2048, batch_tokens = 128 }
model = { layers = "G", d_model = 16, n_heads = 2, seq_len = 32, global = { position = "rope" } }
train = { optimizer = { name = "adamw", lr = 2e-3 } }
[data]
source = "hf:./data:train[:%s%%]"
valid_source = "hf:data:train[90%%:]"
[arm.sink]
model.softmax = "sink"
"""


@pytest.mark.parametrize(("part", "wanted"), [("90", "1800 200 0"), ("95", "1900 100 100")])
def test_two_parts_of_one_split_beside_the_study_file(tmp_path: Path, part: str, wanted: str) -> None:
    folder = tmp_path / "study"
    (folder / "data").mkdir(parents=True)
    rows = (json.dumps({"text": f"Story {i}: the cat saw {i * i} birds."}) + "\n" for i in range(2000))
    (folder / "data" / "train.jsonl").write_text("".join(rows))
    (folder / "s.toml").write_text(STUDY % part)
    places = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [
        sys.executable,
        "-c",
        HALVES,
        folder / "s.toml",
        tmp_path / "out",
    ]  # from another folder than the study's
    done = subprocess.run(
        command, env={**os.environ, **places}, capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.stdout.splitlines()[-1:] == [wanted], done.stderr


def test_a_shard_that_takes_anothers_name_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of equal size and time, as tar and rsync -t leave them; other documents begin elsewhere in it."""

    def ids(first: int, last: int) -> np.ndarray:
        texts = [f"Document {i} says {'more ' * (i % 7)}" for i in range(first, last)]
        return np.concatenate([np.r_[Bytes.bos_id, Bytes().encode(text)[0]] for text in texts])

    size = min(len(ids(0, 300)), len(ids(3_003, 3_310)))
    old, new = tmp_path / "x_train_0.bin", tmp_path / "x_train_1.bin"
    write_shard(old, ids(0, 300)[:size]), write_shard(new, ids(3_003, 3_310)[:size])
    write_shard(tmp_path / "x_val_0.bin", ids(900, 950))
    for file in (old, new):
        os.utime(file, (1_600_000_000,) * 2)
    now = time.time_ns
    monkeypatch.setattr(inputs.time, "time_ns", lambda: now() + 100_000_000_000)  # long after both were written
    asked = settings(str(old), valid_source=[str(tmp_path / "x_val_0.bin")], valid_fraction=0.01)
    first = prepare(asked, tmp_path / "out", lambda _: None)
    new.replace(old)
    second = prepare(asked, tmp_path / "out", lambda _: None)
    assert first.key != second.key
    for corpus, start in ((first, 0), (second, 3_003)):
        tokens = np.concatenate(corpus.tokens.parts)  # type: ignore[union-attr]
        begins = tokens[corpus.documents]
        assert (begins == Bytes.bos_id).all() and len(begins) == (tokens == Bytes.bos_id).sum()
        assert (
            corpus.tokenizer.decode(tokens[: int(corpus.documents[1])])
            == f"Document {start} says {'more ' * (start % 7)}"
        )


@pytest.mark.parametrize("kind", ["stream", "file", "feather", "feather, zstd"])
def test_a_build_reads_both_formats_of_arrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(crew, "make", here)
    rows, path = synth(40), tmp_path / "rows.arrow"
    table = pa.Table.from_pylist(rows)
    if kind.startswith("feather"):
        packed = "zstd" if kind.endswith("zstd") else "uncompressed"
        pa.feather.write_feather(table, path, compression=packed, chunksize=7)
    else:
        with pa.OSFile(str(path), "wb") as file:
            make = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
            with make(file, table.schema) as written:
                written.write_table(table, max_chunksize=11)
    manifest = build([str(path)], tmp_path / "out", rows_per_shard=9, check_every=0, valid_fraction=0, say=quiet)
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    again = build([str(lines)], tmp_path / "again", rows_per_shard=9, check_every=0, valid_fraction=0, say=quiet)
    assert manifest["splits"] == again["splits"], "the same files, byte for byte"
    for cut in (20, 400):
        (tmp_path / "cut.arrow").write_bytes(path.read_bytes()[:cut])
        with pytest.raises(Refused, match=r"cut\.arrow: cannot be read"):
            build([str(tmp_path / "cut.arrow")], tmp_path / "none", say=quiet)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
PAGE = "\n<!DOCTYPE html>\n<html><body>404: Not Found</body></html>"


@pytest.mark.parametrize(("content", "said"), [(POINTER, "is a pointer of git-lfs"), (PAGE, "is a page of the web")])
def test_what_was_fetched_in_place_of_a_file_is_called_so(tmp_path: Path, content: str, said: str) -> None:
    for name in ("a.jsonl", "a.parquet", "a.arrow", "a.csv", "a.bin"):
        (tmp_path / name).write_text(content)
        with pytest.raises(Refused, match=said):
            prepare(settings(str(tmp_path / name)), tmp_path / "out", lambda _: None)
        if name != "a.bin":
            with pytest.raises(Refused, match=said):
                build([str(tmp_path / name)], tmp_path / "none", say=quiet)
    (tmp_path / "a.model").write_text(content)
    with pytest.raises(ValueError, match=said):
        read(tmp_path / "a.model")


def test_compressed_text_is_called_so(tmp_path: Path) -> None:
    import gzip

    for name in ("a.csv.gz", "a.jsonl", "a.txt"):
        (tmp_path / name).write_bytes(gzip.compress(b'{"text": "a"}\n' * 99))
        with pytest.raises(Refused, match="is compressed with gzip; unpack it and name NEW: gunzip -c ") as refused:
            prepare(settings(str(tmp_path / name)), tmp_path / "out", lambda _: None)
        command = refused.value.faults[0].cure.partition("NEW: ")[2].replace("NEW", str(tmp_path / "new.jsonl"))
        subprocess.run(command, shell=True, check=True)
        assert (tmp_path / "new.jsonl").read_bytes() == b'{"text": "a"}\n' * 99
    with pytest.raises(InvalidStudy, match=r"has the suffix '\.csv', which has no reader; known"):
        (tmp_path / "a.csv").write_text("text\na\n")
        find([str(tmp_path / "a.csv")], "text")
