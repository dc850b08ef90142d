"""`ablab trial`: a change that pays is kept, one that does not is not; what cannot be tried is said with its cure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests import foreign

from ablab.cli.main import app
from ablab.core import duration
from ablab.core.fault import CheckFailed, Interrupted, InvalidStudy, Refused
from ablab.judging import collect
from ablab.launch import local, program
from ablab.launch.board import Board
from ablab.launch.study import silent
from ablab.launch.trial import Attempt, Tried, trial

HANG = 120  # seconds after which a test has failed
COMMAND = (sys.executable, "train.py", "--seed={seed}", "--out_dir={out}")
SAME = "def gain(width, slope):  # as before\n    return 0.05 * (width > 384) + 0.02 * (slope == '0.3')\n"


def change(checkout: Path, gain: str = "0.05") -> None:
    """A wider model by default, whose own noise is another, and what it gains."""
    (checkout / "train.py").write_text(foreign.TRAIN.replace('"n_embd", 384', '"n_embd", 512'))
    (checkout / "model.py").write_text(f"def gain(*_):\n    return {gain}\n")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout without a change; runs are made in this process, one after another."""
    foreign.write(tmp_path)
    monkeypatch.setattr(local, "execute", execute)
    return tmp_path / "program"


def execute(board: Board, *, until: float | None = None, **_: object) -> None:
    """What `local.execute` does, without a process for it."""
    while runs := collect.wanted(board.plan):
        for run in runs:
            if until is not None and time.monotonic() >= until:
                raise Interrupted
            board.progress("start", run, "")
            try:
                kind, text = program.do(run, store=board.plan.store, stop=lambda: False, say=silent), ""
            except program.Failed as error:
                kind, text = "failed", str(error)
            board.ended(run, kind, text, seconds=0.0, alone=True)


def tried(checkout: Path, budget: float | None = None, **asked: object) -> Tried:
    given = {
        "command": COMMAND,
        "log": "nanogpt",
        "matters": 0.01,
        "directory": checkout,
        "out": checkout.parent / "runs",
    }
    return trial(Attempt(**{**given, **asked}), budget=budget, say=silent)  # type: ignore[arg-type]


def command(
    checkout: Path, capsys: pytest.CaptureFixture[str], *options: str, words: tuple[str, ...] = COMMAND
) -> tuple[object, Tried]:
    """The exit code of the command, and its one line."""
    capsys.readouterr()
    where = ("--directory", str(checkout), "--out", str(checkout.parent / "runs"))
    code = app(
        ["trial", "--log", "nanogpt", "--matters", "0.01", *where, *options, "--", *words], standalone_mode=False
    )
    [line] = capsys.readouterr().out.splitlines()
    return code or 0, json.loads(line, parse_constant=pytest.fail)


def runs(checkout: Path) -> dict[str, int]:
    """Every run that was begun, and when its folder was last begun."""
    return {
        one.parent.name: one.stat().st_mtime_ns for one in (checkout.parent / "runs" / "train").glob("*/begun.json")
    }


