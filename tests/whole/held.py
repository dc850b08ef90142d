"""`ablab run study.toml` that waits at a place of one run until it is asked to stop or killed: a state, not a moment."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.kill_and_resume import STUDY

HANG = 600  # seconds: a guard against a process that never ends, not a time that anything is expected to take
STEPS = 80  # of a training of STUDY; a run asks whether to stop before each, and then before each stage
assert f"tokens = {512 * STEPS:_}" in STUDY and "batch_tokens = 512" in STUDY

# Workers are spawned: they import this file too, and are held in the same place.
SCRIPT = """
import time
from pathlib import Path

from ablab.launch import work

ARM, SEED, AT = {place!r}
do = work.do


def held(run, *, stop, **how):
    asked = iter(range(10**9))

    def at_last():
        if next(asked) == AT and (run.arm, run.seed) == (ARM, SEED):
            Path("held").touch()
            while not stop():
                time.sleep(0.01)
        return stop()

    return do(run, stop=at_last, **how)


work.do = held
if __name__ == "__main__":
    from ablab.cli.main import main

    main()
"""


@contextmanager
def held(folder: Path, arm: str, seed: int, at: int, *words: str) -> Iterator[subprocess.Popen[str]]:
    """The command in `folder`, once the run of `arm` and `seed` asks for the `at`-th time (from 0) whether to stop.

    words: more of the command. It is killed when the block ends.
    """
    (folder / "held.py").write_text(SCRIPT.format(place=(arm, seed, at)))
    reached = folder / "held"
    reached.unlink(missing_ok=True)
    command = [sys.executable, "held.py", "run", "study.toml", *words]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            while not reached.exists():
                assert process.poll() is None, process.communicate()
                time.sleep(0.01)
            yield process
        finally:
            process.kill()
