"""F30: what is edited, removed, put in, moved or cut off of the rows that nothing else guards is named, with its line."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import finished_store

from ablab import report as reporting
from ablab.core import chain
from ablab.core.fault import CheckFailed
from ablab.core.files import write_json
from ablab.core.sealed import sealed
from ablab.judging import judge
from ablab.runs.store import append_line, read_lines
from ablab.scoring.scores import Scores
from ablab.training.metrics import WALL, Metrics

Lines = list[bytes]


def rows(count: int = 8) -> list[dict[str, Any]]:
    return [{"step": i, "loss": 1.5 - i / 8, "seconds": i / 3} for i in range(count)]


def metrics(path: Path, several: list[dict[str, Any]], keep: int = 0) -> Metrics:
    made = Metrics(path, keep=keep)
    for row in several:
        made.write(row)
    made.close()
    return made


def ledger(path: Path, several: list[dict[str, Any]]) -> str:
    for row in several:
        append_line(path, row)
    return str(read_lines(path)[-1]["chain"])


def said(path: Path, end: str = "", aside: Any = ()) -> list[str]:
    with path.open("rb") as file:
        return chain.check(iter(file), end=end, aside=aside)[0]


EDITED = "is not what was written there: it was edited, or a line before it removed or moved"


def edited(lines: Lines) -> Lines:
    return [*lines[:2], lines[2].replace(b'"loss": 1', b'"loss": 0'), *lines[3:]]


def removed(lines: Lines) -> Lines:
    return [*lines[:2], *lines[3:]]


def moved(lines: Lines) -> Lines:
    return [*lines[:2], lines[5], *lines[2:5], *lines[6:]]


def twice(lines: Lines) -> Lines:
    return [*lines[:2], lines[1], *lines[2:]]


def bare(lines: Lines) -> Lines:
    return [*lines[:2], b'{"step": 2, "loss": 0.1}\n', *lines[2:]]


def cut(lines: Lines) -> Lines:
    return lines[:5]


def emptied(lines: Lines) -> Lines:
    return []


def beheaded(lines: Lines) -> Lines:
    return lines[1:]


def no_digests(lines: Lines) -> Lines:
    return [json.dumps({**json.loads(line), "chain": None}).encode() + b"\n" for line in lines]


def forged(lines: Lines) -> Lines:
    """The whole chain made again over other losses."""
    before, made = "", []
    for line in lines:
        row = chain.linked({**json.loads(line), "loss": 0.1}, before, WALL)
        before = row["chain"]
        made.append(json.dumps(row).encode() + b"\n")
    return made


CHANGES: dict[Callable[[Lines], Lines], str] = {
    edited: f"line 3 {EDITED}",
    removed: f"line 3 {EDITED}",
    moved: f"line 3 {EDITED}",
    twice: f"line 3 {EDITED}",
    bare: "line 3 carries no digest: it was put in, or edited",
    cut: "its end is missing: the last line that was written is not among its 5",
    emptied: "its end is missing: the last line that was written is not among its 0",
    beheaded: f"line 1 {EDITED}",
    no_digests: "its end is missing: the last line that was written is not among its 8",
    forged: "its end is missing: the last line that was written is not among its 8",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("kind", ["metrics", "ledger"])
def test_every_change_is_named(kind: str, change: Callable[[Lines], Lines], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    plain = [{"step": row["step"], "loss": row["loss"]} for row in rows()]
    end = metrics(path, rows()).head if kind == "metrics" else ledger(path, plain)
    aside = WALL if kind == "metrics" else ()
    assert said(path, end, aside) == []
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    assert said(path, end, aside)[0] == CHANGES[change]


def test_any_byte_of_a_row_counts(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    end, draw = (
        ledger(path, [{"arm": "a", "seed": 1, "fault": "x"}, {"arm": "b", "seed": 2, "fault": "ü"}]),
        random.Random(0),
    )
    whole = path.read_bytes()
    for _ in range(300):
        at = draw.randrange(len(whole))
        changed = whole[:at] + bytes([whole[at] ^ 1 << draw.randrange(7)]) + whole[at + 1 :]
        path.write_bytes(changed)
        same = [json.loads(line) for line in whole.splitlines()]
        try:
            alike = [json.loads(line) for line in changed.splitlines()] == same
        except ValueError:
            alike = False
        assert bool(said(path, end)) != alike, changed


def test_clocks_are_no_part_of_a_chain(tmp_path: Path) -> None:
    one = metrics(tmp_path / "a", rows())
    other = metrics(tmp_path / "b", [{**row, "seconds": 99.0} for row in rows()])
    assert (one.head, one.rows) == (other.head, other.rows)


@pytest.mark.parametrize("kept", [0, 1, 5, 8])
def test_a_run_that_resumes_has_the_chain_of_one_that_did_not_stop(kept: int, tmp_path: Path) -> None:
    whole, path = metrics(tmp_path / "whole", rows()), tmp_path / "again"
    size = metrics(path, rows(kept)).size
    with path.open("ab") as file:
        file.write(
            (tmp_path / "whole").read_bytes()[size : size + 90]
        )  # what was written after the checkpoint, and torn
    again = metrics(path, rows()[kept:], keep=size)
    assert (again.head, again.rows, path.read_bytes()) == (whole.head, whole.rows, (tmp_path / "whole").read_bytes())


@pytest.mark.parametrize("torn", [b'{"arm": "c", "se', b"{", b'{"arm": "c"}'])
def test_a_torn_last_line_is_no_tampering(torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger(path, rows(3))
    with path.open("ab") as file:
        file.write(torn)
    if not torn.endswith(b"}"):
        assert said(path) == []
        end = ledger(path, rows(2))
        assert said(path, end) == []
        assert len(read_lines(path)) == 5


def test_rows_of_before_there_were_chains_are_believed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(3)))
    assert said(path) == []
    end = ledger(path, rows(2))
    assert said(path, end) == []
    path.write_bytes(path.read_bytes().replace(b'"step": 2,', b'"step": 7,', 1))  # the last of them is
    assert said(path, end) == [f"line 4 {EDITED}"]


def test_scores_are_held_against_the_result(tmp_path: Path) -> None:
    scores = Scores(np.array([3.0, 4.0]), np.array([2, 2]), np.array([5, 5]))
    result = {"scores": scores.save(tmp_path), "metrics": scores.metrics}
    assert Scores.load(tmp_path, result).metrics == scores.metrics
    with pytest.raises(
        CheckFailed, match=r"scores\.npz: does not come to what result\.json says of it \(nats_per_token 1\.0, "
    ):
        Scores.load(tmp_path, {**result, "metrics": {**scores.metrics, "nats_per_token": 1.0}})


# ---- in the page


def pages(plan: Any) -> tuple[list[str], str]:
    """What the verdict says was changed, and the Markdown page."""
    answer = judge.conclude(plan)
    reporting.write(answer, plan.directory)
    return answer["changed"], (plan.directory / "report.md").read_text()


def test_the_page_names_file_and_line_until_the_records_are_back(tmp_path: Path) -> None:
    plan = finished_store.fill(finished_store.plan(tmp_path))
    append_line(plan.directory / "ledger.jsonl", {"arm": "baseline", "seed": 0, "outcome": "done"})
    append_line(plan.directory / "ledger.jsonl", {"arm": "int5", "seed": 0, "outcome": "failed", "fault": "x"})
    assert pages(plan)[0] == []
    path = plan.directory / "ledger.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole.splitlines(keepends=True)[0])
    for _ in range(2):  # judged again, it is said again
        changed, page = pages(plan)
        assert [line.partition("ledger.jsonl: ")[2] for line in changed] == [
            "its end is missing: the last line that was written is not among its 1"
        ]
        assert "CHANGED RECORDS" in page and "its end is missing" in page
    path.write_bytes(whole)
    assert pages(plan)[0] == []
    decisions = plan.store.root / "decisions.jsonl"
    decisions.write_bytes(decisions.read_bytes().replace(b'"matters": 0.0', b'"matters": 0.1', 1))
    changed, page = pages(plan)
    assert len(changed) == 1 and f"decisions.jsonl: line 1 {EDITED}" in changed[0] and str(tmp_path) not in page


def test_metrics_of_a_run_are_held_against_its_end(tmp_path: Path) -> None:
    plan = finished_store.fill(finished_store.plan(tmp_path))
    run = next(iter(plan.runs.values()))
    folder = plan.store.train(run.train_key)
    made = metrics(folder / "metrics.jsonl", rows())
    done = json.loads((folder / "done.json").read_text())
    done = {name: value for name, value in done.items() if name != "digest"}
    write_json(folder / "done.json", sealed({**done, "metrics": {"rows": made.rows, "chain": made.head}}))
    assert pages(plan)[0] == []
    whole = (folder / "metrics.jsonl").read_bytes()
    for change, text in ((edited, f"line 3 {EDITED}"), (cut, "its end is missing: ")):
        (folder / "metrics.jsonl").write_bytes(b"".join(change(whole.splitlines(keepends=True))))
        (only,) = pages(plan)[0]
        assert f"{run.train_key}/metrics.jsonl: {text}" in only
    (folder / "metrics.jsonl").unlink()
    assert pages(plan)[0][0].endswith("metrics.jsonl: is missing")
