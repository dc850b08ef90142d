"""What a study file means: a question, a rule, a baseline, and arms that each change one thing."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ablab.core.fault import CheckFailed, Fault
from ablab.core.files import key_of
from ablab.records.settings import Crossing, DecisionSettings, Limits, RunnerSettings, Settings

BASELINE = "baseline"
TRAINED = ("budget", "data", "model", "train", "runner")  # sections that can change the weights


@dataclass(frozen=True)
class Change:
    """One changed setting of an arm against its reference: where it stands in the baseline, before and after."""

    path: str
    before: object
    after: object


@dataclass(frozen=True)
class Arm:
    """The baseline or a variant of it. `settings` are fully resolved; `on` names the reference of every delta."""

    name: str
    on: str
    settings: Settings
    changes: tuple[Change, ...] = ()
    together: str | None = None
    because: str | None = None
    expect: dict[str, float] = field(default_factory=dict)
    factorial: str | None = None
    levels: dict[str, object] = field(default_factory=dict)  # path -> level, for a cell of a factorial
    source: dict[str, object] = field(default_factory=dict)  # data.source and other paths as the file writes them

    @property
    def data_is_lever(self) -> bool:
        """Whether data.* changes, or which weights are used: runs of other tokens may then be paired."""
        return any(change.path.startswith("data.") or change.path == "train.weights" for change in self.changes)

    @property
    def budget_is_lever(self) -> bool:
        """Whether budget.* changes: another number of tokens, or of tokens in a step."""
        return any(change.path.startswith("budget.") for change in self.changes)

    def settings_of(self, nth: int) -> Settings:
        """Return the settings of the nth seed: of weights trained elsewhere, its own file alone."""
        train = self.settings["train"]
        if not train["weights"]:
            return self.settings
        return {**self.settings, "train": {**train, "weights": train["weights"][nth : nth + 1]}}


@dataclass(frozen=True)
class Study:
    """A study at one scale. `arms` are in the file's order, without the baseline; cells of factorials come last."""

    name: str
    question: str
    scale: str | None
    decision: DecisionSettings
    limits: Limits
    baseline: Arm
    arms: dict[str, Arm]
    factorials: dict[str, Crossing]
    stages: tuple[str, ...]
    path: Path
    source: str
    levers: dict[str, str] = field(default_factory=dict)  # from outside: where they lie, and the sha256 of the file
    tie: tuple[str, ...] = ()  # decision.tie as the file writes it; decision["tie"] names arms

    @property
    def called(self) -> str:
        """The study's name, with its scale behind a point where it has one: `name.tiny`."""
        return f"{self.name}.{self.scale}" if self.scale else self.name

    @property
    def with_baseline(self) -> dict[str, Arm]:
        """The baseline and every arm, baseline first."""
        return {BASELINE: self.baseline, **self.arms}

    @property
    def seeds(self) -> list[int]:
        """Every seed that it may use: probe seeds first, then those of the looks."""
        declared = self.decision["seeds"]
        return [declared["first"] + i for i in range(declared["probe"] + declared["at_most"])]

    @property
    def runner(self) -> RunnerSettings | None:
        """The baseline's [runner], of a study over a command; None of one that ablab trains."""
        return self.baseline.settings.get("runner")

    def trained_here(self, what: str, *, asked: bool = True) -> None:
        """Refuse (CheckFailed) `what`, where it is asked for, of a study whose arms are runs of a program that is not ours."""
        if asked and self.runner is not None:
            fault = f"its arms are runs of a program ([runner]): {what} is of models that ablab trains"
            raise CheckFailed(Fault(self.path.name, fault, "read the report, or the runs' own files in the store"))

    def arm(self, name: str) -> Arm:
        """Return an arm or the baseline by name."""
        return self.baseline if name == BASELINE else self.arms[name]

    def reference(self, name: str) -> Arm:
        """Return the arm that `name` is a diff of."""
        return self.arm(self.arm(name).on)

    def trained_settings(self, name: str) -> Mapping[str, object]:
        """Return everything of an arm that can change its weights: the files, where they were trained elsewhere."""
        if files := self.arm(name).settings["train"]["weights"]:
            return {"weights": files}
        return {section: value for section, value in self.arm(name).settings.items() if section in TRAINED}

    def shares_weights(self, name: str) -> bool:
        """Tell whether an arm differs from its reference only after training."""
        return name != BASELINE and key_of(self.trained_settings(name)) == key_of(
            self.trained_settings(self.arm(name).on)
        )

    def canonical(self) -> dict[str, object]:
        """Spell what the study asks in one way: no texts, no machine's folders, no order where order means nothing."""
        return {
            "name": self.name,
            "scale": self.scale,
            "decision": self.decision,
            "limits": self.limits,
            "stages": list(self.stages),
            "baseline": _portable(self.baseline),
            "arms": {name: {"on": arm.on, "settings": _portable(arm)} for name, arm in self.arms.items()},
            "factorials": {
                name: {"factors": sorted(factor["path"] for factor in one["factors"]), "cells": sorted(one["cells"])}
                for name, one in self.factorials.items()
            },
        }

    @functools.cached_property
    def key(self) -> str:
        """Hash of the canonical form."""
        return key_of(self.canonical())

    @functools.cached_property
    def decision_key(self) -> str:
        """Hash of everything that it asks, its name aside."""
        expected = {name: arm.expect for name, arm in self.arms.items()}
        return key_of({**self.canonical(), "name": None, "expect": expected})


def _portable(arm: Arm) -> dict[str, object]:
    """Return the settings, with paths as the file writes them: a tokenizer's too, where it has any."""
    if "runner" in arm.settings:
        return {"runner": arm.settings["runner"]}
    data: dict[str, object] = {k: v for k, v in arm.settings["data"].items() if k != "groups" or v is not None}
    for key in ("source", "valid_source"):
        data[key] = arm.source.get(key)
    if isinstance(asked := arm.source.get("tokenizer"), dict):
        data["tokenizer"] = {
            **arm.settings["data"]["tokenizer"],
            **{k: v for k, v in asked.items() if isinstance(v, str) and k != "name"},
        }
    stages = {
        name: {**stage, "code": stage["code"] and Path(stage["code"]).name}
        for name, stage in arm.settings["stage"].items()
    }
    train = {**arm.settings["train"], "weights": arm.source.get("weights") or None}
    return {**arm.settings, "data": data, "train": train, "stage": stages}
