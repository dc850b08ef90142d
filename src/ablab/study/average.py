"""The running mean of the weights (`train.ema`): the warm-up of its decay, and decays with the same effect."""

from __future__ import annotations

from ablab.core.fault import Fault
from ablab.records.settings import BudgetSettings, Settings, TrainSettings

WARMUP = 9.0  # the decay of step n is at most (1 + n) / (10 + n), as in TensorFlow's ExponentialMovingAverage

DOC = "the decay of step n is at most (1 + n) / (1 + n + w): the first weights are forgotten; 0: ema from step 1 on"


def warmed(train: TrainSettings, faults: list[Fault]) -> None:
    """Fill in `ema_warmup` where there is a mean, and refuse it where there is none."""
    if train["ema"] == 0 and train["ema_warmup"] is not None:
        text = f"{train['ema_warmup']:g} acts on nothing: there is no running mean (train.ema)"
        faults.append(Fault("train.ema_warmup", text, "remove it, or set ema = 0.999"))
    elif train["ema"] and train["ema_warmup"] is None:
        train["ema_warmup"] = WARMUP


def alike(one: Settings, other: Settings) -> tuple[str, str] | None:
    """Say why an arm and its reference average the same though ema or its warm-up differ, and the cure; None where they do not.

    The decay of step n is the smaller of ema and (1 + n) / (1 + n + ema_warmup), which grows with n.
    """
    asked = [(settings["train"]["ema"], settings["train"]["ema_warmup"]) for settings in (one, other)]
    (a, a_warmup), (b, b_warmup) = asked
    steps = _steps(one["budget"])
    if not a or not b or a_warmup is None or b_warmup is None or steps is None:
        return None
    if steps != _steps(other["budget"]) or asked[0] == asked[1]:
        return None
    last = _most(steps, a_warmup)
    if a_warmup == b_warmup and min(a, b) >= last:
        held = f"holds the decay at {last:.4g} or less over all {steps:,} steps"
        cure = "train for more steps, or set train.ema_warmup = 0 in the baseline"
        return f"the warm-up (train.ema_warmup = {a_warmup:g}) {held}", cure
    if a == b and a <= min(_most(1, a_warmup), _most(1, b_warmup)):
        return (
            f"the decay {a:g} is below what both warm-ups allow from the first step on",
            "remove it, or raise train.ema",
        )
    return None


def _most(step: int, warmup: float) -> float:
    return (1 + step) / (1 + step + warmup)


def _steps(budget: BudgetSettings) -> int | None:
    tokens, batch = budget["tokens"], budget["batch_tokens"]
    return -(-tokens // batch) if tokens and batch else None
