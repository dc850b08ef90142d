"""A Harmony build: the same bytes however it is done, nothing finished lost, nothing wrong let through."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.harmony.building import SMALL, bad_rows, build, digests, here, jsonl, quiet, synth

from ablab.core.fault import CheckFailed, InvalidStudy
from ablab.core.files import key_of
from ablab.data.formats.indexed import check_sidecars, open_indexed, sidecars
from ablab.data.harmony import crew, held, mock
from ablab.data.harmony.build import BuildProgress
from ablab.data.harmony.conversation import from_synth
from ablab.data.harmony.official import OfficialRenderer
from ablab.data.harmony.plan import settings
from ablab.data.harmony.render import Renderer
from ablab.data.harmony.unit import Job, Unit
from ablab.data.look.verify import verify
from ablab.data.tokenizers.o200k_harmony import O200kHarmony
from ablab.runtime.lock import locked


@pytest.fixture
def inline(monkeypatch) -> None:
    monkeypatch.setattr(crew, "make", here)


@pytest.fixture(scope="module")
def once(tmp_path_factory) -> Path:
    """A build of 300 rows of the mock in this process."""
    out = tmp_path_factory.mktemp("once") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crew, "make", here)
        build(["mock:300"], out, **SMALL, say=quiet)
    return out


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_gives_the_same_bytes(workers: int, once: Path, tmp_path: Path) -> None:
    build(["mock:300"], tmp_path / "out", **SMALL, workers=workers, say=quiet)
    assert digests(tmp_path / "out") == digests(once)


def test_the_files_hold_every_row_in_order_rendered_and_split_by_id(once: Path) -> None:
    renderer = Renderer(O200kHarmony())
    manifest = json.loads((once / "manifest.json").read_text())
    below = held.threshold(0.1)
    for split in ("train", "valid"):
        wanted = [
            renderer.render(from_synth(*row[1:]))
            for row in mock.rows(0, 300)
            if (held.hash_of(row[0]) < below) == (split == "valid")
        ]
        got = []
        for shard in manifest["splits"][split]["shards"]:
            tokens = open_indexed(once / split / f"{shard['name']}_tokens")
            others = sidecars(once / split / f"{shard['name']}_tokens")
            assert others is not None
            mask, span = map(open_indexed, others)
            check_sidecars(tokens, (mask, span))
            assert tokens.dtype == np.int32 and mask.dtype == span.dtype == np.uint8
            assert len(tokens) == tokens.n_documents == shard["rows"] and len(tokens.tokens) == shard["tokens"]
            got += [(tokens[i].tolist(), mask[i].tolist(), span[i].tolist()) for i in range(len(tokens))]
        assert got == [tuple(part.tolist() for part in one) for one in wanted]
        assert manifest["splits"][split]["rows"] == len(wanted) > 0
        assert manifest["splits"][split]["tokens"] == sum(len(one.tokens) for one in wanted)


def test_the_manifest_tells_all_and_nothing_of_when_and_where(once: Path) -> None:
    manifest = json.loads((once / "manifest.json").read_text())
    assert manifest["kind"] == "harmony" and manifest["config"]["eod_token_id"] == 199_999
    assert manifest["config_hash"] == "faa2ee2ea0adc1b2dc2f171d31e4ab4d6b6a3a320d09a35776cceb34c006ecdc"
    assert manifest["tokenizer"]["vocab_size"] == 201_088 and manifest["tokenizer"]["sha256"].startswith("446a9538")
    assert manifest["inputs"][0]["rows"] == 300 and manifest["rows"] == 300
    assert (manifest["quarantined"], manifest["dropped"], manifest["truncated"]) == (0, 0, 0)
    assert manifest["checked"] == sum(held.hash_of(row[0]) % 64 == 0 for row in mock.rows(0, 300)) > 0
    names = {name for split in manifest["splits"].values() for shard in split["shards"] for name in shard["files"]}
    assert names | {"manifest.json", "quarantine.jsonl"} == set(digests(once))
    assert [shard["name"] for shard in manifest["splits"]["train"]["shards"]] == [f"shard_0000{i}" for i in range(5)]
    assert len(manifest["splits"]["valid"]["shards"]) == 1  # one for all units
    assert manifest["digest"] == key_of({name: value for name, value in manifest.items() if name != "digest"})
    assert str(once.parent) not in json.dumps(manifest)
    spans = [np.fromfile(path, np.uint8) for path in once.glob("*/*_span.bin")]
    counts = np.bincount(np.concatenate(spans), minlength=3).tolist()
    assert manifest["spans"] == {"reasoning": counts[1], "final": counts[2]}
    assert verify(once) == []


CODE = """
import sys
import time
from pathlib import Path
from ablab.data.harmony.build import build
from ablab.data.harmony.plan import settings

