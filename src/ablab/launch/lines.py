"""What a person reads while runs are going on, as plain lines."""

from __future__ import annotations

import time
from collections.abc import Callable

from ablab.launch.board import Progress
from ablab.runs.plan import Run

QUIET_SECONDS = 30  # between two lines about one run


def lines(say: Callable[[str], None]) -> Progress:
    """Make a `take(kind, run, text)` that says when a run ends, what a person must know of it, and now and then its place.

    Kinds are start, say, wait and later (for another process), and how a run ended.
    """
    spoken: dict[tuple[str, int], float] = {}
    began: dict[tuple[str, int], float] = {}

    def take(kind: str, run: Run | None, text: str) -> None:
        assert run is not None
        key, now, name = (run.arm, run.seed), time.monotonic(), f"{run.arm}, seed {run.seed}"
        if kind == "start":
            began[key] = spoken[key] = now
        elif kind == "wait":
            say(f"{name}: {text}")
        elif kind == "say":
            if text.startswith(("step ", "stage ")):  # progress; all else is something that a person must know
                if now - spoken.get(key, now) < QUIET_SECONDS:
                    spoken.setdefault(key, now)
                    return
                spoken[key] = now
            say(f"{name}: {text}")
        elif kind != "later":
            fault = f": {text.strip().splitlines()[-1]}" if text.strip() else ""
            say(f"{name}: {kind} in {now - began[key]:.1f} s{fault}")

    return take
