"""What judging a study costs: `python bench/judging.py [--json PATH]`. Two to three minutes.

A finished store of 128 and of 256 runs (five stages each) is judged three ways in one process, turn by turn: with a look that
reads each record once, as `ablab run` and `ablab report` do at their end; with what an earlier look has read, as the page
between two runs is made; and with every function asking the files for itself, which was the way before there were looks.
Asked is one read per record.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests import finished_store as made  # noqa: E402

from ablab.core import opened  # noqa: E402
from ablab.judging import collect, judge  # noqa: E402
from ablab.runs.plan import Look, Plan, Readings  # noqa: E402
from ablab.runtime import machine  # noqa: E402
from ablab.runtime.provenance import of_ablab  # noqa: E402

SEEDS = 8
RUNS = (128, 256)
RECORDS = ("done.json", "result.json", "scores.npz")


class Forgetful(Look):
    """A look that remembers nothing."""

    def once(self, path: str, what: str, reader: Callable[[Path], Any]) -> Any:
        return reader(Path(path)) if Path(path).exists() else None


def finished(folder: Path, runs: int) -> Plan:
    """A plan of so many runs, all of them finished: a baseline and arms of other widths, eight seeds each."""
    arms = [f"w{number}" for number in range(runs // SEEDS - 1)]
    text = made.STUDY.replace("seeds = 3", f"seeds = {{ first = 0, start = 2, at_most = {SEEDS} }}")
    text = text[: text.index("[arm.int5]")]
    text += "".join(f"[arm.{name}]\nmodel.d_model = {36 + 4 * number}\n" for number, name in enumerate(arms))
    made.EFFECT.update(dict.fromkeys(arms, made.EFFECT["wide"]))
    made.BYTES.update(dict.fromkeys(arms, 14_000))
    plan = made.plan(folder, text)
    judge.decisions(plan)
    return made.fill(plan)


def reads(do: Callable[[], object]) -> Counter[Path]:
    """How often each record was opened."""
    found, real = Counter[Path](), opened.opened

    def counted(path: Path | str) -> Any:
        found[Path(path)] += Path(path).name in RECORDS
        return real(path)

    with mock.patch.object(opened, "opened", counted):
        do()
    return +found


def seconds(do: Callable[[], object]) -> tuple[float, float]:
    """Wall clock, and what the processor gave: the first is the second where nothing else runs."""
    began, given = time.perf_counter(), time.process_time()
    do()
    return time.perf_counter() - began, time.process_time() - given


def measure(runs: int, turns: int, folder: Path) -> dict[str, Any]:
    """Reads and medians of seconds, of a verdict and of the question which runs are wanted."""
    plan, kept = finished(folder, runs), Readings()
    forgetful = replace(plan, store=Forgetful(plan.store.root))
    ways: dict[str, Callable[[], Plan]] = {
        "once": lambda: plan.look(),
        "kept": lambda: plan.look(kept),
        "each function anew": lambda: forgetful,
    }
    judge.conclude(plan.look(kept))  # also warms what the process itself keeps
    found: dict[str, Any] = {}
    times: dict[str, dict[str, list[tuple[float, float]]]] = {name: {"conclude": [], "wanted": []} for name in ways}
    for name, way in ways.items():
        each = reads(lambda way=way: judge.conclude(way()))  # type: ignore[misc]
        most, total = max(each.values(), default=0), each.total()
        found[name] = {"reads": total, "records": len(each), "most_reads_of_a_record": most}
    for _ in range(turns):
        for name, way in ways.items():
            times[name]["conclude"].append(seconds(lambda way=way: judge.conclude(way())))  # type: ignore[misc]
            times[name]["wanted"].append(seconds(lambda way=way: collect.wanted(way())))  # type: ignore[misc]
    for name, of in times.items():
        for what, took in of.items():
            for clock, each_turn in zip(("seconds", "cpu_seconds"), zip(*took)):
                found[name][f"{what}_{clock}"] = statistics.median(each_turn)
    return found


def main() -> None:
    """Print the measurements, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    found: dict[str, Any] = {}
    for runs in RUNS:
        with tempfile.TemporaryDirectory() as folder:
            found[str(runs)] = measure(runs, given.turns, Path(folder))
    target = "1 read per record; once, 256 runs: under a second"
    found |= {"target": target, "machine": {"commit": of_ablab(), **machine.describe()}}
    print(json.dumps(found, indent=1))
    for runs in map(str, RUNS):
        for name, one in found[runs].items():
            print(
                f"{runs} runs, {name}: {one['reads']:,} reads, at most {one['most_reads_of_a_record']} of a record; "
                f"a verdict {one['conclude_seconds']:.2f} s ({one['conclude_cpu_seconds']:.2f} of the processor), "
                f"which runs are wanted {one['wanted_seconds']:.2f} s"
            )
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
