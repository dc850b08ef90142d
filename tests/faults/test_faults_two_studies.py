"""Two studies in one store: what one makes the other waits for, each run is made once, and no page of another is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests import finished_store as made
from tests.faults.test_faults_changed_code import STUDY
from tests.whole import held

from ablab.judging import judge, shelf
from ablab.runs.store import read_lines

OTHER = (
    STUDY.replace('name = "edited"', 'name = "other"').replace('"swiglu"', '"gelu"').replace("arm.swiglu", "arm.gelu")
)


def ablab(folder: Path, study: str) -> subprocess.Popen[str]:
    """`ablab run STUDY`, left to itself."""
    command = [sys.executable, "-m", "ablab.cli.main", "run", study, "--jobs", "1"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def done(folder: Path) -> Counter[str]:
    """How often each training was brought to its end, by every ledger of the store."""
    rows = [row for path in folder.glob("runs/studies/*/ledger.jsonl") for row in read_lines(path)]
    return Counter(row["key"] for row in rows if row["outcome"] == "done")


def test_a_second_study_takes_other_runs_and_then_what_a_dead_one_left(tmp_path: Path) -> None:
    """The first holds the baseline; the second makes its arm meanwhile, and the baseline once the first one is killed."""
    shared = held.STUDY.replace("tokens = 40_960", "tokens = 2048")  # of 4 steps
    (tmp_path / "study.toml").write_text(shared)
    (tmp_path / "other.toml").write_text(
        shared.replace('name = "killed"', 'name = "other"').replace('"swiglu"', '"gelu"')
    )
    with held.held(tmp_path, "baseline", 0, 2):
        second = ablab(tmp_path, "other.toml")
        assert second.stdout is not None
        said = ""
        while "seed 1: done" not in said:  # all that it can make without the first one's runs
            line = second.stdout.readline()
            assert line, (said, second.communicate())
            said += line
        assert said.count("baseline, seed 0: is being made by pid ") == 1, said
    rest, errors = second.communicate(timeout=held.HANG)
    assert second.returncode == 0, rest + errors
    assert "is in use" not in errors
    first = ablab(tmp_path, "study.toml")
    first.communicate(timeout=held.HANG)
    assert first.returncode == 0 and set(done(tmp_path).values()) == {1}


def test_two_schedulers_make_each_run_once(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    (tmp_path / "other.toml").write_text(OTHER)
    both = [ablab(tmp_path, study) for study in ("study.toml", "other.toml")]
    for process in both:
        said, errors = process.communicate(timeout=held.HANG)
        assert process.returncode == 0, said + errors
    verdicts = [
        json.loads((tmp_path / f"runs/studies/{name}/verdict.json").read_text()) for name in ("edited", "other")
    ]
    assert all(len(one["runs"]) == 4 and {run["status"] for run in one["runs"]} == {"done"} for one in verdicts)
    shared = [{run["key"] for run in one["runs"] if run["arm"] == "baseline"} for one in verdicts]
    assert shared[0] == shared[1] and len(list(tmp_path.glob("runs/train/*/done.json"))) == 6
    assert all(count == 1 for count in done(tmp_path).values())


def test_another_study_of_the_same_name_overwrites_nothing(tmp_path: Path) -> None:
    first = made.fill(made.plan(tmp_path))
    judge.conclude(first)
    kept = {name: (first.directory / name).read_bytes() for name in ("verdict.json", "study.toml")}
    changed = made.STUDY.replace("What holds after packing?", "Another question?").replace(
        "model.d_model = 40", "model.d_model = 48"
    )
    other = made.plan(tmp_path, changed)
    answer = judge.conclude(other)
    place = first.directory / "earlier" / shelf.version(first)
    assert {name: (place / name).read_bytes() for name in kept} == kept
    assert any(f"earlier/{shelf.version(first)}" in note for note in answer["notes"])
