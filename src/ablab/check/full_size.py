"""Faults that a miniature cannot see, because they hang on the full size: found on the meta device, before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ablab.core.fault import Fault, InvalidStudy
from ablab.core.slot import value_or_none
from ablab.runs.plan import Plan

if TYPE_CHECKING:
    pass


def check(plan: Plan) -> None:
    """Raises InvalidStudy where a batch must stay whole and does not fit, where a compressor would round nothing, and where
    an evaluator does not fit the model or the text."""
    if faults := splits(plan) + idle(plan) + unfit(plan):
        raise InvalidStudy(faults)


def splits(plan: Plan) -> list[Fault]:
    """A fault for every arm with a part that needs the whole batch, where a batch goes through in pieces."""
    from ablab.training.learner import split_fault

    faults = []
    for name, arm in plan.study.with_baseline.items():
        rows = arm.settings["budget"]["batch_tokens"] // arm.settings["model"]["seq_len"]
        place = f"{plan.study.path.name}: {name}: model"
        faults.append(split_fault(plan.decoder(name), rows, plan.where.micro_rows, place))
    return [fault for fault in faults if fault is not None]


def idle(plan: Plan) -> list[Fault]:
    """A fault for every stage whose compressor passes all matrices of a model through: its bits would act on nothing."""
    from ablab.artifact.compressors.quantised import matrices

    found: dict[str, Fault] = {}
    for name, arm in plan.study.with_baseline.items():
        weights = dict(plan.decoder(name).named_parameters())
        for stage, chosen in arm.settings["stage"].items():
            small = value_or_none(chosen["compress"], "small", int)
            if chosen["after"] is not None or small is None or matrices(weights, small):
                continue
            largest = max(tensor.numel() for tensor in weights.values())
            text = f"rounds nothing: the largest tensor has {largest:,} numbers, and small = {small:,} pass through"
            place = f"{plan.study.path.name}: {name}: stage.{stage}.compress"
            found.setdefault(f"{stage} {small} {largest}", Fault(place, text, "lower small"))
    return list(found.values())


def unfit(plan: Plan) -> list[Fault]:
    """A fault for every stage whose evaluator refuses the settings or the text (`fit`), at the first arm that has it."""
    from ablab.scoring import evaluators

    found: dict[tuple[str, str], Fault] = {}
    for name, arm in plan.study.with_baseline.items():
        corpus, model = plan.corpus(plan.runs[name, plan.seeds[0]]), plan.decoder(name)
        for stage, chosen in arm.settings["stage"].items():
            try:
                evaluators.slot.build(chosen["evaluate"]).fit(arm.settings, corpus, model)
            except ValueError as error:
                fault, _, cure = str(error).partition("; ")
                place = f"{plan.study.path.name}: {name}: stage.{stage}.evaluate"
                found.setdefault((stage, str(error)), Fault(place, fault, cure))
    return list(found.values())