def held(progress):
    if progress.units == 3:
        print("held", flush=True)
        time.sleep(3600)

if __name__ == "__main__":
    asked = {"rows_per_shard": 100, "valid_fraction": 0.1, "check_every": 0}
    build(["mock:1200"], Path(sys.argv[1]), settings(**asked), workers=2, say=len, progress=held)
"""


def test_a_build_that_was_killed_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "killed.py").write_text(CODE)
    out = tmp_path / "killed"
    command = [sys.executable, str(tmp_path / "killed.py"), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        said = child.stdout.readline() if child.stdout else ""
        child.send_signal(signal.SIGKILL)
    assert said == "held\n", "it ended before it could be killed"
    with pytest.raises(CheckFailed, match=r"is a folder without manifest\.json"):
        raise verify_fault(out)
    seen: list[BuildProgress] = []
    asked = {"rows_per_shard": 100, "valid_fraction": 0.1, "check_every": 0}
    build(["mock:1200"], out, **asked, workers=2, say=quiet, progress=seen.append)
    assert seen[-1].kept >= 300 and seen[-1].kept + seen[-1].rows == 1200
    monkeypatch.setattr(crew, "make", here)
    build(["mock:1200"], tmp_path / "whole", **asked, say=quiet)
    assert digests(out) == digests(tmp_path / "whole")


def verify_fault(out: Path) -> CheckFailed:
    return CheckFailed(verify(out))


def begin(tmp_path: Path, monkeypatch, *, units: int = 2) -> Path:
    """A build of 300 rows that was stopped when `units` were finished."""
    out = tmp_path / "out"

    def stopped(job: Job, all_units: Sequence[Unit], workers: int, hear: Callable[[str, Any], object]) -> None:
        here(job, all_units[:units], workers, hear)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(crew, "make", stopped)
        with pytest.raises(KeyboardInterrupt):
            build(["mock:300"], out, **SMALL, say=quiet)
    return out


@pytest.mark.parametrize(
    ("name", "spoil", "told"),
    [
        (
            "train/shard_00001_tokens.bin",
            lambda data: data[:-4],
            r"train/shard_00001_tokens\.bin has [\d,]+ bytes, not",
        ),
        ("train/shard_00001_span.idx", lambda data: data[:-1] + b"\1", "has another sha256 than when it was written"),
        ("train/shard_00001_lossmask.bin", None, r"train/shard_00001_lossmask\.bin is missing"),
        (".parts/valid_00001_tokens.bin", lambda data: b"", r"\.parts/valid_00001_tokens\.bin has 0 bytes, not"),
        (".parts/unit_00001.json", lambda data: data[:40], r"unit_00001\.json: cannot be read"),
        (
            ".parts/unit_00001.json",
            lambda data: re.sub(rb'"reasoning": (\d)', rb'"reasoning": 1\1', data),
            r"unit_00001\.json was changed after it was written$",
        ),
    ],
)
def test_a_damaged_unit_is_named_and_made_again(
    name: str, spoil: Callable | None, told: str, once: Path, tmp_path: Path, monkeypatch, inline
) -> None:
    out = begin(tmp_path, monkeypatch)
    path = out / name
    if spoil is None:
        path.unlink()
    else:
        path.write_bytes(spoil(path.read_bytes()))
    said: list[str] = []
    build(["mock:300"], out, **SMALL, say=said.append)
    assert len(said) == 1 and said[0].startswith("unit 1 is damaged and made again: ")
    assert re.search(told, said[0])
    assert digests(out) == digests(once)


def test_what_a_killed_process_was_writing_is_swept_away(once: Path, tmp_path: Path, monkeypatch, inline) -> None:
    out = begin(tmp_path, monkeypatch)
    for name in (
        ".manifest.json.abc.part",
        "train/.shard_00002_tokens.bin.abc.part",
        ".parts/.unit_00002.json.abc.part",
    ):
        (out / name).write_text("half")
    (out / "train" / "shard_00003_tokens.bin").write_text("of a unit without a record")
    build(["mock:300"], out, **SMALL, say=quiet)
    assert digests(out) == digests(once)


def test_a_build_is_not_finished_with_other_settings_or_inputs(tmp_path: Path, monkeypatch, inline) -> None:
    out = begin(tmp_path, monkeypatch)
    before = digests(out / "train")
    with pytest.raises(CheckFailed) as refused:
        build(["mock:300"], out, **(SMALL | {"valid_fraction": 0.2}), max_tokens=50, say=quiet)
    assert str(refused.value) == (
        f"{out}: was begun with valid_fraction 0.1, not 0.2; with max_tokens none, not 50; "
        "give the same again to go on, or choose another --out"
    )
    with pytest.raises(CheckFailed, match=r"was begun from another content of mock \(sha256 [0-9a-f]{12}, not"):
        build(["mock:301"], out, **SMALL, say=quiet)
    with pytest.raises(CheckFailed, match="was begun from 1 inputs, not 2"):
        build(["mock:300", "mock:10"], out, **SMALL, say=quiet)
    path = jsonl(tmp_path / "x.jsonl", synth(300))
    with pytest.raises(CheckFailed, match=r"was begun from mock where x\.jsonl is given now"):
        build([str(path)], out, **SMALL, say=quiet)
    assert digests(out / "train") == before


def test_a_finished_build_is_answered_at_once_and_not_built_over(once: Path, inline) -> None:
    before, said = digests(once), list[str]()
    manifest = build(["mock:300"], once, **SMALL, workers=3, say=said.append)
    assert said == [f"{once} is built already, from the same inputs with the same settings"]
    assert manifest == json.loads((once / "manifest.json").read_text())
    with pytest.raises(CheckFailed, match=r"was built with max_rows none, not 20"):
        build(["mock:300"], once, **SMALL, max_rows=20, say=quiet)
    assert digests(once) == before


def test_a_finished_build_that_lost_a_file_says_so(tmp_path: Path, inline) -> None:
    out = tmp_path / "out"
    build(["mock:20"], out, say=quiet)
    path = out / "train" / "shard_00000_span.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckFailed, match=r"shard_00000_span\.bin: has not the [\d,]+ bytes it had; delete"):
        build(["mock:20"], out, say=quiet)
    path.unlink()
    with pytest.raises(CheckFailed, match=r"shard_00000_span\.bin: is missing; delete .* and build again"):
        build(["mock:20"], out, say=quiet)


def test_a_place_with_other_things_is_left_alone(tmp_path: Path, inline) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    with pytest.raises(CheckFailed, match=r"out: holds other things \(thesis\.tex\); choose another --out"):
        build(["mock:20"], tmp_path / "out", say=quiet)
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "thesis.tex"]
    (tmp_path / "out" / "thesis.tex").rename(tmp_path / "out" / "train")
    with pytest.raises(CheckFailed, match=r"holds other things \(train\) and no build that was begun"):
        build(["mock:20"], tmp_path / "out", say=quiet)
    with pytest.raises(CheckFailed, match="is no folder"):
        build(["mock:20"], tmp_path / "out" / "train", say=quiet)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train"]


def test_nothing_is_left_behind_by_a_build_that_never_began(tmp_path: Path) -> None:
    with pytest.raises(InvalidStudy, match="matches no file"):
        build(["no.parquet"], tmp_path / "out", say=quiet)
    with pytest.raises(InvalidStudy) as refused:
        build(["mock"], tmp_path / "out", valid_fraction=2, max_rows=0, check_every=-1, say=quiet)
    assert [fault.place for fault in refused.value.faults] == ["valid_fraction", "max_rows", "check_every"]
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(CheckFailed, match=r"SOURCE: no row in empty\.jsonl; give files with rows"):
        build([str(tmp_path / "empty.jsonl")], tmp_path / "out", say=quiet)
    with pytest.raises(CheckFailed, match=r"o200k_harmony: .*no\.tiktoken: the o200k vocabulary cannot be read"):
        build(["mock"], tmp_path / "out", vocab=str(tmp_path / "no.tiktoken"), say=quiet)
    assert not (tmp_path / "out").exists()


def test_two_builds_at_one_place_are_refused(tmp_path: Path) -> None:
    with locked(tmp_path / "out" / ".parts"), pytest.raises(CheckFailed, match=f"is in use by pid {os.getpid()} on"):
        build(["mock:20"], tmp_path / "out", say=quiet)


def test_failed_rows_are_set_aside_named_and_counted(tmp_path: Path, inline) -> None:
    source, out = jsonl(tmp_path / "x.jsonl", bad_rows()), tmp_path / "out"
    with pytest.raises(CheckFailed) as refused:
        build([str(source)], out, **SMALL, say=quiet)
    assert [str(fault) for fault in refused.value.faults] == [
        "x.jsonl: line 4 (id mock-3): message 0: the user text is empty",
        "max_bad: 1 row failed so far, none may; allow more with --max-bad (what is finished is kept), or repair them "
        f"(all so far: {out / 'quarantine.jsonl'}) and choose another --out, or delete this one",
    ]
    assert len((out / "quarantine.jsonl").read_text().splitlines()) == 1
    first = (out / "train" / "shard_00000_tokens.bin").stat()
    with pytest.raises(CheckFailed, match="4 rows failed so far, 3 may"):
        build([str(source)], out, **SMALL, max_bad=3, say=quiet)
    manifest = build([str(source)], out, **SMALL, max_bad=4, say=quiet)
    assert (out / "train" / "shard_00000_tokens.bin").stat().st_ino == first.st_ino  # not made again
    assert manifest["quarantined"] == 4 and manifest["rows"] == 200
    assert manifest["splits"]["train"]["rows"] + manifest["splits"]["valid"]["rows"] == 196
    listed = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert listed == [
        {"id": "mock-3", "place": "x.jsonl: line 4", "reason": "message 0: the user text is empty"},
        {
            "id": "mock-70",
            "place": "x.jsonl: line 71",
            "reason": "message 2: character 0 is a lone surrogate; text must be valid Unicode",
        },
        {"id": "mock-71", "place": "x.jsonl: line 72", "reason": "'synthetic_reasoning' has no value"},
        {"id": None, "place": "x.jsonl: line 151", "reason": "'synth_id' has no value"},
    ]
    assert verify(out) == []
    build([str(source)], tmp_path / "again", **SMALL, max_bad=99, say=quiet)
    assert digests(tmp_path / "again") == digests(out)


def test_a_row_that_openai_harmony_renders_otherwise_fails_the_build(tmp_path: Path, inline, monkeypatch) -> None:
    true_ids = OfficialRenderer.ids
    monkeypatch.setattr(
        OfficialRenderer, "ids", lambda self, messages: [*true_ids(self, messages)[:-2], 200_007, 199_999]
    )
    with pytest.raises(CheckFailed) as refused:
        build(["mock:40"], tmp_path / "out", check_every=1, say=quiet)
    assert str(refused.value).startswith("mock: row 0 (id mock-0): openai-harmony gives other ids: [200007, 199999] at")
    assert "here [200002, 199999]; report it; --check-every 0 builds without the check" in str(refused.value)
    assert not list((tmp_path / "out").glob("train/*"))

    def refuse(self: OfficialRenderer, messages: object) -> list[int]:
        raise RuntimeError("not so")

    monkeypatch.setattr(OfficialRenderer, "ids", refuse)
    with pytest.raises(
        CheckFailed, match=r"row 0 \(id mock-0\): is refused by openai-harmony \(not so\)(?s:.*)allow more"
    ):
        build(["mock:40"], tmp_path / "out", check_every=1, say=quiet)


def long_rows(sign: str) -> list[dict]:
    rows = synth(3)
    rows[1]["query"] = "A table: " + sign * 1_000_000 + " end"
    return rows


@pytest.mark.parametrize("sign", [" ", "-", "\t", "a", "\n", "\u4e2d", "\u0301"])
def test_a_row_with_a_very_long_run_is_set_aside_and_the_build_goes_on(tmp_path: Path, inline, sign: str) -> None:
    source = jsonl(tmp_path / "x.jsonl", long_rows(sign))
    manifest = build([str(source)], tmp_path / "out", check_every=1, max_bad=1, say=quiet)
    assert (manifest["quarantined"], manifest["checked"]) == (1, 2)
    assert sum(split["rows"] for split in manifest["splits"].values()) == 2
    [listed] = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert (listed["id"], listed["place"]) == ("mock-1", "x.jsonl: line 2")
    assert "bytes of" in listed["reason"] and listed["reason"].endswith("can be asked about is 65,536")
    with pytest.raises(CheckFailed, match=r"x\.jsonl: line 2 \(id mock-1\): message 0: from character"):
        build([str(source)], tmp_path / "none", check_every=0, say=quiet)


def test_runs_that_can_be_compared_are_built_and_compared(tmp_path: Path, inline) -> None:
    rows = synth(5)
    for row, sign in zip(rows, " -a\n\u4e2d"):
        row["query"] += sign * 8_000 + "|" + sign * 8_000
    rows[0]["synthetic_answer"] = ("word " * 10 + "\n") * 20_000  # a megabyte of short pieces
    source = jsonl(tmp_path / "x.jsonl", rows)
    manifest = build([str(source)], tmp_path / "out", check_every=1, say=quiet)
    assert (manifest["quarantined"], manifest["checked"]) == (0, 5)


@pytest.mark.parametrize("error", [ValueError("odd"), ZeroDivisionError("zero"), BaseException("a panic")])
def test_whatever_one_row_raises_is_that_rows_fault(tmp_path: Path, inline, monkeypatch, error: BaseException) -> None:
    true = Renderer.render

    def render(self: Renderer, messages: Any) -> Any:
        if "7" in messages[0].text:
            raise error
        return true(self, messages)

    monkeypatch.setattr(Renderer, "render", render)
    wrong = ["7" in row["query"] for row in synth(40)]
    manifest = build(["mock:40"], tmp_path / "out", max_bad=40, say=quiet)
    assert 0 < manifest["quarantined"] == sum(wrong) < 40
    listed = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert [one["id"] for one in listed] == [f"mock-{i}" for i in range(40) if wrong[i]]
    assert listed[0]["reason"] == f"cannot be rendered ({type(error).__name__}: {error})"


CRASH = """
import os, signal, sys
from pathlib import Path
from ablab.core import safe_path
from ablab.data.harmony import render
from ablab.data.harmony.build import build
from ablab.data.harmony.plan import settings
true = render.Renderer.render
def dies(self, messages):
    if messages[0].text == "die":
        os.kill(os.getpid(), signal.SIGSEGV) if sys.argv[3] == "signal" else os._exit(1)
    return true(self, messages)
