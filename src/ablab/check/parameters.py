"""Which parameter is trained how: role, shape, learning rate and decay, one line for all of like name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from rich.console import Console

    from ablab.runs.plan import Plan

HEADS = ("shape", "lr", "decay")


class Parameters(TypedDict):
    """Those of like name, role, shape and rule; lr is the peak. Of weights trained elsewhere no lr and no decay."""

    name: str
    count: int
    shape: list[int]
    role: str
    lr: float | None
    decay: float | None


class ArmRules(TypedDict):
    """An arm and the rules of its parameters, as far as they are shown."""

    name: str
    rules: list[Parameters]


def of(plan: Plan, name: str) -> list[Parameters]:
    """List the parameters of an arm in the model's order.

    Names that differ by numbers alone share a line, with `*` for the number, where all else is equal too; one alone keeps its
    number.
    """
    from ablab.training import optimizers

    run = plan.runs[name, plan.seeds[0]]
    decoder = plan.decoder(name)
    parameters = dict(decoder.named_parameters())
    optimizer = optimizers.slot.build(run.settings["train"]["optimizer"])
    lines: dict[tuple[object, ...], Parameters] = {}
    elsewhere = bool(run.settings["train"]["weights"])
    for full, rule in optimizer.rules(parameters, decoder.roles()).items():
        lr, decay = (None, None) if elsewhere else (rule["lr"], rule["decay"])
        shape = list(parameters[full].shape)
        row = lines.setdefault(
            (_starred(full), *shape, rule["role"], lr, decay),
            {"name": full, "count": 0, "shape": shape, "role": rule["role"], "lr": lr, "decay": decay},
        )
        row["count"] += 1
        row["name"] = full if row["count"] == 1 else _starred(full)
    return list(lines.values())


def show(arms: Sequence[ArmRules], console: Console) -> None:
    """Print the baseline's table, then of every other arm only what differs from it."""
    from ablab.core import grid

    baseline = arms[0]["rules"]
    for arm in arms:
        rows = arm["rules"] if arm is arms[0] else [row for row in arm["rules"] if row not in baseline]
        here = {row["name"] for row in arm["rules"]}
        gone = [] if arm is arms[0] else sorted({row["name"] for row in baseline} - here)
        if not rows and not gone:
            continue
        title = "parameters" if arm is arms[0] else f"parameters of {arm['name']} that differ"
        columns = [grid.Column(title), grid.Column("role"), *(grid.Column(one, right=True) for one in HEADS)]
        lines = []
        for row in rows:
            times = f" ({row['count']}x)" if row["count"] > 1 else ""
            shape = " x ".join(map(str, row["shape"])) or "()"
            rates = ("-" if rate is None else f"{rate:g}" for rate in (row["lr"], row["decay"]))
            lines.append((row["name"] + times, row["role"], shape, *rates))
        lines += [(missing, "not there", "", "", "") for missing in gone]
        grid.show(columns, lines, console, width=console.width)


def _starred(name: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in name.split("."))
