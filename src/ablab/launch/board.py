"""What has become of the runs of one command: which are done, tried again, given up, or waited for."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Sequence

from ablab.core.fault import CheckFailed, Fault, Halted
from ablab.runs import given_up
from ablab.runs.plan import Plan, Readings, Run
from ablab.runs.store import append_line
from ablab.runtime import lock
from ablab.runtime.capacity import MORE_MEMORY

Progress = Callable[[str, Run | None, str], None]
ATTEMPTS = 2  # a run that fails twice for infrastructure is given up: `failed`, and no pair
KILLED = f"out of memory, it seems: SIGKILL ended its process, as the kernel does where memory runs out; {MORE_MEMORY}"


class Board:
    """The account of one command. `waits`: whether a wanted run is held by another process.

    kept: records that were read; of the next look only what is new is.
    """

    def __init__(self, plan: Plan, progress: Progress, kept: Readings | None = None) -> None:
        self.plan, self.progress, self.kept, self.waits = plan, progress, kept or Readings(), False
        self.attempts: Counter[tuple[str, int]] = Counter()
        self.alone: set[tuple[str, int]] = set()  # runs that did not fit beside others
        self.refusals: set[str] = set()
        self.told: set[tuple[str, int]] = set()

    def is_alone(self, run: Run) -> bool:
        """Tell whether the run is made with no other beside it."""
        return (run.arm, run.seed) in self.alone

    def made(self, run: Run, key: str) -> bool:
        """Tell whether a step exists already."""
        store = self.plan.store
        return (store.trained(key) if key == run.train_key else store.scored(key)) is not None

    def held_elsewhere(self, run: Run) -> bool:
        """Tell whether another process makes a step of the run right now; said once."""
        store = self.plan.store
        folders = {
            run.train_key: store.train(run.train_key),
            **{key: store.score(key) for key in run.score_keys.values()},
        }
        for key, folder in folders.items():
            if (holder := lock.holder(folder)) and not self.made(run, key):
                self.later(run, f"is being made by {holder}")
                return True
        return False

    def later(self, run: Run, why: str) -> None:
        """Put a run aside for another process, and say so once."""
        self.waits = True
        if (run.arm, run.seed) not in self.told:
            self.told.add((run.arm, run.seed))
            self.progress("wait", run, f"{why}; other runs go first, then this one is waited for")

    def ended(self, run: Run, kind: str, text: str, *, seconds: float, alone: bool) -> None:
        """Write down how a run ended. Halted where it ended as every other one would.

        kind: done, there (another made it), diverged, failed (an unforeseen fault), died (text is the exit code), memory,
        refused, in use, halted.
        alone: whether nothing ran beside it.
        """
        who = f"{run.arm}, seed {run.seed}"
        if kind == "there":
            self.progress("later", run, "")
            return
        if kind == "in use":
            self.progress("later", run, "")
            self.later(run, text)
            return
        if kind == "halted":
            raise Halted(Fault(who, text))
        if kind == "died":
            killed = text == str(-signal.SIGKILL)
            kind, text = ("memory", KILLED) if killed else ("failed", f"the worker process ended with code {text}")
        outcome = {"memory": "failed: out of memory"}.get(kind, kind)
        row: dict[str, object] = {
            "arm": run.arm,
            "seed": run.seed,
            "key": run.train_key,
            "outcome": outcome,
            "seconds": seconds,
        }
        if kind not in ("done", "diverged"):
            self.attempts[run.arm, run.seed] += 1
            row["fault"] = text
        self.progress(outcome, run, text if "fault" in row else "")
        with lock.in_turn(self.plan.directory):  # another command may write the same two lists
            append_line(self.plan.directory / "ledger.jsonl", row)
            self._give_up(run, kind, text, alone=alone)

    def _give_up(self, run: Run, kind: str, text: str, *, alone: bool) -> None:
        """Give up a run, or its arm, where another try would not mend what ended it."""
        if kind == "refused":
            self._refuse(run, text)
        elif kind == "memory" and (alone or self.attempts[run.arm, run.seed] >= ATTEMPTS):
            given_up.give_up(self.plan, run, text, kind=given_up.OUT_OF_MEMORY)
            given_up.give_up_arm(self.plan, run.arm, f"out of memory at seed {run.seed}, and not tried")
        elif kind == "memory":
            self.alone.add((run.arm, run.seed))
        elif kind == "failed" and self.attempts[run.arm, run.seed] >= ATTEMPTS:
            given_up.give_up(self.plan, run, text)

    def _refuse(self, run: Run, text: str) -> None:
        """Give up one run; CheckFailed where another one was refused in the same words: it is the fault of neither."""
        if text in self.refusals:
            raise CheckFailed(Fault(f"{run.arm}, seed {run.seed}", text))
        self.refusals.add(text)
        given_up.give_up(self.plan, run, text)


def begin(plan: Plan, say: Callable[[str], None], *, try_again: bool | None, beyond: Sequence[str] = ()) -> None:
    """Try runs again that were given up; those that ran out of memory where that is asked, else they are named.

    try_again: None tries none again. beyond: arms that even the check had no memory for.
    """
    if try_again is not None:
        given_up.try_again(plan, all_of_them=try_again)
    known = {row["arm"] for row in plan.failures()}
    for arm in beyond:
        fault = f"out of memory already in the check; {MORE_MEMORY}"
        if arm not in known:
            first = plan.runs[arm, plan.seeds[0]]
            entry: dict[str, object] = {
                "arm": arm,
                "seed": first.seed,
                "key": first.train_key,
                "seconds": 0.0,
                "fault": fault,
            }
            append_line(plan.directory / "ledger.jsonl", {**entry, "outcome": "failed: out of memory"})
        given_up.give_up_arm(plan, arm, fault)
    seeds: dict[tuple[str, str], list[str]] = {}
    for row in plan.failures():
        seeds.setdefault((str(row["arm"]), str(row["fault"])), []).append(str(row["seed"]))
    for (arm, fault), numbers in seeds.items():
        say(f"note: {arm}, seed {', '.join(numbers)}: skipped: {fault}; --try-again tries it again")
