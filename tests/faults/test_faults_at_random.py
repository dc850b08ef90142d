"""Training, stages and judging killed at a random operation on files, and on disks that are full at a random size.

Whatever is cut off, the next start ends with the weights, scores and verdict of a study that nobody disturbed, byte for byte
where no clock is in them. Every case forks a process that has imported torch and computed nothing, and its place is a number of
operations, not a moment.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bench.kill_and_resume import numbers

STUDY = """
study = { name = "killed", question = "Is anything lost?" }
decision = { metric = "nats_per_token", stage = "packed", matters = 0.01, seeds = 2 }
budget = { tokens = 1_024, batch_tokens = 128 }
data = { source = "mock" }
model = { layers = "G", d_model = 16, n_heads = 2, seq_len = 32, global = { position = "rope" } }
[stage]
pre_quant = { evaluate = "disjoint" }
packed = { compress = { name = "rtn", bits = 6 }, codec = "lzma", evaluate = "disjoint" }
after = { after = "packed", evaluate = "disjoint" }
[arm.sink]
model.softmax = "sink"
"""
PHASES = ("training", "stages", "judging")
# Reads lines [phase, at, limit] and answers each with [exit code or minus the signal, operations]: `at` is the operation on a
# file that it dies before (0: none), limit the largest size that a file may have (0: any).
SCRIPT = """
import contextlib, dataclasses, json, os, resource, signal, sys
from pathlib import Path
import torch, torch._dynamo
from ablab import report
from ablab.judging import history, judge
from ablab.training import train as training
from ablab.runs import planning
from ablab.core.fault import Interrupted, Refused
from ablab.launch import work
from ablab.training.metrics import Metrics
from ablab.runs.store import Store
from ablab.study import load

torch.set_num_threads(1)
FILES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "os.utime", "os.link"}
done = 0


def child(phase, at, limit, out):
    def count(event):
        global done
        done += 1
        if done == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def seen(event, args):
        if event in FILES and (event != "open" or str(STORE) in str(args[0])):
            count(event)

    def do():
        plan = planning.make(load(Path("study.toml")), STORE, precision="fp32", say=lambda text: None)
        for run in plan.runs.values() if phase != "judging" else ():
            how = dict(store=plan.store, where=plan.where, mirrors=(), say=lambda text: None)
            with contextlib.suppress(Interrupted):  # a worker that is asked to stop behind the training
                work.do(run, stop=lambda: phase == "training" and bool(plan.store.trained(run.train_key)), **how)
        if phase == "judging":
            history.begin(plan)
            report.write(judge.conclude(plan), plan.directory)

    STORE, hard = Store(Path.cwd() / out), resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    write = Metrics.write
    Metrics.write = lambda self, row: (count("write"), write(self, row))[1]
    training_train = training.train
    training.train = lambda *given, sitting, **named: training_train(
        *given, sitting=dataclasses.replace(sitting, checkpoint_every=0), **named
    )
    sys.addaudithook(seen)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        do()
        code, said = 0, ""
    except Refused as refused:
        code, said = refused.exit_code, str(refused)
    except BaseException as error:
        import traceback
        code, said = 1, traceback.format_exc()
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    return code, said


for line in sys.stdin:
    phase, at, limit, out = json.loads(line)
    hear, tell = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(hear)
        code, said = child(phase, at, limit, out)
        os.write(tell, json.dumps([done, said]).encode())
        os._exit(code)
    os.close(tell)
    with os.fdopen(hear) as file:
        text = file.read()
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), *(json.loads(text) if text else [0, ""])]), flush=True)
"""


class Studies:
    """The study in a folder, done phase by phase by a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "study.toml").write_text(STUDY)
        command = [sys.executable, "-c", SCRIPT]
        self.process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def do(self, phase: str, out: str, *, at: int = 0, limit: int = 0) -> tuple[int, int, str]:
        """(exit code or minus the signal, operations on files, what was said)."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([phase, at, limit, out]) + "\n")
        self.process.stdin.flush()
        code, done, said = json.loads(self.process.stdout.readline())
        return code, done, said

    def copy(self, before: str, out: str) -> None:
        shutil.rmtree(self.folder / out, ignore_errors=True)
        shutil.copytree(self.folder / before, self.folder / out)


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The undisturbed study: the store before each phase is called after it, and `end`; operations by phase."""
    made = Studies(tmp_path_factory.mktemp("killed"))
    counted = {}
    (made.folder / "training").mkdir()
    made.do("training", "warm")  # what a first call imports and prepares is not counted
    for phase, after in zip(PHASES, (*PHASES[1:], "end")):
        made.copy(phase, after)
        code, counted[phase], said = made.do(phase, after)
        assert code == 0, said
    yield made, counted
    assert made.process.stdin is not None
    made.process.stdin.close()
    made.process.wait()


