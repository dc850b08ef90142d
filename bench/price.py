"""What `ablab check` says a study costs beside what it costs: `python bench/price.py [--json PATH]`. About 11 minutes.

Three studies on stores of their own: the tutorial's (docs/tutorial.md), the demo's (studies/global_position.toml at its tiny
scale) and one that only evaluates (bench/eval_only.py). Of each, the price of every arm at `start` seeds is asked before
anything has run, and then those runs are made, one after another, in this process and with the threads that a run has. Asked
is a ratio, truth to price, within 1.3 both ways. On a machine with other work the wall clock says more of that work than
of the study; so the same is done in seconds of the processor, where the price is asked under a clock of the processor.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import eval_only
from ablab.check import quote, timing
from ablab.launch.work import do
from ablab.runs import planning
from ablab.runs.jobs import default_jobs
from ablab.runs.plan import Plan
from ablab.runs.store import Store
from ablab.runtime import capacity, machine
from ablab.runtime.provenance import of_ablab
from ablab.study import load

TARGET = 1.3
ROOT = Path(__file__).resolve().parents[1]


def tutorial() -> str:
    """The study file of the tutorial, as it stands on the page."""
    page = (ROOT / "docs" / "tutorial.md").read_text()
    return next(block.split("```")[0] for block in page.split("```toml\n")[1:] if block.startswith("[study]"))


def plan_of(path: Path, scale: str | None, out: Path) -> Plan:
    return planning.make(load(path, scale), Store(out), say=lambda _: None)


def asked(plan: Plan) -> dict[str, Any]:
    """The price as check says it, in seconds of the wall and of the processor, and what asking took."""
    found: dict[str, Any] = {}
    for clock in ("process_time", "perf_counter"):  # the wall's comes last, and is what stays in the store
        began = time.perf_counter()
        with mock.patch.object(time, "perf_counter", getattr(time, clock)):
            timing.study(plan)
        found[clock] = quote.bounds(plan)["start"]
        found["asking_seconds"] = time.perf_counter() - began
    return found


def made(plan: Plan) -> dict[str, float]:
    """Every run up to `start` seeds: seconds of both clocks."""
    declared = plan.study.decision["seeds"]
    chosen = plan.seeds[: declared["start"] + declared["probe"]]
    wall, cpu = time.perf_counter(), time.process_time()
    for (_, seed), run in plan.runs.items():
        if seed in chosen:
            do(run, store=plan.store, where=plan.where, mirrors=(), stop=lambda: False, say=lambda _: None)
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def measure(path: Path, scale: str | None, out: Path) -> dict[str, Any]:
    """Price and truth of one study, and their ratios."""
    plan = plan_of(path, scale, out)
    torch.set_num_threads(capacity.threads(default_jobs(plan)))
    said, truth = asked(plan), made(plan)
    left = quote.bounds(plan)["start"]
    wall, cpu = said["perf_counter"]["seconds"], said["process_time"]["seconds"]
    return {
        "runs": said["perf_counter"]["runs"],
        "evaluations": said["perf_counter"]["evaluations"],
        "asking_seconds": said["asking_seconds"],
        "price": {"wall": wall, "cpu": cpu},
        "truth": truth,
        "truth_to_price": {"wall": truth["wall"] / wall, "cpu": truth["cpu"] / cpu},
        "left_when_done": {key: left[key] for key in ("runs", "evaluations", "seconds")},
    }


def main() -> None:
    """Print the measurements, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=("tutorial", "demo", "eval_only"))
    given = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "tutorial.toml").write_text(tutorial())
        (folder / "eval_only.toml").write_text(eval_only.STUDY)
        studies = {
            "tutorial": (folder / "tutorial.toml", None),
            "demo": (ROOT / "studies" / "global_position.toml", "tiny"),
            "eval_only": (folder / "eval_only.toml", None),
        }
        for name, (path, scale) in studies.items():
            if given.only in (None, name):
                print(f"{name}: price and truth", file=sys.stderr, flush=True)
                found[name] = measure(path, scale, folder / f"runs-{name}")
    ratios = {name: one["truth_to_price"] for name, one in found.items()}
    found |= {
        "target": f"truth / price within {TARGET} both ways",
        "machine": {"commit": of_ablab(), **machine.describe()},
    }
    print(json.dumps(found, indent=1))
    for name, ratio in ratios.items():
        said = "; ".join(f"{clock} {value:.2f}" for clock, value in ratio.items())
        print(f"truth / price of {name}: {said}; asked: {1 / TARGET:.2f} to {TARGET}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
