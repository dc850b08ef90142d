"""Jobs for the workers of test_workers.py, which import nothing else."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from ablab.core.fault import Interrupted
from ablab.runtime.at_once import at_once

Said = tuple[str, object]


def begin(own: str, stop: Callable[[], bool]) -> Callable[[str, Callable[[Said], None]], Said]:
    """Answers with what it was given of its own and its process, says the job first."""

    def do(job: str, say: Callable[[Said], None]) -> Said:
        if job == "at once":
            try:
                with at_once():
                    say(("begun", job))
                    time.sleep(600)
            except Interrupted:
                return "interrupted", os.getpid()
        say(("begun", job))
        if job.startswith("exit "):
            os._exit(int(job.split()[1]))
        while job == "asked" and not stop():
            time.sleep(0.01)
        while job == "deaf":
            time.sleep(0.01)
        return own, os.getpid()

    return do
