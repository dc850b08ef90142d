"""Small studies made of numbers: a baseline column, differences per arm, and what judge says of them.

The expected numbers in this directory were computed from the formulas with scipy, to six digits; they are compared at
1e-5 relative. All inputs are invented.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from ablab.verdict import ArmSpec, Bank, Decision, RunScore, Verdict, judge, wanted

B = (3.2124, 3.2176, 3.2101, 3.2150, 3.2138, 3.2162, 3.2119, 3.2145)
V3 = (-0.0062, -0.0011, -0.0047, -0.0080, 0.0009, -0.0055, -0.0021, -0.0066)
V4 = (0.0008, -0.0006, 0.0013, -0.0003, 0.0004)
V5A = (0.0170, -0.0210, 0.0120, -0.0140, 0.0090)
V5B = (-0.0030, 0.0021, -0.0068, -0.0012, -0.0049, 0.0017, -0.0060, -0.0003)
V6 = {
    "a": (-0.0100, -0.0113, -0.0094, -0.0107, -0.0101, -0.0110, -0.0096, -0.0104),
    "b": (0.0049, 0.0090, 0.0061, 0.0020, 0.0088, 0.0034, 0.0075, 0.0058),
    "c": (-0.0061, -0.0002, -0.0085, -0.0049, 0.0021, -0.0055, -0.0008, -0.0066),
}
Column = Sequence[float | str | None]  # a number, "diverged", "failed", or None for a run that does not exist


def near(x: float | None) -> Any:
    """Six printed digits."""
    return pytest.approx(x, rel=1e-5, abs=1e-12)


def decision(start: int = 3, at_most: int = 8, **settings: Any) -> Decision:
    settings.setdefault("matters", 0.005)
    return Decision(**{"stage": "trained", "baseline": "base", "start": start, "at_most": at_most, **settings})


def run(arm: str, seed: int, value: float | str | None, **parts: Any) -> RunScore:
    if value is None or isinstance(value, str):
        return RunScore(arm, seed, value or "absent", **parts)  # type: ignore[arg-type]
    return RunScore(arm, seed, "done", stages={"trained": value, **parts.pop("stages", {})}, **parts)


def runs_of(arms: Mapping[str, Column], base: Column = B, parts: Mapping[Any, Any] | None = None) -> list[RunScore]:
    """The baseline for as many seeds as the longest arm has, and arm = B + D."""
    parts = parts or {}
    longest = max(len(column) for column in arms.values())
    runs = [run("base", i, base[i], **parts.get(("base", i), {})) for i in range(longest)]
    for name, column in arms.items():
        for i, x in enumerate(column):
            runs.append(run(name, i, B[i] + x if isinstance(x, float) else x, **parts.get((name, i), {})))
    return runs


def study(
    arms: Mapping[str, Column] | Column,
    start: int = 3,
    at_most: int = 8,
    *,
    bank: Bank | None = None,
    base: Column = B,
    parts: Mapping[Any, Any] | None = None,
    specs: Sequence[ArmSpec] | None = None,
    **settings: Any,
) -> Verdict:
    named = arms if isinstance(arms, Mapping) else {"a": arms}
    d = decision(start, at_most, **settings)
    specs = [ArmSpec(name) for name in named] if specs is None else specs
    runs = runs_of(named, base, parts)
    verdict = judge(d, specs, range(d.probe + at_most), runs, bank)
    missing = wanted(d, specs, range(d.probe + at_most), runs, bank)
    assert bool(missing) == (verdict.decided_by == "not finished")
    return verdict


def live(decision_, specs, seeds, table, bank=None, **more):
    """Run by run through wanted; returns (runs in the order made, the asked batches)."""
    made, batches = [], []
    while missing := wanted(decision_, specs, seeds, made, bank, **more):
        batches.append(missing)
        made += [table(*spot) for spot in missing]
        assert len({(r.arm, r.seed) for r in made}) == len(made)
    return made, batches


def table_of(columns, base=B):
    def look_up(arm, seed):
        if arm == "base":
            return run("base", seed, base[seed])
        x = columns[arm][seed]
        return run(arm, seed, B[seed] + x if isinstance(x, float) else x)

    return look_up
