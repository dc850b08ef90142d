"""From a study file to a verdict, through the command line, on synthetic text."""

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from bench.kill_and_resume import STUDY, numbers
from tests.whole import held

from ablab.cli import main as cli
from ablab.core.fault import CheckFailed
from ablab.launch.study import Lab
from ablab.runtime import signals

FIELDS = {
    "study", "scale", "question", "metric", "stage", "matters", "decided_by", "winner", "arms", "runs", "correlation",
    "environment",
}  # fmt: skip
ARM_FIELDS = {
    "name", "on", "word", "delta", "low", "high", "p", "seeds", "more_seeds", "trajectory", "stages", "cost",
}  # fmt: skip


def ablab(*words: str, check: bool = True, **how: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "ablab.cli.main", *words]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "160"}, **how)
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def inside(*words: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """`ablab WORDS` in this process, which has imported what it needs: for what is said and left, not how a process ends."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    handlers = {one: signal.getsignal(one) for one in signals.STOPS}
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setenv("COLUMNS", "160")
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["ablab", *words])
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            for one, handler in handlers.items():
                signal.signal(one, handler)
    done = subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def started(folder: Path) -> subprocess.Popen[str]:
    """`ablab run study.toml`, left to itself."""
    command = [sys.executable, "-P", "-m", "ablab.cli.main", "run", "study.toml"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("whole")
    (where / "study.toml").write_text(STUDY)
    done = ablab("run", "study.toml", cwd=where)
    assert "report:" in done.stdout
    return where


def result(where: Path) -> Any:
    return json.loads((where / "runs/studies/killed/verdict.json").read_text())


def test_sample_writes_with_the_weights_that_were_trained(finished: Path) -> None:
    words = ("sample", "study.toml", "grape_a", "--prompt", "The", "--prompt", "a", "--tokens", "5", "--top-k", "20")
    found = json.loads(inside(*words, "--json", cwd=finished).stdout)
    assert [row["prompt"] for row in found["samples"]] == ["The", "a"] and found["arm"] == "grape_a"
    assert all(1 <= row["tokens"] <= 5 for row in found["samples"]) and found["cache_bytes"] > 0
    assert found["samples"] == json.loads(inside(*words, "--json", cwd=finished).stdout)["samples"]  # the same draws
    said = inside("sample", "study.toml", "grape", "--prompt", "a", cwd=finished, check=False)
    assert said.returncode == 3 and "no arm is called 'grape'; did you mean 'grape_a'?" in said.stderr


def test_verdict_json_holds_what_is_promised(finished: Path) -> None:
    verdict = result(finished)
    assert verdict.keys() >= FIELDS
    assert [row["name"] for row in verdict["arms"]] == ["baseline", "grape_a", "swiglu"]
    for row in verdict["arms"]:
        assert row.keys() >= ARM_FIELDS
        assert row["cost"].keys() >= {"parameters", "flops_per_token", "tokens_per_second", "bytes"}
        assert 0 < row["cost"]["cache_bytes_per_token"] < row["cost"]["cache_bytes_at_seq_len"]
        assert row["stages"]["pre_quant"].keys() >= {"mean", "delta", "low", "high"}
    words = {row["word"] for row in verdict["arms"]}
    assert words <= {"baseline", "better", "worse", "equivalent", "inconclusive"}
    by_seed: dict[int, set[str]] = {}
    for run in verdict["runs"]:
        assert run["status"] == "done" and run["metrics"]["pre_quant"] > 0
        by_seed.setdefault(run["seed"], set()).add(run["token_hash"])
    assert all(len(hashes) == 1 for hashes in by_seed.values()), "arms of one seed consumed the same tokens"
    assert len({next(iter(hashes)) for hashes in by_seed.values()}) == len(by_seed), "seeds consumed different orders"


def test_the_report_is_written_and_mentions_every_arm(finished: Path) -> None:
    for name in ("report.html", "report.md"):
        text = (finished / "runs/studies/killed" / name).read_text()
        assert all(arm in text for arm in ("baseline", "grape_a", "swiglu"))


def test_a_second_run_does_nothing_and_says_the_same(finished: Path) -> None:
    before = result(finished)
    stamps = {p: p.stat().st_mtime_ns for p in (finished / "runs/train").rglob("weights.safetensors")}
    done = inside("run", "study.toml", "--json", cwd=finished)
    assert numbers(json.loads(done.stdout)) == numbers(before)
    assert stamps == {p: p.stat().st_mtime_ns for p in (finished / "runs/train").rglob("weights.safetensors")}


def test_report_works_at_any_moment(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    empty = json.loads(inside("report", "study.toml", "--json", cwd=tmp_path).stdout)
    assert empty["winner"] is None and empty["runs"] == []
    assert {row["word"] for row in empty["arms"]} == {"baseline", "inconclusive"}


def test_disturbed_in_every_way_equals_undisturbed(finished: Path, tmp_path: Path) -> None:
    """Killed as it prepares the corpus, on a full disk, killed in a training, asked to stop, killed between the stages and in
    the last training: one study that goes on after each, since what it ends with is the same question every time."""
    (tmp_path / "study.toml").write_text(STUDY)
    process = started(tmp_path)
    assert process.stdout and process.stdout.readline().startswith("data: ")
    process.kill()
    process.communicate(timeout=held.HANG)

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    done = ablab("run", "study.toml", check=False, cwd=tmp_path, preexec_fn=small_files)
    assert done.returncode == 4 and "cannot be written" in done.stderr and "Traceback" not in done.stderr
    for place in (("baseline", 0, 3), ("grape_a", 0, held.STEPS + 1), ("baseline", 1, held.STEPS)):
        with held.held(tmp_path, *place):
            pass
    with held.held(tmp_path, "swiglu", 1, 20) as process:
        second, said = started(tmp_path), ""
        while "swiglu, seed 1: is being made by pid " not in said:
            line = second.stdout.readline() if second.stdout else ""
            assert line, (said, second.communicate())
            said += line
        second.send_signal(signal.SIGTERM)
        second.communicate(timeout=held.HANG)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=held.HANG)
    assert second.returncode == 75
    assert process.returncode == 75, errors
    assert "run the same command to go on" in errors
    assert list(tmp_path.glob("runs/train/*/checkpoint-*")), "a checkpoint was written"
    with held.held(tmp_path, "swiglu", 1, 50):  # of the 60 steps left
        pass
    ablab("run", "study.toml", cwd=tmp_path)
    assert numbers(result(tmp_path)) == numbers(result(finished))


def test_until_stops_in_time_and_is_resumable(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    done = inside("run", "study.toml", "--until", "0.01s", check=False, cwd=tmp_path)
    assert done.returncode == 75 and "run the same command" in done.stderr
    wrong = inside("run", "study.toml", "--until", "soon", check=False, cwd=tmp_path)
    assert (
        wrong.returncode == 2
        and "'soon' is no span of time; write 600 (seconds), 90s, 30m, 1h30m or 2d" in wrong.stderr
    )


def test_an_arm_that_changes_nothing_is_refused(tmp_path: Path) -> None:
    text = STUDY.replace("[train]\n", "[train]\nclip = 1e8\n") + "\n[arm.inert]\ntrain.clip = 1e9\n"
    (tmp_path / "study.toml").write_text(text)
    done = inside("run", "study.toml", check=False, cwd=tmp_path)
    assert done.returncode == 4
    assert "arm 'inert' changes nothing: weights, losses and scores equal those of the baseline" in done.stderr
    assert done.stderr.count("changes nothing") == 1, "the other arms act"
    assert not list(tmp_path.glob("runs/train/*/done.json")), "no money was spent"


def test_an_arm_that_differs_at_full_size_only_is_not_called_inert(tmp_path: Path) -> None:
    body = STUDY.replace("ema = 0.9\n", "")  # which keeps its share of a longer training, and would act
    (tmp_path / "study.toml").write_text(body + "\n[arm.longer]\nbudget.tokens = 81_920\n")
    done = inside("check", "study.toml", cwd=tmp_path)
    assert "arm 'longer' is the same as its reference at this small size" in done.stdout


def test_no_setting_of_where_ends_in_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    for flags, words in (
        (["--device", "abacus"], "'abacus' is no device"),
        (["--mirror", "cinema"], "no mirror is called 'cinema'"),
        (["--jobs", "0"], "--jobs"),
    ):
        done = inside("run", "study.toml", *flags, check=False, cwd=tmp_path)
        assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr


def test_a_corpus_smaller_than_a_row_is_one_clear_error(tmp_path: Path) -> None:
    for i in range(40):
        (tmp_path / f"{i}.txt").write_text(f"text {i}")
    (tmp_path / "study.toml").write_text(STUDY.replace('source = "mock"', 'source = "*.txt"\nvalid_fraction = 0.5')
                                         .replace("seq_len = 64", "seq_len = 512"))  # fmt: skip
    done = inside("run", "study.toml", check=False, cwd=tmp_path)
    assert done.returncode == 4 and "do not fill one chunk of 512" in done.stderr, done.stderr


def test_a_changed_decision_is_listed_and_exploratory(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "runs", tmp_path / "runs")  # the other tests hold theirs against the first
    (tmp_path / "study.toml").write_text(STUDY.replace("matters = 0.01", "matters = 0.02"))
    assert result(finished)["exploratory"] is False
    after = json.loads(inside("run", "study.toml", "--json", cwd=tmp_path).stdout)
    assert after["exploratory"] is True
    assert sorted(row["decision"]["matters"] for row in after["decisions"]) == [0.01, 0.02]


def test_a_directory_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    done = inside("run", "study.toml", "--out", "/proc/ablab", check=False, cwd=tmp_path)
    assert done.returncode == 4 and "/proc/ablab" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [["check", "none.toml"], ["run", "none.toml"], ["report", "none.toml"]])
def test_a_missing_study_is_one_line(words: list[str], tmp_path: Path) -> None:
    done = inside(*words, check=False, cwd=tmp_path)
    assert done.returncode == 3 and done.stderr.count("\n") == 1 and "none.toml" in done.stderr


def test_help_is_quick_and_imports_no_torch() -> None:
    code = "import sys; sys.argv=['ablab','--help']\ntry:\n from ablab.cli.main import main; main()\nexcept SystemExit: pass\n"
    code += "print('torch' in sys.modules, 'scipy' in sys.modules, 'rich' in sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "False False False"
    assert all(word in done.stdout for word in ("check", "run", "report", "levers"))


@pytest.mark.parametrize(
    "pattern, content",
    [
        ("train/*/done.json", "{}"),
        ("score/*/result.json", "[]"),
        ("studies/killed/where.json", "{}"),
        (
            "studies/killed/where.json",
            '{"device": "cpu", "precision": "fp32", "executor": "lift", "micro_rows": 0, "compiled": false}',
        ),
        ("studies/killed/failed.json", '{"a": 3}'),
        ("score/*/scores.npz", "PK"),
    ],
)
def test_a_damaged_file_is_named(finished: Path, tmp_path: Path, pattern: str, content: str) -> None:
    shutil.copytree(finished / "runs", tmp_path / "runs")
    (tmp_path / "study.toml").write_text(STUDY)
    damaged = list((tmp_path / "runs").glob(pattern))
    for path in damaged:
        path.write_text(content)
    with pytest.raises(CheckFailed) as raised:
        Lab(tmp_path / "study.toml", out=tmp_path / "runs").report()
    assert any(str(raised.value).startswith(f"{path}: ") for path in damaged), raised.value


def test_changed_weights_are_not_scored(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "runs", tmp_path / "runs")
    (tmp_path / "study.toml").write_text(STUDY.replace("tokens_budget = 4000", "tokens_budget = 3000"))
    weights = sorted((tmp_path / "runs").glob("train/*/weights.safetensors"))
    for path in weights:
        blob = bytearray(path.read_bytes())
        blob[-2000:-1996] = b"\x7f\x7f\x7f\x7f"
        path.write_bytes(blob)
    done = inside("run", "study.toml", check=False, cwd=tmp_path)
    assert done.returncode == 4 and "does not match the sha256 in done.json" in done.stderr, done.stderr


def test_notes_that_are_damaged_cost_no_result(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "runs", tmp_path / "runs")
    (tmp_path / "study.toml").write_text(STUDY)
    (tmp_path / "runs/studies/killed/checked.json").write_text("[1]")
    (tmp_path / "runs/studies/killed/verdict.json").write_text("{")
    with (tmp_path / "runs/decisions.jsonl").open("ab") as file:
        file.write(b'\xff\xfe\n{"x":\n3\n{}\n{"decision_key": 1, "runs": 5, "ended": "x"}\n')
        file.write(b'{"decision_key": 1, "runs": [[1]], "ended": 0}\n')
    inside("run", "study.toml", cwd=tmp_path)
    found, undamaged = numbers(result(tmp_path)), numbers(result(finished))
    said = found.pop("changed")
    assert undamaged.pop("changed") == [] and said and all("runs/decisions.jsonl: " in text for text in said)
    assert found == undamaged


def test_two_sigma_needs_earlier_noise(tmp_path: Path) -> None:
    seeds = 'seeds = { start = 2, at_most = 3, probe = 1, keep = "2 sigma" }'
    (tmp_path / "study.toml").write_text(STUDY.replace("seeds = { start = 2, at_most = 3 }", seeds))
    done = inside("run", "study.toml", check=False, cwd=tmp_path)
    assert done.returncode == 3 and "needs the noise of earlier studies like this one" in done.stderr


def test_a_closed_stdout_is_no_traceback(finished: Path) -> None:
    command = f"{sys.executable} -P -m ablab.cli.main levers >&-"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=finished)
    assert done.returncode == 0 and not done.stderr


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_worker(pid: int) -> bool:
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def test_a_worker_does_not_outlive_its_parent(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    process = started(tmp_path)
    while not (found := [pid for pid in children(process.pid) if is_worker(pid)]):
        assert process.poll() is None, "it ended before it had a worker"
        time.sleep(0.01)
    process.kill()  # while the worker is still importing
    process.communicate(timeout=held.HANG)
    deadline = time.monotonic() + held.HANG
    while any(map(is_worker, found)):
        assert time.monotonic() < deadline, "a worker lives on"
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_training_is_resumable_too(tmp_path: Path, number: int) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    process = started(tmp_path)
    assert process.stdout and process.stdout.readline().startswith("data: ")
    process.send_signal(number)
    _, errors = process.communicate(timeout=held.HANG)
    assert process.returncode == 75 and errors == "interrupted; run the same command to go on\n"


def test_repeating_the_corpus_is_said_and_above_four_warned_of(tmp_path: Path) -> None:
    for i in range(30):
        (tmp_path / f"{i}.txt").write_text(f"words of text number {i} " * 20)
    text = STUDY.replace('source = "mock"', 'source = "*.txt"\nvalid_fraction = 0.2')
    (tmp_path / "study.toml").write_text(text.replace("tokens = 40_960", "tokens = 81_920"))
    done = inside("check", "study.toml", cwd=tmp_path)
    assert "warning: above 4, " in done.stdout
    assert "epochs over the training tokens, each in a new order (baseline, grape_a, swiglu)" in done.stdout


def test_a_budget_in_seconds_pairs_what_both_consumed(tmp_path: Path) -> None:
    text = STUDY.replace("tokens = 40_960", "seconds = 0.5").replace("at_most = 3", "at_most = 2")
    (tmp_path / "study.toml").write_text(text.replace("ema = 0.9", "validate_every = 4096"))
    verdict = json.loads(inside("run", "study.toml", "--json", cwd=tmp_path).stdout)
    said = [(row["word"], row["notes"]) for row in verdict["arms"]]
    assert all(row["seeds"] == 2 and row["word"] != "invalid" for row in verdict["arms"]), said
    assert any("wall clock" in note for note in verdict["notes"])