render.Renderer.render = dies  # a spawned worker runs this file again, as that of a command
if __name__ == "__main__":
    safe_path.leave_folder()
    build([sys.argv[1]], Path(sys.argv[2]), settings(rows_per_shard=5, check_every=0), max_bad=1, workers=2)
"""


@pytest.mark.parametrize("how", ["signal", "exit"])
def test_a_row_that_ends_its_worker_is_set_aside_and_the_build_goes_on(tmp_path: Path, how: str) -> None:
    rows = synth(12)
    rows[7]["query"] = "die"
    source = jsonl(tmp_path / "x.jsonl", rows)
    (tmp_path / "crash.py").write_text(CRASH)
    command = [sys.executable, tmp_path / "crash.py", source, tmp_path / "out", how]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, timeout=120)
    assert done.returncode == 0
    [listed] = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert listed == {"id": "mock-7", "place": "x.jsonl: line 8", "reason": "ended the worker process, twice"}
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["rows"] == 12
    assert verify(tmp_path / "out") == []


def test_a_mark_or_a_key_that_stands_twice_costs_no_row_and_hides_none(tmp_path: Path, inline) -> None:
    rows = [json.dumps(row) for row in synth(6)]
    marked = "\ufeff" + rows[0] + "\r\n" + rows[1] + "\r\n\ufeff\r\n\ufeff" + rows[2] + "\r\n"  # joined files begin so
    twice = [row[:-1] + ', "query": "another"}' for row in rows[3:5]]
    (tmp_path / "x.jsonl").write_bytes(
        (marked + "\n".join([*twice, rows[5][:-1] + ', "meta": 1, "meta": 2}'])).encode()
    )
    manifest = build([str(tmp_path / "x.jsonl")], tmp_path / "out", max_bad=2, say=quiet)
    assert (manifest["rows"], manifest["quarantined"]) == (6, 2)
    listed = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert [one["id"] for one in listed] == ["mock-3", "mock-4"]
    assert listed[0]["reason"] == "has the field 'query' more than once"
    talk = (
        '[{"role": "user", "content": "Hi"}, {"role": "assistant", "channel": "final", "content": "a", "content": "b"}]'
    )
    lines = [json.dumps({"id": "1", "messages_json": talk}), f'{{"id": "2", "messages_json": {talk}}}']
    lines.append(json.dumps({"id": "3", "messages_json": talk.replace(', "content": "b"', "")}))
    (tmp_path / "y.jsonl").write_text("\n".join(lines))
    build([str(tmp_path / "y.jsonl")], tmp_path / "talks", max_bad=2, say=quiet)
    listed = [json.loads(line) for line in (tmp_path / "talks" / "quarantine.jsonl").read_text().splitlines()]
    assert [one["id"] for one in listed] == ["1", "2"]
    assert {one["reason"] for one in listed} == {"'messages_json' has an object with the key 'content' more than once"}


@pytest.mark.parametrize("kind", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_called_so_and_the_cure_makes_it_right(tmp_path: Path, inline, kind: str) -> None:
    path = jsonl(tmp_path / "x.jsonl", synth(20))
    path.write_bytes(path.read_text().encode(kind))
    with pytest.raises(CheckFailed, match=r"x\.jsonl: is UTF-16.*; convert it to UTF-8: iconv") as refused:
        build([str(path)], tmp_path / "out", say=quiet)
    command = refused.value.faults[0].cure.partition(": ")[2].replace("NEW", str(tmp_path / "new.jsonl"))
    subprocess.run(command, shell=True, check=True)
    assert build([str(tmp_path / "new.jsonl")], tmp_path / "new", say=quiet)["rows"] == 20


def test_a_check_without_openai_harmony_says_what_to_install(tmp_path: Path, inline, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "openai_harmony", None)
    with pytest.raises(
        CheckFailed, match=r"'openai_harmony' is not installed; \S*python\S* -P -m pip install openai-harmony,"
    ):
        build(["mock:40"], tmp_path / "out", check_every=1, say=quiet)
    said: list[str] = []
    build(["mock:40"], tmp_path / "other", check_every=0, valid_fraction=0.1, say=said.append)
    assert said == []


def test_long_conversations_are_cut_or_dropped_and_counted(tmp_path: Path, inline) -> None:
    renderer, limit = Renderer(O200kHarmony()), 66
    lengths = [len(renderer.render(from_synth(*row[1:])).tokens) for row in mock.rows(0, 80)]
    manifest = build(["mock:80"], tmp_path / "out", max_tokens=limit, valid_fraction=0, say=quiet)
    assert manifest["truncated"] + manifest["dropped"] == sum(length > limit for length in lengths) > 0
    assert manifest["truncated"] > 0 and manifest["splits"]["train"]["rows"] == 80 - manifest["dropped"]
    built = open_indexed(tmp_path / "out" / "train" / "shard_00000_tokens")
    assert built.lengths.max() <= limit and verify(tmp_path / "out") == []
    cure = f"raise --max-tokens from 3 to {min(lengths)} or more, which the shortest has, and choose another --out or delete"
    with pytest.raises(CheckFailed, match=rf"no row is left: 0 failed, 80 were dropped as too long; {cure} this one$"):
        build(["mock:80"], tmp_path / "none", max_tokens=3, say=quiet)
    assert (tmp_path / "none" / "quarantine.jsonl").read_text() == ""
    cured = build(["mock:80"], tmp_path / "cured", max_tokens=min(lengths), valid_fraction=0, say=quiet)
    assert cured["splits"]["train"]["rows"] >= lengths.count(min(lengths))


def test_where_no_row_is_left_the_reasons_are_said(tmp_path: Path, inline) -> None:
    rows = [row | {"query": "" if i % 3 else None} for i, row in enumerate(synth(30))]
    source = jsonl(tmp_path / "x.jsonl", rows)
    said = r"no row is left: 30 failed \(20 because: message 0: the user text is empty; 10 because: 'query' has no value\), 0"
    with pytest.raises(CheckFailed, match=said):
        build([str(source)], tmp_path / "out", max_bad=99, say=quiet)


def test_an_empty_split_is_said_not_refused(tmp_path: Path, inline) -> None:
    said: list[str] = []
    manifest = build(["mock:300"], tmp_path / "a", max_rows=20, say=said.append)
    assert manifest["splits"]["valid"] == {"rows": 0, "tokens": 0, "shards": []} and manifest["rows"] == 20
    assert said[0] == "note: valid is empty: none of 20 rows falls there at valid_fraction 0.001"
    assert not (tmp_path / "a" / "valid").exists() and verify(tmp_path / "a") == []
    said.clear()
    build(["mock:20"], tmp_path / "b", valid_fraction=0.9999, say=said.append)
    assert said[0] == "note: train is empty: none of 20 rows falls there at valid_fraction 0.9999"


def test_a_split_can_be_all_or_nothing(tmp_path: Path, inline) -> None:
    said: list[str] = []
    everything: dict[str, Any] = {"rows_per_shard": 60, "check_every": 100, "say": said.append}
    held_out = build(["mock:200"], tmp_path / "a", valid_fraction=1, **everything)["splits"]
    trained_on = build(["mock:200"], tmp_path / "b", valid_fraction=0, **everything)["splits"]
    assert [shard["rows"] for shard in held_out["valid"]["shards"]] == [60, 60, 60, 20] and said == []
    assert held_out["train"]["rows"] == trained_on["valid"]["rows"] == 0
    assert [digests(tmp_path / "a" / "valid"), said] == [digests(tmp_path / "b" / "train"), []]


def test_max_rows_takes_the_first_rows_across_inputs(tmp_path: Path, inline) -> None:
    for name, count in (("a", 30), ("b", 50)):
        jsonl(tmp_path / f"{name}.jsonl", synth(count))
    sources = [str(tmp_path / f"{name}.jsonl") for name in "ab"]
    manifest = build(sources, tmp_path / "out", max_rows=45, valid_fraction=0, say=quiet)
    assert [one["rows"] for one in manifest["inputs"]] == [30, 50]
    assert [shard["rows"] for shard in manifest["splits"]["train"]["shards"]] == [30, 15]


def test_an_input_that_changes_meanwhile_is_refused(tmp_path: Path, monkeypatch) -> None:
    path = jsonl(tmp_path / "x.jsonl", synth(100))

    def changed(*given: Any) -> None:
        here(*given)
        path.write_text(path.read_text() + "\n")

    monkeypatch.setattr(crew, "make", changed)
    with pytest.raises(CheckFailed, match="SOURCE: changed while it was read"):
        build([str(path)], tmp_path / "out", say=quiet)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_the_death_of_a_worker_is_said_and_costs_one_unit(tmp_path: Path) -> None:
    def kill(progress: BuildProgress) -> None:
        if progress.units == 1:
            for child in multiprocessing.active_children():
                child.kill()

    with pytest.raises(CheckFailed) as refused:
        build(["mock:1000"], tmp_path / "out", rows_per_shard=250, progress=kill, say=quiet)
    # It had unit 1 in hand and may have ended it by then, but nobody gave it another: unit 2 is only what it was asked next.
    found = re.search(
        r"ended with code -9 while it made unit ([12]); run the same command to go on", str(refused.value)
    )
    assert found, refused.value
    assert not multiprocessing.active_children()
    made = [path.name for path in sorted((tmp_path / "out" / ".parts").glob("unit_*"))]
    assert made == [f"unit_{number:05}.json" for number in range(len(made))] and int(found[1]) <= len(made) <= 2


def test_shards_are_sized_by_the_rows_alone() -> None:
    from ablab.data.harmony import plan as planning

    def per_shard(rows: int) -> int:
        asked = settings(0.1, None, None, None, 256)
        source = planning.RowSource("x", Path(), "mock", ("synth_id",), rows, "0")
        planning_find = planning.find
        try:
            planning.find = lambda *_: [source]
            return planning.plan(asked, ["x"], _NoMemo()).settings.rows_per_shard  # type: ignore[arg-type]
        finally:
            planning.find = planning_find

    assert [per_shard(n) for n in (1, 65_536, 200_000, 76_000_000)] == [2048, 2048, 3125, 65_536]


class _NoMemo:
    def save(self) -> None:
        pass
