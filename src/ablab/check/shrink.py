"""The settings of an arm at the size of a miniature: every size by the same factors, the schedule scaled in.

Levers and evaluators whose settings are sizes, shares or steps name theirs for a smaller model (`miniature`).
"""

from __future__ import annotations

import copy
import math
import re

from ablab.artifact import compressors
from ablab.core.lever import Choice, Sized, value_of
from ablab.records.settings import BudgetSettings, ModelSettings, Settings, TrainSettings
from ablab.runs.store import chosen
from ablab.scoring import evaluators
from ablab.study.keys import IN_MODEL, OF_MODEL, SLOTS

STEPS = 20
SEQ_LEN = 64  # of the baseline; windows and other lengths keep their proportion to it
SHORTEST = 32  # seq_len of any arm: a probe needs room for a sentence
HEAD_DIM = 8
MOST_LAYERS = 16
LEAST_EMA = 0.05  # of a step; below it an average is the last weights to the digits that are compared
_LAYER = re.compile(r"layers\.[0-9]")


def shrink(settings: Settings, base: Settings, *, long: float, same_layers: bool) -> Settings:
    """Shrink `settings` to miniature size, every size by the same factors as the baseline's `base`, the schedule scaled in.

    `long` is the factor of every length.
    """
    small = copy.deepcopy(settings)
    model, wide = small["model"], min(1.0, HEAD_DIM / base["model"]["head_dim"])
    model["head_dim"] = max(2, 2 * round(model["head_dim"] * wide / 2))
    model["d_model"] = max(4, round(model["d_model"] * wide))
    model["seq_len"] = max(4, round(model["seq_len"] * long))
    for kind in model["kinds"].values():
        if kind["window"] is not None:
            full = settings["model"]["seq_len"]
            most = model["seq_len"] if kind["window"] >= full else model["seq_len"] - 1
            kind["window"] = min(most, max(2, round(kind["window"] * long)))
    if len(model["layers"]) > MOST_LAYERS and not same_layers and not model["loops"]:
        model["layers"] = model["layers"][: MOST_LAYERS // 2] + model["layers"][-MOST_LAYERS // 2 :]
        model["kinds"] = {k: v for k, v in model["kinds"].items() if k in model["layers"]}
    _fit_levers(settings["model"], model, small["train"])
    if model["loop_from"]:  # of so few steps one at least must loop
        model["loop_from"] = min(model["loop_from"], 1 - 1 / STEPS)
    share = settings["budget"]["batch_tokens"] / base["budget"]["batch_tokens"]
    rows = max(1, round(2 * share * base["model"]["seq_len"] * long / model["seq_len"]))
    batch_tokens = rows * model["seq_len"]
    small["budget"] = {"tokens": STEPS * batch_tokens, "seconds": None, "batch_tokens": batch_tokens}
    small["train"]["validate_every"] = 10 * batch_tokens
    for stage in small["stage"].values():
        fit_evaluator(stage["evaluate"], settings["model"]["seq_len"], long)
        fit = compressors.slot.load(value_of(stage["compress"], "name", str)).miniature
        stage["compress"] |= fit(stage["compress"], settings["model"], model)
        if windows := stage["windows"]:
            stage["windows"] = {table: size and max(2, round(size * long)) for table, size in windows.items()}
    small["train"]["ema"] = _ema(settings["train"]["ema"], settings["budget"])
    small["train"]["weights"] = None  # of the full size; what the miniature asks is whether the arm acts
    return small


def names_a_layer(value: object) -> bool:
    """Tell whether settings name a layer by its number, which a miniature of fewer layers would not have."""
    if isinstance(value, dict | list | tuple):
        return any(map(names_a_layer, value.values() if isinstance(value, dict) else value))
    return isinstance(value, str) and bool(_LAYER.match(value))


def _ema(decay: float, budget: BudgetSettings) -> float:
    """Return the decay whose average reaches over the same share of few steps; as it is where nobody knows how many.

    The warm-up of the decay needs no scaling: (1 + n) / (1 + w + n) averages over one share of the steps so far at any n.
    """
    if not decay or budget["tokens"] is None:
        return decay
    return float(max(LEAST_EMA, decay ** (math.ceil(budget["tokens"] / budget["batch_tokens"]) / STEPS)))


def fit_evaluator(choice: Choice, seq_len: int, long: float) -> None:
    """Set its settings for lengths that are `long` times these; it is told the trained length, so that windows stay whole."""
    fit = evaluators.slot.load(value_of(choice, "name", str)).miniature
    trained = "seq_len" in choice and choice["seq_len"] is None
    choice |= fit(choice | ({"seq_len": seq_len} if trained else {}), long) | ({"seq_len": None} if trained else {})


def _fit_levers(full: ModelSettings, small: ModelSettings, train: TrainSettings) -> None:
    """Ask levers whose settings are sizes (a gate's width, a layer's number) for those of a smaller model: `miniature`."""
    places = [place for kind in small["kinds"].values() for place in chosen(kind, IN_MODEL)]
    places += [*chosen(small, OF_MODEL), *chosen(train, ("optimizer", "schedule", "loss", "qat"))]
    for slot, named in places:
        for choice in named if isinstance(named, list) else [named]:
            if choice and issubclass(lever := SLOTS[slot].load(choice["name"]), Sized):
                choice |= lever.miniature(choice, full, small)