def test_a_change_that_pays_is_kept_and_what_is_kept_is_not_run_again(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(checkout)
    code, found = command(checkout, capsys)
    assert (code, found["word"], found["better"], found["faults"]) == (0, "better", True, [])
    assert found["delta"] is not None and abs(found["delta"] + 0.05) < 0.01 and found["seeds"] == 3
    assert found["high"] is not None and found["high"] < 0 and found["p"] is not None and found["p"] < 0.05
    assert Path(found["page"]).is_file() and Path(found["study"]).is_file() and found["exploratory"] is None
    left = sorted(one.name for one in Path(found["study"]).parent.iterdir())
    assert left == ["free.000001", "study.toml"]  # the checkouts are gone
    assert (
        subprocess.run(["git", "status", "-s"], cwd=checkout, capture_output=True, check=True).stdout
        == b" M model.py\n M train.py\n"
    )
    first = runs(checkout)
    assert len(first) == 6
    code, again = command(checkout, capsys)
    assert code == 0 and runs(checkout) == first and {**again, "seconds": 0} == {**found, "seconds": 0}
    foreign.git(checkout, "commit", "--quiet", "--all", "--message=keep")  # the candidate's runs are now the baseline's
    (checkout / "train.py").write_text(f"{(checkout / 'train.py').read_text()}# a remark\n")
    code, found = command(checkout, capsys)
    assert (code, found["word"], len(runs(checkout))) == (1, "equivalent", 9)


def test_a_change_that_does_nothing_is_not_kept(checkout: Path) -> None:
    (checkout / "model.py").write_text(SAME)
    found = tried(checkout)
    assert (found["better"], found["word"], found["seeds"]) == (False, "equivalent", 3)


def test_a_change_for_the_worse_and_one_that_is_better_higher(checkout: Path) -> None:
    change(checkout, "-0.05")
    down, up = tried(checkout), tried(checkout, lower=False, metric="accuracy")
    assert (down["better"], down["word"], up["better"], up["word"]) == (False, "worse", True, "better")
    assert down["delta"] == up["delta"] and (up["low"], up["high"], up["metric"]) == (
        down["low"],
        down["high"],
        "accuracy",
    )
    assert up["low"] is not None and up["high"] is not None and 0 < up["low"] < up["high"]
    assert len(runs(checkout)) == 6  # the same runs, read again


def test_a_change_of_data_that_git_tracks_and_new_files_are_part_of_it(checkout: Path) -> None:
    (checkout / "gain.txt").write_text("0.0")
    (checkout / "model.py").write_text("def gain(*_):\n    return float(open('gain.txt').read())\n")
    (checkout / "held.bin").write_text("ignored by git, and read")
    foreign.git(checkout, "add", "--all")
    foreign.git(checkout, "commit", "--quiet", "--message=two")
    (checkout / "gain.txt").write_text("0.05")
    more = "\nprint(open('held.bin').read(), open('new.txt').read())\n"
    (checkout / "train.py").write_text(foreign.TRAIN.replace('"n_embd", 384', '"n_embd", 512') + more)
    (checkout / "new.txt").write_text("a new file")
    with pytest.raises(CheckFailed, match=r"reads names 'none\.bin', and no file is there"):
        tried(checkout, reads=("none.bin",))
    found = tried(checkout, reads=("*.bin", "gain.txt"))
    assert (found["better"], found["faults"]) == (True, [])


def test_a_patch_is_tried_on_what_is_committed_whatever_the_checkout_holds(checkout: Path) -> None:
    change(checkout)
    patch = checkout.parent / "gain.diff"
    patch.write_bytes(subprocess.run(["git", "diff"], cwd=checkout, capture_output=True, check=True).stdout)
    foreign.git(checkout, "checkout", "--quiet", ".")
    (checkout / "train.py").write_text("raise SystemExit('not committed')\n")
    assert tried(checkout, patch=patch)["word"] == "better"
    foreign.git(checkout, "checkout", "--quiet", ".")
    (checkout / "model.py").write_text(SAME)
    foreign.git(checkout, "commit", "--quiet", "--all", "--message=two")
    with pytest.raises(CheckFailed, match=rf"{patch}: the arm's patch does not apply to commit .*; make it of what is"):
        tried(checkout, patch=patch)


def test_time_that_is_up_is_not_better_and_the_next_call_goes_on(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(checkout)
    code, found = command(checkout, capsys, "--budget", "0.000001")
    assert (code, found["word"], found["better"], found["seeds"], found["delta"]) == (1, "not settled", False, 0, None)
    code, found = command(checkout, capsys, "--budget", "1h30m")
    assert (code, found["word"], found["exploratory"]) == (0, "better", None)


def test_a_signal_is_no_end_of_time(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise Interrupted

    monkeypatch.setattr(local, "execute", stopped)
    change(checkout)
    for budget in (None, 3600.0):
        with pytest.raises(Interrupted):
            tried(checkout, budget)


def test_asking_again_by_another_rule_until_it_says_better_keeps_nothing_without_fresh_seeds(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(checkout)
    assert command(checkout, capsys, "--alpha", "0.00000000001")[0] == 1
    code, found = command(checkout, capsys)
    assert (code, found["word"], found["better"]) == (1, "better", False)
    assert found["exploratory"] is not None and "decision.confidence" in found["exploratory"]
    code, found = command(checkout, capsys, "--first-seed", "100")
    assert (code, found["word"], found["better"]) == (0, "better", True) and found["exploratory"]


def test_a_candidate_that_fails_is_a_fault_with_its_last_words(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(checkout, "exit('no such layer')")
    code, found = command(checkout, capsys)
    assert (code, found["better"], found["word"]) == (4, False, "invalid")
    assert found["faults"] and all("candidate, seed" in one and "no such layer" in one for one in found["faults"])


def test_a_candidate_that_diverges_is_not_better(checkout: Path) -> None:
    change(checkout, "float('nan')")
    found = tried(checkout)
    assert (found["better"], found["faults"]) == (False, []) and found["word"] in ("unstable", "worse", "invalid")


@pytest.mark.parametrize(
    ("asked", "error", "told"),
    [
        ({}, CheckFailed, "holds what is committed and nothing else: there is nothing to try; edit the checkout"),
        ({"command": ("python3", "train.py")}, InvalidStudy, r"COMMAND: never says {seed}.*or give --seed-arg"),
        ({"directory": Path("/")}, CheckFailed, "is no git checkout that can be run .*git init"),
        ({"directory": Path("/nowhere")}, CheckFailed, "is no folder; give the place of a git checkout in --directory"),
        ({"patch": Path("none.diff")}, CheckFailed, "none.diff: cannot be read .*write it with: git diff > FILE"),
        ({"patch": Path(os.devnull)}, CheckFailed, "/dev/null"),
        ({"log": {"regex": "("}}, InvalidStudy, r"^--log.regex: '\(' is no regular expression"),
        ({"log": "nanogtp"}, InvalidStudy, "^--log: no reader is called 'nanogtp'; did you mean 'nanogpt'"),
        ({"command": ("none_such", "{seed}")}, CheckFailed, "COMMAND: 'none_such' is no program on PATH"),
        ({"timeout": "soon"}, InvalidStudy, "^--timeout: 'soon' is no span of time"),
    ],
    ids=lambda one: str(one) if isinstance(one, dict) else "",
)
def test_what_cannot_be_tried_is_said_in_words_of_the_options(
    checkout: Path, asked: dict[str, object], error: type[Refused], told: str
) -> None:
    if asked and "patch" not in asked:
        change(checkout)
    with pytest.raises(error, match=told):
        tried(checkout, **asked)


@pytest.mark.parametrize(
    ("log", "told"),
    [
        ({"regex": "loss is ([0-9.]+)"}, r"has no line that .* matches; mend --log.regex"),
        ({"json": "{out}/log.json", "field": "val_loss"}, "cannot be read"),
        ("golf", "read it another way: --log { regex"),
    ],
    ids=["regex", "json", "reader"],
)
def test_a_program_that_prints_no_score_is_a_fault_that_says_where_to_look(
    checkout: Path, log: object, told: str
) -> None:
    change(checkout)
    found = tried(checkout, log=log, seeds=2)
    assert not found["better"] and found["faults"]
    ledger = (Path(found["page"]).parent / "ledger.jsonl").read_text()
    assert "left no score" in ledger


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--matters", "nan"), "nan is not above 0"),
        (("--alpha", "0.5"), "0.5 does not lie between 0 and 0.5"),
        (("--budget", "soon"), "'soon' is no span of time; write 600 (seconds), 90s, 30m, 1h30m or 2d"),
        (("--log", "{ json ="), "is no table of TOML"),
    ],
)
def test_options_that_mean_nothing_are_usage(checkout: Path, options: tuple[str, ...], told: str) -> None:
    from typer.testing import CliRunner

    done = CliRunner().invoke(
        app, ["trial", "--log", "nanogpt", "--matters", "1", *options, "--", *COMMAND], env={"COLUMNS": "200"}
    )
    assert done.exit_code == 2 and told in done.output


@pytest.mark.parametrize("log", [r"val loss ([\d.]+)", "{ regex = 'val loss ([\\d.]+)' }", '{ reader = "nanogpt" }'])
def test_a_log_is_a_reader_an_expression_or_a_table(
    checkout: Path, capsys: pytest.CaptureFixture[str], log: str
) -> None:
    change(checkout)
    code, found = command(checkout, capsys, "--log", log, "--seed-arg", "--seed", words=(*COMMAND[:2], COMMAND[3]))
    assert (code, found["word"]) == (0, "better")
    assert (
        '"--seed={seed}"' not in Path(found["study"]).read_text()
        and "--seed={seed}" in Path(found["study"]).read_text()
    )


def test_spans_of_time() -> None:
    given = {"30": 30, "90s": 90, "30m": 1800, "1h30m": 5400, "1d2h3m4.5s": 93784.5, " 2d ": 172800}
    assert {text: duration.seconds(text) for text in given} == given
    assert [duration.seconds(text) for text in ("", "0", "m", "30m1h", "1h 30m", "-1s", "1h30")] == [None] * 7


def test_kill_9_loses_only_the_run_under_way(tmp_path: Path) -> None:
    """The command itself, with its workers: killed within the third run, then run again to its word."""
    foreign.write(tmp_path)
    checkout, store = tmp_path / "program", tmp_path / "runs"
    change(checkout)
    asked = f"[ {{seed}} = 1 ] && [ -f {tmp_path}/hold ]"
    hold = f"{foreign.PYTHON} train.py --seed={{seed}} --out_dir={{out}} $({asked} && echo --hold)"
    words = [
        sys.executable,
        "-P",
        "-m",
        "ablab",
        "trial",
        "--log",
        "nanogpt",
        "--matters",
        "0.01",
        "--",
        "sh",
        "-c",
        hold,
    ]
    (tmp_path / "hold").touch()
    first = subprocess.Popen(
        [*words[:5], "--out", str(store), *words[5:]], cwd=checkout, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + HANG
    while not list(store.glob("train/*/out/held")):
        assert first.poll() is None and time.monotonic() < end, first.communicate()
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=HANG)
    done = {one.parent.name: one.stat().st_mtime_ns for one in store.glob("train/*/done.json")}
    assert len(done) == 2
    (tmp_path / "hold").unlink()
    again = subprocess.run(
        [*words[:5], "--out", str(store), *words[5:]], cwd=checkout, capture_output=True, text=True, timeout=HANG
    )
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["word"] == "better"
    now = {one.parent.name: one.stat().st_mtime_ns for one in store.glob("train/*/done.json")}
    assert len(now) == 6 and {name: now[name] for name in done} == done


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_ends_the_program_leaves_no_checkout_and_the_same_command_goes_on(
    tmp_path: Path, number: signal.Signals
) -> None:
    foreign.write(tmp_path)
    checkout, store = tmp_path / "program", tmp_path / "runs"
    change(checkout)
    (tmp_path / "hold").touch()
    hold = f"{foreign.PYTHON} train.py --seed={{seed}} --out_dir={{out}} $([ -f {tmp_path}/hold ] && echo --hold)"
    words = [sys.executable, "-P", "-m", "ablab", "trial", "--out", str(store), "--log", "nanogpt", "--matters", "0.01"]
    words += ["--", "sh", "-c", hold]
    with subprocess.Popen(words, cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        end = time.monotonic() + HANG
        while not list(store.glob("train/*/out/held")):
            assert first.poll() is None and time.monotonic() < end, first.communicate()
            time.sleep(0.02)
        first.send_signal(number)
        said, errors = first.communicate(timeout=HANG)
    assert (first.returncode, said) == (75, ""), errors
    assert "run the same command to go on" in errors
    [trial] = (store / "trials").iterdir()
    assert sorted(one.name for one in trial.iterdir() if not one.name.startswith("free.")) == ["study.toml"]
    assert not list(store.glob("train/*/tree"))
    mark = f"ABLAB_RUN={store}".encode()
    left = []
    for one in Path("/proc").glob("[0-9]*/environ"):
        try:
            left += [one] if mark in one.read_bytes() else []
        except OSError:
            continue
    assert not left
    (tmp_path / "hold").unlink()
    again = subprocess.run(words, cwd=checkout, capture_output=True, text=True, timeout=HANG)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["word"] == "better"
