"""Whatever a program starts ends with its run, wherever it has gone: into another session, away from its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests import foreign

from ablab.core.fault import CheckFailed, Interrupted
from ablab.launch import program
from ablab.launch.study import silent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only the program's group can be reached")
HANG = 120  # seconds after which a test has failed
LEFT = "sh -c 'echo $$ >> \"$1\"; exec sleep 1000' left"
WAYS = {
    "session": f"setsid {LEFT} $PIDS &",
    "nohup": f"nohup {LEFT} $PIDS >/dev/null 2>&1 &",
    "orphan": f"(setsid sh -c '{LEFT.replace(chr(39), chr(39) + chr(92) + chr(39) + chr(39))} '$PIDS' &' &)",
    "no environment": f"env -i PIDS=$PIDS setsid {LEFT} $PIDS &",
    "deaf": "(trap '' TERM HUP; setsid sh -c 'echo $$ >> \"$1\"; while :; do sleep 1000; done' left $PIDS) &",
}
SCRIPT = """
import os, pathlib, subprocess, sys, time
out = pathlib.Path(sys.argv[1])
subprocess.Popen(["sh", "-c", os.environ["WAY"]], env={**os.environ, "PIDS": str(out / "pids")})
while not (out / "pids").exists() or not (out / "pids").read_text().endswith("\\n"):
    time.sleep(0.01)
print("step 1: train loss 1.0000, val loss 1.0000", flush=True)
(out / "ready").touch()
while len(sys.argv) > 2 and "hold" in sys.argv[2]:
    time.sleep(0.01)
"""


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ends", ["by itself", "at its time", "at a stop"])
def test_all_that_a_program_has_started_ends_with_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, ends: str
) -> None:
    hold = "" if ends == "by itself" else "hold"
    keys = {
        "command": f'"{foreign.PYTHON} left.py {{out}} {hold}{{seed}}"',
        "env.WAY": f"'''{WAYS[way]}'''",
        "timeout": '"1h"',
    }
    plan = foreign.plan(foreign.write(tmp_path, foreign.changed(foreign.STUDY, **keys), **{"left.py": SCRIPT}))
    run = plan.runs["baseline", 0]
    out = plan.store.train(run.train_key) / "out"
    late = lambda: time.monotonic() + 7200 * (ends == "at its time" and (out / "ready").exists())  # noqa: E731
    monkeypatch.setattr(program, "time", SimpleNamespace(monotonic=late, sleep=time.sleep))
    stop = (lambda: (out / "ready").exists()) if ends == "at a stop" else (lambda: False)
    if ends == "by itself":
        assert program.do(run, store=plan.store, stop=stop, say=silent) == "done"
    else:
        with pytest.raises(Interrupted if ends == "at a stop" else CheckFailed):
            program.do(run, store=plan.store, stop=stop, say=silent)
    pids = [int(one) for one in (out / "pids").read_text().split()]
    assert pids and not [one for one in pids if running(one)]


def test_all_of_it_dies_with_whoever_runs_it(tmp_path: Path) -> None:
    keys = {"command": f'"{foreign.PYTHON} left.py {{out}} hold{{seed}}"', "env.WAY": f"'''{WAYS['no environment']}'''"}
    file = foreign.write(tmp_path, foreign.changed(foreign.STUDY, **keys), **{"left.py": SCRIPT})
    plan = foreign.plan(file)
    out = plan.store.train(plan.runs["baseline", 0].train_key) / "out"
    command = [
        sys.executable,
        "-P",
        "-m",
        "ablab",
        "run",
        str(file),
        "--out",
        str(file.parent / "runs"),
        "--jobs",
        "1",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + HANG
        while not (out / "ready").exists():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    pids = [int(one) for one in (out / "pids").read_text().split()]
    while any(map(running, pids)):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_program_hears_signals_as_it_would_without_a_watch() -> None:
    tell = "grep SigIgn /proc/self/status"
    heard, report = os.pipe()
    done = subprocess.run(
        [sys.executable, "-I", "-S", program.supervise.__file__, str(report), str(os.getpid()), "sh", "-c", tell],
        pass_fds=(report,),
        capture_output=True,
        text=True,
    )
    os.close(report)
    with os.fdopen(heard) as file:
        assert file.read() == "started\nended 0\n"
    ignored = int(done.stdout.split()[-1], 16)
    assert not ignored & (1 << (signal.SIGPIPE - 1)) and not ignored & (1 << (signal.SIGTERM - 1))
