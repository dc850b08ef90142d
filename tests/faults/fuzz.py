"""Valid files of every kind that a stranger may hand over, changed at random, and what reads them.

    python -P tests/faults/fuzz.py FOLDER COUNT SEED [KIND ...]

Reading may succeed or refuse; anything else is printed, a JSON line for each: another exception, SECONDS of one reading, more
memory than MEMORY. A crash of the interpreter or a reading that hangs ends the process: the last line then says at what.
"""

from __future__ import annotations

import copy
import faulthandler
import hashlib
import json
import random
import resource
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = 60.0  # of the clock, which a busy core stretches; a reading takes milliseconds
MEMORY = 2_000_000  # kB that reading may take on top of what the program has
NUMBERS = (0, 1, -1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, -(2**63), 10**12)
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 2**40, 2**63, 10**30, 1e308, -0.5, "", "x", "../../x", "\udc80", "\x1b[2J", [], {}, [[]], [{}],
    [None], {"x": None}, {"": []}, [1] * 50,
)  # fmt: skip


def bytes_changed(data: bytes, draw: random.Random) -> bytes:
    """One to four changes: bits, bytes, a cut, a splice, a copy, a huge number in a field or in digits."""
    out = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(out)) if out else 0
        if draw.random() < 0.5:  # headers are where lies are told
            at = min(at, draw.randrange(256))
        match draw.randrange(8):
            case 0 if out:
                out[at] ^= 1 << draw.randrange(8)
            case 1 if out:
                out[at] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
            case 2:
                del out[draw.choice((at, len(out) // 2, max(0, len(out) - draw.randint(1, 16)))) :]
            case 3:
                other = draw.randrange(len(out) + 1)
                out[at:at] = out[other : other + draw.randint(1, 200)]
            case 4:
                del out[at : at + draw.randint(1, 64)]
            case 5:
                wide = draw.choice((2, 4, 8))
                number = draw.choice(NUMBERS) & ((1 << 8 * wide) - 1)
                out[at : at + wide] = number.to_bytes(wide, draw.choice(("little", "big")))
            case 6:
                digits = [i for i, byte in enumerate(out[:4096]) if 48 <= byte < 58]
                if digits:
                    at = draw.choice(digits)
                    out[at : at + 1] = str(draw.choice(NUMBERS)).encode()
            case _:
                out[at:at] = draw.choice((b"[" * 500, b"{" * 100, b'"', b"\0" * 40, b"9" * 400, b"\xff" * 20, b"/../"))
    return bytes(out)


def json_changed(data: bytes, draw: random.Random) -> bytes:
    """One to three values of a record replaced, taken away or put elsewhere, under a digest that fits."""
    from ablab.core.files import key_of

    record = json.loads(data)
    for _ in range(draw.randint(1, 3)):
        at: Any = record
        while True:
            places = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not places:
                break
            place = draw.choice(places)
            inside = at[place]
            if isinstance(inside, dict | list) and inside and draw.random() < 0.7:
                at = inside
            elif draw.random() < 0.15:
                del at[place]
                break
            else:
                at[place] = copy.deepcopy(draw.choice((*ODD, *(at.values() if isinstance(at, dict) else at))))
                break
    if isinstance(record, dict) and "digest" in record:
        record["digest"] = key_of({name: value for name, value in record.items() if name != "digest"})
    return json.dumps(record).encode()


class Kind:
    """`path`: a valid file. read(path): what reads it. change: how it is changed. restore: what lies there afterwards."""

    def __init__(
        self, path: Path, read: Callable[[Path], Any], change: Callable[[bytes, random.Random], bytes] = bytes_changed
    ) -> None:
        self.path, self.read, self.change, self.whole = path, read, change, path.read_bytes()


def texts(folder: Path) -> dict[str, Kind]:
    """Studies, lines and tables of text."""
    import pyarrow
    import pyarrow.feather
    import pyarrow.parquet

    from ablab.core.inputs import Inputs
    from ablab.data.harmony import rows as harmony
    from ablab.data.sources.find import find
    from ablab.study import load

    draw = random.Random(5)
    rows = [{"text": f"document {i} " + "".join(draw.choices("abcde \n\u00e9", k=40))} for i in range(60)]
    talk = {
        "synth_id": [f"i{i}" for i in range(60)],
        **{name: [f"{name} {i}" for i in range(60)] for name in harmony.SYNTH[1:]},
    }
    table = pyarrow.table({"text": [row["text"] for row in rows], **talk})
    pyarrow.parquet.write_table(table, folder / "a.parquet", row_group_size=20)
    pyarrow.feather.write_feather(table, folder / "a.arrow", compression="uncompressed")
    with pyarrow.OSFile(str(folder / "b.arrow"), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "a.txt").write_text("\n".join(row["text"] for row in rows))
    here = Path(__file__).resolve().parents[2] / "studies"
    shutil.copy(here / "global_position.toml", folder / "study.toml")

    def read(path: Path) -> None:
        for source in find([str(path)], "text").texts:
            source.describe(Inputs(folder / "memo.json"))
            for _ in source.documents():
                pass

    def talks(path: Path) -> None:
        harmony.find([str(path)], Inputs(folder / "memo.json"))

    kinds = {name: Kind(folder / name, read) for name in ("a.jsonl", "a.txt", "a.parquet", "a.arrow", "b.arrow")}
    (folder / "talk.jsonl").write_text(
        "".join(json.dumps({k: v[i] for k, v in talk.items()}) + "\n" for i in range(60))
    )
    kinds |= {f"harmony {name}": Kind(folder / name, talks) for name in ("a.parquet", "a.arrow", "talk.jsonl")}
    return {**kinds, "study": Kind(folder / "study.toml", load)}


def tokens(folder: Path) -> dict[str, Kind]:
    """Shards, indices, prepared corpora, tokenizers."""
    from tests.data.tiny import settings
    from tests.sharded import write_shard

    from ablab.data import open_corpus, pieces, prepare
    from ablab.data.formats.index_writer import IndexedWriter
    from ablab.data.formats.indexed import open_indexed
    from ablab.data.formats.shards import read_shard
    from ablab.data.tokenizers.case_ops import CaseOps

    write_shard(folder / "golf.bin", np.arange(500) % 300)
    with IndexedWriter(folder / "mega", np.dtype("<u2")) as writer:
        for length in (3, 0, 5, 90):
            writer.add(np.arange(length))
            writer.end_document()
    (folder / "t.model").write_bytes(pieces.train(["the quick brown fox jumps over the lazy dog"] * 20, 290))
    case = CaseOps(vocab_size=300)
    case.train(["The quick BROWN fox jumps over the lazy Dog"] * 20)
    case.save(folder / "case")
    (folder / "c.jsonl").write_text("".join(f'{{"text": "document {i} of text"}}\n' for i in range(40)))
    corpus = prepare(settings(str(folder / "c.jsonl")), folder / "data", say=lambda _: None).path

    def opened(_: Path) -> None:
        found = open_corpus(corpus)
        found.tokenizer.ready()
        for document in found.valid:
            found.tokenizer.decode(document.ids)
        found.tokens[np.asarray(found.documents[:-1])]  # type: ignore[index]

    def resealed(name: str) -> Callable[[bytes, random.Random], bytes]:
        """Changed, and listed in the manifest as it is now."""

        def change(data: bytes, draw: random.Random) -> bytes:
            new = bytes_changed(data, draw)
            told = json.loads(manifest.whole)
            told["files"][name] = {"size": len(new), "sha256": hashlib.sha256(new).hexdigest()}
            (corpus / "manifest.json").write_bytes(_sealed(told))
            return new

        return change

    def model(path: Path) -> None:
        read = pieces.read(path)
        read.encode("the quick fox") if hasattr(read, "encode") else None

    manifest = Kind(corpus / "manifest.json", opened, json_changed)
    listed = [name for name in json.loads(manifest.whole)["files"] if name != "tokenizer"]
    return {
        "shard": Kind(folder / "golf.bin", read_shard),
        "index": Kind(folder / "mega.idx", lambda path: [open_indexed(path).document(i) for i in range(4)]),
        "sentencepiece": Kind(folder / "t.model", model),
        "case operators": Kind(folder / "case", lambda path: CaseOps(model=str(path)).ready()),
        "manifest": manifest,
        **{f"corpus {name}": Kind(corpus / name, opened, resealed(name)) for name in listed},
    }


def _sealed(record: dict[str, Any]) -> bytes:
    from ablab.core.sealed import sealed

    return json.dumps(sealed(record)).encode()


def weights(folder: Path) -> dict[str, Kind]:
    """Safetensors, torch's files, artifacts, checkpoints, scores."""
    import torch
    from safetensors.torch import save_file

    from ablab.artifact import pack as artifact
    from ablab.scoring.scores import Scores
    from ablab.training import checkpoint
    from ablab.training.adopt.found import read

    state = {"a": torch.arange(600.0).reshape(20, 30), "b": torch.ones(7, dtype=torch.bfloat16)}
    save_file(state, folder / "a.safetensors", {"tokenizer": "x"})
    torch.save({"model": state, "step": 3}, folder / "new.pt")
    torch.save(state, folder / "old.pt", _use_new_zipfile_serialization=False)
    for codec in ("raw", "brotli", "zstd", "lzma"):
        (folder / f"a.{codec}").write_bytes(artifact.pack({"name": "rtn"}, {"name": codec}, state)[0])
    run = folder / "run"
    for step in (1, 2):
        checkpoint.save(run, step, state, {"identity": "x"})
    Scores(np.arange(9.0), np.arange(9), np.arange(9)).save(folder)

    def scores(path: Path) -> None:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        found = Scores.load(path.parent, {"scores": {"sha256": digest}})
        assert found.metrics is not None

    def newest(_: Path) -> None:
        found = checkpoint.newest(run, fit=lambda header: "", say=lambda _: None)
        assert found is not None and found[0]["step"] in (1, 2)
        if not (run / "checkpoint-000000002.json").exists() or not (run / "checkpoint-000000001.json").exists():
            for step in (1, 2):
                checkpoint.save(run, step, state, {"identity": "x"})

    def resealed(data: bytes, draw: random.Random) -> bytes:
        """An artifact whose decoded header says something else, under its own sha256."""
        from ablab.artifact import container

        begin = len(container.MAGIC) + 33
        at = begin + 1 + data[begin]
        _, at = container._read_varint(memoryview(data), at)
        n_packed, at = container._read_varint(memoryview(data), at)
        header, streams = json_changed(data[at : at + n_packed], draw), data[at + n_packed :]
        front = data[begin : begin + 1 + data[begin]] + container._varint(len(header)) * 2
        return data[: begin - 32] + hashlib.sha256(front + header + streams).digest() + front + header + streams

    def unpack(path: Path) -> None:
        artifact.unpack(path.read_bytes())

    return {
        **{f"artifact {name}": Kind(folder / f"a.{name}", unpack) for name in ("raw", "brotli", "zstd", "lzma")},
        "artifact's header": Kind(folder / "a.raw", unpack, resealed),
        **{name: Kind(folder / name, read) for name in ("a.safetensors", "new.pt", "old.pt")},
        "scores": Kind(folder / "scores.npz", scores),
        "checkpoint": Kind(run / "checkpoint-000000002.json", newest),
        "checkpoint's fields": Kind(run / "checkpoint-000000002.json", newest, json_changed),
        "checkpoint's tensors": Kind(run / "checkpoint-000000002.safetensors", newest),
    }


def store(folder: Path) -> dict[str, Kind]:
    """Records of a finished store: what judges and plans on them must not break."""
    from tests import finished_store

    from ablab.judging import collect, history, shelf, versions
    from ablab.judging.bank import pooled

    plan = finished_store.fill(finished_store.plan(folder))
    run = next(run for run in plan.runs.values() if run.arm != "baseline")
    score = plan.store.score(next(iter(run.score_keys.values())))
    history.record(plan)
    record = plan.store.root / "decisions.jsonl"
    other = plan.store.root / "studies" / "other"
    other.mkdir(parents=True)
    row = {"name": "a", "on": "baseline", "word": "better", "seeds": 3, "s": 0.1, "changes": [{"path": "x"}]}
    told = {"fingerprint": "x", "arms": [row], "decided_by": "x", "data": [{"key": "k", "counts": {"train_tokens": 1}}]}
    (other / "verdict.json").write_text(json.dumps(told))
    (plan.directory / "failed.json").write_text(json.dumps([{"arm": "a", "seed": 0, "fault": "x", "keys": ["k"]}]))

    def lines(data: bytes, draw: random.Random) -> bytes:
        rows = data.splitlines()
        return b"\n".join([*rows, *(json_changed(draw.choice(rows), draw) for _ in range(4))])

    def verdict(_: Path) -> None:
        pooled(plan)
        if (found := shelf.lying(other)) is not None:
            versions.since(plan, found), shelf.when(found), shelf.place_of(plan, found)

    def decisions(_: Path) -> None:
        rows = history.rows(plan)
        history.statuses(plan, rows), history.listed(plan, rows), history.on_baseline(plan, rows)
        for name in plan.study.arms:
            history.pooled(plan, rows, name, 1)

    def collected(_: Path) -> None:
        collect._score(plan, run, False, None)

    return {
        "done": Kind(plan.store.train(run.train_key) / "done.json", collected, json_changed),
        "done's bytes": Kind(plan.store.train(run.train_key) / "done.json", collected),
        "result": Kind(score / "result.json", collected, json_changed),
        "decisions": Kind(record, decisions, lines),
        "verdict": Kind(other / "verdict.json", verdict, json_changed),
        "given up": Kind(plan.directory / "failed.json", lambda _: plan.failures(), json_changed),
    }


def main(folder: Path, count: int, seed: int, only: list[str]) -> None:
    from ablab.core.fault import Refused

    warnings.simplefilter("ignore")
    kinds: dict[str, Kind] = {}
    for make in (texts, tokens, weights, store):
        (folder / make.__name__).mkdir(parents=True)
        kinds |= make(folder / make.__name__)
    for name, kind in kinds.items():
        if only and name not in only:
            continue
        kind.read(kind.path)  # unchanged it is read
        kept = {
            path: path.read_bytes()
            for path in kind.path.parent.iterdir()
            if path.is_file() and path.stat().st_size < 1e6
        }
        before, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
        for number in range(count):
            changed = kind.change(kind.whole, random.Random(f"{seed} {name} {number}"))
            kind.path.write_bytes(changed)
            print(json.dumps({"at": [name, number]}), flush=True)
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            try:
                kind.read(kind.path)
            except Refused:
                refused += 1
            except ValueError as error:
                if type(error) is not ValueError or not (
                    "artifact" in name or name in ("sentencepiece", "case operators")
                ):
                    _fault(name, number, traceback.format_exc())
                refused += 1
            except BaseException:
                _fault(name, number, traceback.format_exc())
            faulthandler.cancel_dump_traceback_later()
            used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            if used > MEMORY:
                _fault(name, number, f"took {used:,} kB")
                before += used
            for path, content in kept.items():
                if (
                    not path.is_file()
                    or path.stat().st_size != len(content)
                    or path == kind.path
                    or path.suffix == ".json"
                ):
                    path.write_bytes(content)
        print(json.dumps({"done": [name, count, refused]}), flush=True)


def _fault(name: str, number: int, said: str) -> None:
    print(json.dumps({"fault": [name, number, said]}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
