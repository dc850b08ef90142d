"""JSON of a stranger's store: nested, huge, of other types, or no file at all. It is named and refused, or passed over."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import pytest
import torch
from tests import finished_store

from ablab.core import loose_json, strict_json
from ablab.core.fault import CheckFailed
from ablab.core.files import read_json
from ablab.core.forms import misfit
from ablab.core.inputs import Inputs
from ablab.core.sealed import sealed
from ablab.judging.bank import pooled
from ablab.judging.history import rows
from ablab.judging.shelf import lying
from ablab.runs.store import read_decisions, read_lines
from ablab.training import checkpoint

DEEP = "[" * 200_000
ODD = {
    "nested": DEEP.encode(),
    "nested and whole": b"[" * 900 + b"]" * 900,
    "nested in objects": b'{"a":' * 900 + b"1" + b"}" * 900,
    "no UTF-8": b'{"a": "\xff"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "half a character": rb'{"a": "\ud800"}',
    "NaN": b'{"a": NaN}',
    "beyond floats": b'{"a": 1e999}',
    "many digits": b"1" * 5000,
    "brackets": b"[" + b"[]," * (strict_json.CONTAINERS + 1) + b"1]",
    "empty": b"",
}


@pytest.mark.parametrize("kind", ODD)
def test_a_record_that_is_none_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.json").write_bytes(ODD[kind])
    with pytest.raises(CheckFailed, match="cannot be read"):
        read_json(tmp_path / "a.json")


def test_a_record_that_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    for name, what in (("pipe", "is no file but a pipe"), ("zero", "is no file but a device")):
        with pytest.raises(CheckFailed, match=what):
            read_json(tmp_path / f"{name}.json")
        with pytest.raises(CheckFailed, match=what):
            read_lines(tmp_path / f"{name}.json")


def test_a_record_larger_than_any_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(1 << 40)  # a terabyte without a byte on the disk
    with pytest.raises(CheckFailed, match="more than the"):
        read_json(tmp_path / "a.json")


def test_what_is_deep_enough_and_what_only_looks_deep_is_read() -> None:
    assert strict_json.record(b"[" * strict_json.DEEPEST + b"]" * strict_json.DEEPEST)
    with pytest.raises(ValueError, match="deeper than 64"):
        strict_json.record(b"[" * (strict_json.DEEPEST + 1) + b"]" * (strict_json.DEEPEST + 1))
    with pytest.raises(ValueError, match="deeper than 64"):
        strict_json.record(b"[[]," * 65 + b"1" + b"]" * 65)
    said = {"text": '"[[[[{{{{\\' * 500, "wide": [[i, {"b": "]}"}] for i in range(1000)]}
    assert strict_json.record(json.dumps(said).encode()) == said
    assert strict_json.record(rb'"\ud83d\ude00"') == "\U0001f600"


def test_a_line_of_keys_that_repeat_takes_linear_time() -> None:
    begun = time.process_time()
    found = loose_json.loads("{" + ", ".join(f'"{i % 20_000}": 1' for i in range(40_000)) + "}")
    assert len(found.twice) == 20_000 and time.process_time() - begun < 5  # quadratic: minutes


class Example(TypedDict):
    a: list[int]
    b: NotRequired[float | None]
    c: NotRequired[dict[str, bool]]


def test_forms_name_what_does_not_fit() -> None:
    assert not misfit({"a": [1], "b": None, "c": {"x": True}, "more": object()}, Example)
    for value, said in (
        ([], "holds list for its content, where an object belongs"),
        ({}, "does not hold a"),
        ({"a": [1, True]}, "holds True for a[1], where a whole number belongs"),
        ({"a": [], "b": "x" * 99}, f"holds '{'x' * 40}' for b, where a number or null belongs"),
        ({"a": [], "c": {"\n": 1}}, "holds 1 for c.'\\n', where true or false belongs"),
    ):
        assert misfit(value, Example) == said


@pytest.mark.parametrize("kind", ["nested", "nested and whole", "half a character", "empty"])
def test_a_checkpoint_of_nested_json_falls_back_one_generation(tmp_path: Path, kind: str) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"w": torch.full((2,), float(step))}, {"identity": "x"})
    (tmp_path / "checkpoint-000000002.json").write_bytes(ODD[kind])
    said: list[str] = []
    found = checkpoint.newest(tmp_path, fit=lambda header: "", say=said.append)
    assert found is not None and found[0]["step"] == 1 and found[1]["w"].tolist() == [1, 1]
    assert len(said) == 1 and "going back one generation" in said[0]


VERDICTS: tuple[Any, ...] = (
    [],
    {"arms": 3, "decided_by": 1},
    {"arms": [[], 3, None], "decided_by": "x"},
    {"arms": [{"name": [], "on": "baseline"}], "decided_by": []},
    {"arms": [], "decided_by": "x", "environment": [], "data": 3},
    {"arms": [], "decided_by": "x", "data": [{"key": {}, "counts": []}, 4], "version": {}},
)
ROWS: tuple[Any, ...] = (
    {"decision_key": [], "runs": [], "ended": 0, "study": "x", "decision": {}},
    {"decision_key": "x", "runs": [[]], "ended": 0, "study": "x", "decision": {}},
    {"decision_key": "x", "runs": [], "ended": "no", "study": "x", "decision": {"seeds": 3}},
    {"decision_key": "x", "runs": [], "ended": 0, "study": {}, "decision": {}, "contrasts": [3]},
    {"begun": []},
    {"when": 3, "first": [], "decision_key": "x", "kind": "odd", "after": "x", "because": 1, "of": {}},
)


def test_odd_files_of_other_studies_break_nothing(tmp_path: Path) -> None:
    plan = finished_store.fill(finished_store.plan(tmp_path))
    before, noise = rows(plan), pooled(plan)
    folder = plan.store.root / "studies"
    for number, value in enumerate(VERDICTS):
        there = folder / f"old{number}"
        there.mkdir(parents=True)
        (there / "verdict.json").write_text(json.dumps(value))
        lying(there)
    (folder / "deep").mkdir()
    (folder / "deep" / "verdict.json").write_text(DEEP)
    escape = {"arm": "a", "key": "k", "ended": 0, "also": [], "pairs": [["0/0/0", "../../x", "/etc"]]}
    odd = [*ROWS, {"decision_key": "x", "runs": [], "ended": 0, "study": "x", "decision": {}, "contrasts": [escape]}]
    lines = "".join(json.dumps(row) + "\n" for row in odd) + DEEP + "\n" + '{"a": NaN}\n'
    for path in (plan.store.root / "decisions.jsonl", folder / "deep" / "decisions.jsonl"):
        with path.open("a") as file:
            file.write(lines)
    assert read_decisions(folder / "deep" / "decisions.jsonl") == []
    assert [row["decision_key"] for row in rows(plan)] == [row["decision_key"] for row in before]
    assert pooled(plan) == noise


@pytest.mark.parametrize(
    "change",
    [{"trajectory": 3}, {"seconds": "1"}, {"steps": None}, {"weights": []}, {"status": 1}, {"trajectory": [1]}],
)
def test_a_record_of_other_types_under_its_own_digest_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    plan = finished_store.fill(finished_store.plan(tmp_path))
    run = next(iter(plan.runs.values()))
    path = plan.store.train(run.train_key) / "done.json"
    path.write_text(json.dumps(sealed({**json.loads(path.read_text()), **change})))
    with pytest.raises(CheckFailed, match=r"where .* belongs"):
        plan.store.trained(run.train_key)


def test_odd_notes_of_the_program_to_itself_are_refused_or_lost(tmp_path: Path) -> None:
    plan = finished_store.fill(finished_store.plan(tmp_path))
    plan.directory.mkdir(parents=True)
    for value in ({}, [[]], [{"arm": [], "seed": 0, "fault": "x"}], DEEP):
        text = value if isinstance(value, str) else json.dumps(value)
        (plan.directory / "failed.json").write_text(text)
        with pytest.raises(CheckFailed, match=r"failed\.json"):
            plan.failures()
    (tmp_path / "inputs.json").write_text(DEEP)
    assert len(Inputs(tmp_path / "inputs.json").sha256(plan.directory / "failed.json")) == 64
