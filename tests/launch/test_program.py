"""A program that is not ours, from its command to a verdict, and everything that can go wrong on the way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests import foreign

from ablab.cli.main import app
from ablab.core.fault import CheckFailed, Interrupted, InvalidStudy
from ablab.judging import collect, shelf, versions
from ablab.judging import program as judged
from ablab.launch import program
from ablab.launch.study import GivenUp, Lab, conclude, silent
from ablab.runs.plan import Plan, Run
from ablab.study import load

HANG = 120  # seconds after which a test has failed


def do(plan: Plan, arm: str = "baseline", seed: int = 0) -> str:
    return program.do(plan.runs[arm, seed], store=plan.store, stop=lambda: False, say=silent)


def folder(plan: Plan, run: Run) -> Path:
    return plan.store.train(run.train_key)


def test_from_a_command_to_a_verdict(tmp_path: Path) -> None:
    file = foreign.write(
        tmp_path, foreign.changed(foreign.STUDY, repeats="1") + '[arm.steep]\nrunner.env.SLOPE = "0.3"\n'
    )
    lab = Lab(file, out=tmp_path / "runs")
    facts = lab.check()
    assert "runner" in facts and [row["name"] for row in facts["arms"]] == ["baseline", "wide", "steep"]
    found = lab.run(jobs=2, say=silent)
    words = {row["name"]: row["word"] for row in found.answer["arms"]}
    assert words == {"baseline": "baseline", "wide": "better", "steep": "better"} and found.answer["winner"] == "wide"
    wide = next(row for row in found.answer["arms"] if row["name"] == "wide")
    assert wide["delta"] is not None and abs(wide["delta"] + 0.05) < 0.01 and wide["seeds"] == 3
    assert wide["changes"] == [{"path": "runner.args.n_embd", "before": None, "after": 512}]
    assert wide["cost"]["parameters"] is None and wide["cost"]["train_seconds"] is not None
    said = "\n".join(found.answer["notes"])
    assert judged.UNPROVEN in said and "the correlation found over the pairs is" in said
    assert "2 runs of seed 0 of the baseline have one score: the program repeats itself" in said
    page = (found.folder / "report.html").read_text()
    assert "n_embd" in page and str(tmp_path) not in page
    again = lab.run(say=lambda text: pytest.fail(text))  # nothing is left to do
    assert again.answer["runs"] == found.answer["runs"]
    assert lab.verdict.answer == again.answer
    rows = [json.loads(line) for line in (found.folder / "ledger.jsonl").read_text().splitlines()]
    assert [row["outcome"] for row in rows] == ["done"] * 9


def test_a_run_stands_in_a_clean_tree_with_the_diff_then_the_patch(tmp_path: Path) -> None:
    patched = foreign.STUDY + '[arm.gate]\nrunner.patch = "gate.diff"\n'
    file = foreign.write(tmp_path, patched)
    checkout = tmp_path / "program"
    (checkout / "model.py").write_text("def gain(width, slope):\n    return 0.5\n")
    gate = subprocess.run(["git", "diff"], cwd=checkout, capture_output=True, check=True).stdout
    (file.parent / "gate.diff").write_bytes(gate)
    foreign.git(checkout, "checkout", "model.py")
    (checkout / "left.txt").write_text("of the working tree")
    (checkout / "train.py").write_text(
        foreign.TRAIN + "\nprint(open('left.txt').read(), os.popen('git status -s').read())\n"
    )
    plan = foreign.plan(file)
    assert do(plan) == do(plan, "gate") == "done"
    base, gated = (collect.program.scored(plan, arm, 0) for arm in ("baseline", "gate"))
    assert base and gated and abs(base.stages["end"] - gated.stages["end"] - 0.5) < 0.1  # type: ignore[operator]
    said = (folder(plan, plan.runs["gate", 0]) / "stdout.txt").read_text()
    assert "of the working tree" in said and " M model.py" in said and "?? left.txt" in said
    assert not (folder(plan, plan.runs["gate", 0]) / "tree").exists()
    assert (
        subprocess.run(["git", "status", "-s"], cwd=checkout, capture_output=True, check=True).stdout
        == b" M train.py\n?? left.txt\n"
    )


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"log": "{ regex = 'loss is ([0-9.]+)' }"}, "left no score: .* has no line that"),
        ({"log": '{ json = "{out}/log.json", field = "val_loss" }'}, "left no score: .* cannot be read"),
        (
            {"args.init_from": '"nowhere"'},
            "ended with exit status 1; its last words: no way to start is called nowhere",
        ),
        ({"args.out_dir": '"/nonexistent"'}, "its last words: FileNotFoundError"),
    ],
)
def test_a_program_that_fails_or_says_no_score_has_failed_with_its_last_words(
    tmp_path: Path, keys: dict[str, str], told: str
) -> None:
    plan = foreign.plan(foreign.write(tmp_path, foreign.changed(foreign.STUDY, **keys)))
    with pytest.raises(program.Failed, match=told):
        do(plan)
    assert plan.store.trained(plan.runs["baseline", 0].train_key) is None


def test_runs_that_fail_are_given_up_and_the_page_is_written(tmp_path: Path) -> None:
    study = foreign.STUDY + '[arm.broken]\nrunner.args.init_from = "nowhere"\n'
    lab = Lab(foreign.write(tmp_path, study), out=tmp_path / "runs")
    with pytest.raises(GivenUp) as raised:
        lab.run(say=silent)
    assert "broken, seed 0: given up: the program ended with exit status 1" in str(raised.value)
    words = {row["name"]: row["word"] for row in raised.value.judged.answer["arms"]}
    assert (words["wide"], words["broken"]) == ("better", "invalid")


def test_nan_is_a_run_that_diverged(tmp_path: Path) -> None:
    late = foreign.TRAIN + "\nif width > 384: print('step 1001: train loss nan, val loss nan')\n"
    for log in ('"nanogpt"', r"{ regex = 'val loss ([\d.]+)' }"):
        file = foreign.write(
            tmp_path / log[:3].strip('" {'), foreign.changed(foreign.STUDY, log=log), **{"train.py": late}
        )
        plan = foreign.plan(file)
        assert do(plan) == "done" and do(plan, "wide") == "diverged"
        row = next(row for row in conclude(plan).answer["runs"] if row["arm"] == "wide")
        assert row["status"] == "diverged" and "val_loss is nan in line 6" in str(row["fault"])


def test_a_run_past_its_time_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    keys = {"timeout": '"1s"', "args.hold": "true", "args.for_ever": "true", "shell": "true"}
    command = f'"{foreign.PYTHON} train.py --seed={{seed}} --out_dir={{out}} --hold --for_ever & wait; true"'
    study = foreign.changed(foreign.STUDY, **{**keys, "args.hold": "", "args.for_ever": "", "command": command})
    plan = foreign.plan(foreign.write(tmp_path, study))
    with pytest.raises(CheckFailed, match=r"ran past its time, runner.timeout = 1 s"):
        do(plan)
    assert not alive(folder(plan, plan.runs["baseline", 0]))


def alive(of: Path) -> list[str]:
    """Processes of a run."""
    found = []
    for one in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"ABLAB_RUN={of}".encode() in one.read_bytes().split(b"\0"):
                found.append(one.parent.name)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("resume", ["", '"--init_from=resume"'])
def test_a_run_that_is_stopped_is_redone_or_goes_on(tmp_path: Path, resume: str) -> None:
    study = foreign.changed(foreign.STUDY, **({"resume": resume} if resume else {}), **{"args.hold": "true"})
    plan = foreign.plan(foreign.write(tmp_path, study))
    run = plan.runs["baseline", 0]
    out = folder(plan, run) / "out"
    with pytest.raises(Interrupted):
        program.do(run, store=plan.store, stop=lambda: (out / "held").exists(), say=silent)
    (out / "held").unlink()
    undone = (out / "ckpt.pt").read_text()
    said = list[str]()
    stop = lambda: (out / "held").unlink(missing_ok=True) or False  # noqa: E731  lets a run that is redone go on
    assert program.do(run, store=plan.store, stop=stop, say=said.append) == "done" and undone == "500"
    done = plan.store.trained(run.train_key)
    steps = [
        line.split(":")[0] for line in (folder(plan, run) / "stdout.txt").read_text().splitlines() if "step " in line
    ]
    assert steps == ["step 250", "step 500", "step 750", "step 1000"]
    assert done and done["program"]["resumed"] == (1 if resume else 0)
    assert said[:1] == (["goes on where it was: --init_from=resume"] if resume else [])


def test_a_run_without_a_checkpoint_begins_anew_within_the_same_try(tmp_path: Path) -> None:
    study = foreign.changed(foreign.STUDY, **{"resume": '"--init_from=resume"', "args.hold": "true"})
    plan = foreign.plan(foreign.write(tmp_path, study))
    run = plan.runs["baseline", 0]
    out = folder(plan, run) / "out"
    with pytest.raises(Interrupted):
        program.do(run, store=plan.store, stop=lambda: (out / "held").exists(), say=silent)
    (out / "ckpt.pt").unlink()  # stopped before it saved anything, though it had begun
    said = list[str]()
    stop = lambda: (out / "held").unlink(missing_ok=True) or False  # noqa: E731
    assert program.do(run, store=plan.store, stop=stop, say=said.append) == "done"
    done = plan.store.trained(run.train_key)
    assert done and done["program"]["resumed"] == 0
    assert said[0].startswith("goes on where it was") and said[1].endswith("begins anew")


def test_kill_9_and_sigterm_lose_nothing_but_the_run_that_was_under_way(tmp_path: Path) -> None:
    study = foreign.changed(foreign.STUDY, **{"args.hold": "true", "resume": '"--init_from=resume"'})
    file = foreign.write(tmp_path, study)
    plan = foreign.plan(file)
    of = folder(plan, plan.runs["baseline", 0])
    for number, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 75)):
        command = [sys.executable, "-P", "-m", "ablab", "run", str(file), "--out", str(file.parent / "runs")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: (of / "out" / "held").exists(), process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=HANG)
        assert process.returncode == code, errors
        if number == signal.SIGKILL:
            wait_for(lambda: not alive(of))
            for name in ("held", "ckpt.pt"):
                (of / "out" / name).unlink()
    (of / "out" / "held").unlink()
    stop = lambda: (of / "out" / "held").unlink(missing_ok=True) or False  # noqa: E731
    assert program.do(plan.runs["baseline", 0], store=plan.store, stop=stop, say=silent) == "done"


def wait_for(what: object, process: subprocess.Popen[str] | None = None) -> None:
    """Until `what()` is true; the process must live until then."""
    end = time.monotonic() + HANG
    while not what():  # type: ignore[operator]
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def test_what_is_left_running_is_killed_before_a_run_is_made_again(tmp_path: Path) -> None:
    plan = foreign.plan(foreign.write(tmp_path))
    of = folder(plan, plan.runs["baseline", 0])
    left = subprocess.Popen(["sleep", "1000"], env={**os.environ, "ABLAB_RUN": str(of)})
    assert do(plan) == "done" and left.wait(HANG) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"command": '"no_such_program --seed={seed}"'}, "'no_such_program' is no program on PATH"),
        ({"command": '"./train.py --seed={seed}"'}, "'./train.py' is no program in tree/"),
        ({"directory": '"../nothing"'}, "is no folder; give the place of a git checkout in runner.directory"),
        ({"directory": '"/"'}, "is no git checkout that can be run"),
        ({"reads": '["data/*.bin"]'}, r"runner.reads names 'data/\*.bin', and no file is there"),
        ({"gpus": "1000"}, "runner.gpus: asks for 1000, and this machine has"),
        ({"patch": '"none.diff"'}, "none.diff: cannot be read"),
        ({"patch": '"bad.diff"'}, "the arm's patch does not apply to commit [0-9a-f]{12}"),
    ],
)
def test_a_check_finds_what_no_run_could_start_with(tmp_path: Path, keys: dict[str, str], told: str) -> None:
    file = foreign.write(tmp_path, foreign.changed(foreign.STUDY, **keys))
    (file.parent / "bad.diff").write_text("--- a/none.py\n+++ b/none.py\n@@ -1 +1 @@\n-a\n+b\n")
    lab = Lab(file, out=tmp_path / "runs")
    for ask in (lab.check, lambda: lab.run(say=silent)):
        with pytest.raises(CheckFailed, match=told):
            ask()


@pytest.mark.parametrize("clock", [False, True])
def test_seeds_that_do_not_act_are_no_evidence(tmp_path: Path, clock: bool) -> None:
    deaf = foreign.TRAIN.replace('seed, out, width = int(told["seed"])', "seed, out, width = 7")
    if clock:
        deaf = deaf.replace(
            ", val loss {loss:.4f}", ", val loss {loss:.8f} train_time:{__import__('time').time_ns()}ms"
        )
        assert "train_time" in deaf
    plan = foreign.plan(foreign.write(tmp_path, **{"train.py": deaf}))
    for arm, seed in plan.runs:
        do(plan, arm, seed)
    row = next(row for row in conclude(plan).answer["arms"] if row["name"] == "wide")
    assert row["word"] == "invalid" and row["notes"][0] == (
        "not independent: seeds 0 and 1 of wide print the same numbers, one run under two seeds"
    )


def test_runs_of_one_seed_that_differ_are_the_floor(tmp_path: Path) -> None:
    loose = foreign.TRAIN.replace("common = draws.gauss(0, 0.02)", "common = random.SystemRandom().gauss(0, 0.02)")
    plan = foreign.plan(foreign.write(tmp_path, foreign.changed(foreign.STUDY, repeats="2"), **{"train.py": loose}))
    for arm, seed in plan.runs:
        do(plan, arm, seed)
    assert any(
        "3 runs of seed 0 of the baseline lie" in note and "the floor of what" in note
        for note in conclude(plan).answer["notes"]
    )


def test_where_higher_is_better_the_word_is_on_minus_the_score(tmp_path: Path) -> None:
    study = foreign.STUDY.replace('metric = "val_loss"', 'metric = "accuracy"\nlower = false')
    plan = foreign.plan(foreign.write(tmp_path, study))
    for arm, seed in plan.runs:
        do(plan, arm, seed)
    answer = conclude(plan).answer
    row = next(row for row in answer["arms"] if row["name"] == "wide")
    assert (answer["metric"], row["word"]) == ("-accuracy", "worse") and row["delta"] and row["delta"] > 0
    assert answer["levels"]["wide"]["accuracy"] == -answer["levels"]["wide"]["-accuracy"] > 0


def test_another_way_to_read_a_log_runs_nothing_again(tmp_path: Path) -> None:
    file = foreign.write(tmp_path)
    plan = foreign.plan(file)
    do(plan)
    file.write_text(foreign.changed(foreign.STUDY, log=r"{ regex = 'train loss ([\d.]+)', last = false }"))
    (tmp_path / "program").rename(tmp_path / "gone")
    (tmp_path / "gone").rename(tmp_path / "program")
    again = foreign.plan(file)
    assert again.runs["baseline", 0].train_key == plan.runs["baseline", 0].train_key
    began = (folder(plan, plan.runs["baseline", 0]) / "begun.json").stat().st_mtime_ns
    assert do(again) == "done" and (folder(plan, plan.runs["baseline", 0]) / "begun.json").stat().st_mtime_ns == began
    first, other = (judged.scored(one, "baseline", 0) for one in (plan, again))
    assert first and other and first.stages != other.stages


def test_what_speaks_of_our_own_trainer_says_that_it_does_not_apply(tmp_path: Path) -> None:
    file = foreign.write(tmp_path)
    with pytest.raises(CheckFailed, match="precision: is the program's affair"):
        Lab(file, out=tmp_path / "runs", precision="bf16").check()
    with pytest.raises(
        CheckFailed, match=r"its arms are runs of a program \(\[runner\]\): a mirror is of models that ablab trains"
    ):
        Lab(file, out=tmp_path / "runs").run(mirrors=["tensorboard"], say=silent)
    with pytest.raises(InvalidStudy, match="no reader is called 'nanogtp'; did you mean 'nanogpt'"):
        file.write_text(foreign.changed(foreign.STUDY, log='"nanogtp"'))
        Lab(file, out=tmp_path / "runs").check()


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["sample", "wide", "--prompt", "a"], "a sample"),
        (["mirror", "--mirror", "tensorboard"], "a mirror"),
        (["bundle"], "a bundle"),
        (["export", "wide", "--to", "megatron"], "a command line for Megatron"),
        (["export", "wide", "--to", "golf", "--out", "there", "--author", "a", "--github-id", "b"], "a submission"),
    ],
)
def test_commands_of_our_own_models_refuse_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], what: str
) -> None:
    file = foreign.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    verb, *options = words
    with pytest.raises(CheckFailed, match=rf"its arms are runs of a program \(\[runner\]\): {what} is of models"):
        app([verb, str(file), *options], standalone_mode=False)


def test_the_page_of_what_there_is_needs_no_checkout(tmp_path: Path) -> None:
    file = foreign.write(tmp_path)
    plan = foreign.plan(file)
    for arm, seed in plan.runs:
        do(plan, arm, seed)
    (tmp_path / "program").rename(tmp_path / "moved")
    said = list[str]()
    answer = Lab(file, out=file.parent / "runs").report(recall=said.append).answer
    assert answer["decided_by"] != "not finished" and "its last state that the store knows is taken" in said[0]
    assert load(file).runner is not None


def test_what_changed_of_a_program_is_named_as_what_makes_another_version(tmp_path: Path) -> None:
    study = foreign.changed(foreign.STUDY, reads='["*.bin"]')
    file = foreign.write(tmp_path, study, **{"data.bin": "1"})
    first, checkout = foreign.plan(file), tmp_path / "program"
    for arm, seed in first.runs:
        do(first, arm, seed)
    conclude(first)
    other = shelf.lying(first.directory)
    assert other is not None and other.get("version") == shelf.version(first)
    more = " (and that of 1 more arms)"
    (checkout / "data.bin").write_text("2")
    told = "the program of baseline changed: files that it reads are others (data.bin)"
    assert versions.since(foreign.plan(file), other) == told + more
    (checkout / "data.bin").write_text("1")
    (checkout / "model.py").write_text(f"{foreign.MODEL}# a remark\n")
    told = "the program of baseline changed: what its checkout holds beside commit"
    assert versions.since(foreign.plan(file), other).startswith(told)
    foreign.git(checkout, "commit", "--quiet", "--all", "--message=two")
    assert re.match(
        "the program of baseline changed: commit [0-9a-f]{12} became", versions.since(foreign.plan(file), other)
    )
    with pytest.raises(CheckFailed, match="is of another version: the program of baseline changed: commit"):
        _ = Lab(file, out=file.parent / "runs").verdict