def content(store: Path) -> dict[str, Any]:
    """Every finished file of a store, clocks left out; nothing half-written and no claims."""
    found: dict[str, Any] = {}
    for path in sorted(store.rglob("*")):
        name = str(path.relative_to(store))
        if (
            path.is_dir()
            or path.name in ("inputs.json", "report.html", "report.md")
            or path.name.startswith(("claim.", "free."))
        ):
            continue
        assert not path.name.endswith(".part"), f"{name} is left over"
        if path.suffix == ".json":
            found[name] = _timeless(json.loads(path.read_text()))
        elif path.suffix == ".jsonl":
            rows = [_timeless(json.loads(line)) for line in path.read_text().splitlines()]
            found[name] = [row for row in rows if "begun" not in row]  # how often a study was begun is no result
        else:
            found[name] = path.read_bytes()
    return found


def _timeless(value: Any) -> Any:
    """Without clocks, and without digests of what holds clocks."""
    clocks = ("validate_seconds", "digest", "chain", "before")
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in numbers(value).items() if k not in clocks}
    return [_timeless(one) for one in value] if isinstance(value, list) else value


def killed(studies: Any, phase: str, at: int) -> None:
    made, _ = studies
    after = {**dict(zip(PHASES, PHASES[1:])), "judging": "end"}[phase]
    made.copy(phase, "again")
    code, _, said = made.do(phase, "again", at=at)
    assert code == -9, (at, code, said)
    code, _, said = made.do(phase, "again")
    assert code == 0, said
    assert content(made.folder / "again") == content(made.folder / after), f"{phase}, killed at {at}"


def full(studies: Any, phase: str, limit: int) -> int:
    made, _ = studies
    after = {**dict(zip(PHASES, PHASES[1:])), "judging": "end"}[phase]
    made.copy(phase, "again")
    code, _, said = made.do(phase, "again", limit=limit)
    assert code in (0, 4), said
    if code == 4:
        assert "cannot be written" in said and str(made.folder / "again") in said, said
    assert made.do(phase, "again")[0] == 0
    assert content(made.folder / "again") == content(made.folder / after), f"{phase}, files of {limit} bytes"
    return code


@pytest.mark.parametrize("phase", PHASES)
def test_killed_at_three_operations(studies: Any, phase: str) -> None:
    draw, most = random.Random(phase), studies[1][phase]
    for at in draw.sample(range(1, most + 1), 3):
        killed(studies, phase, at)


@pytest.mark.parametrize("phase", PHASES)
def test_a_disk_that_is_full_early_and_late(studies: Any, phase: str) -> None:
    assert [full(studies, phase, limit) for limit in (10, 300)] == [4, 4]


@pytest.mark.minutes
@pytest.mark.parametrize("phase", PHASES)
def test_killed_at_fifty_operations(studies: Any, phase: str) -> None:
    draw, most = random.Random(f"{phase} fifty"), studies[1][phase]
    for _ in range(50):
        killed(studies, phase, draw.randint(1, most))


@pytest.mark.minutes
def test_twenty_full_disks(studies: Any) -> None:
    draw = random.Random("full")
    largest = max(path.stat().st_size for path in (studies[0].folder / "end").rglob("*") if path.is_file())
    codes = [full(studies, draw.choice(PHASES), int(math.exp(draw.uniform(0, math.log(largest))))) for _ in range(20)]
    assert codes.count(4) >= 10, "too few of the limits were met to say anything"
