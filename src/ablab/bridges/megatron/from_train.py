"""ablab's [budget] and [train] as Megatron's flags, and what the fork cannot do."""

from __future__ import annotations

import math

from ablab.bridges.megatron.from_layers import Words
from ablab.bridges.megatron.notes import Note, note, warn
from ablab.bridges.megatron.to_train import clean
from ablab.bridges.noted import table
from ablab.core.fault import Fault
from ablab.core.lever import Choice, value_of, value_or_none
from ablab.core.toml import spell
from ablab.records.settings import Settings

NORMUON = {  # settings for which the fork has one answer
    "nesterov": True,
    "decay.form": "plain",
    "decay.taper": None,
    "second_moment.over": "rows",
    "rescale": "norm",
    "orthogonaliser.name": "polar_express",
    "orthogonaliser.steps": 5,
    "orthogonaliser.lower": 1e-3,
    "orthogonaliser.cushion": 0.02,
    "orthogonaliser.safety": 0.02,
    "orthogonaliser.coefficients": None,
    "orthogonaliser.products": None,
}


def from_train(settings: Settings, out: Words, faults: list[Fault]) -> list[Note]:
    """Write the flags of canonical budget and train. Appends faults; returns what to know."""
    train, notes = settings["train"], list[Note]()
    steps = _length(settings, out, faults, notes)
    _optimizer(train["optimizer"], out, faults, notes)
    if steps:
        _schedule(train["schedule"], train["optimizer"], steps, out, faults, notes)
    out["clip-grad"] = [repr(train["clip"])]
    if train["ema"]:
        faults.append(Fault("train.ema", "the fork keeps no average of the weights", "set it 0"))
    if train["qat"]["name"] != "off":
        faults.append(Fault("train.qat", "the fork rounds no weights while it trains", 'set it "off"'))
    if train["weights"]:
        fault = "the fork trains and cannot take weights from elsewhere"
        faults.append(Fault("train.weights", fault, "export the study that trained them"))
    if train["salt"]:
        notes.append(note("train.salt", "other generators: it has no meaning there"))
    return notes


def _length(settings: Settings, out: Words, faults: list[Fault], notes: list[Note]) -> int | None:
    budget, row = settings["budget"], settings["model"]["seq_len"]
    batch, tokens = budget["batch_tokens"], budget["tokens"]
    if tokens is None:
        faults.append(Fault("budget.seconds", "Megatron's schedule counts steps", "give tokens instead"))
        return None
    steps = -(-tokens // batch)
    out["micro-batch-size"] = ["1"]
    out["global-batch-size"] = [str(batch // row)]
    out["train-iters"] = [str(steps)]
    if steps * batch != tokens:
        notes.append(note("budget.tokens", f"{tokens:,} tokens are {steps:,} whole steps of {steps * batch:,} tokens"))
    out["eval-interval"] = [str(max(1, round(settings["train"]["validate_every"] / batch)))]
    return steps


def _optimizer(chosen: Choice, out: Words, faults: list[Fault], notes: list[Note]) -> None:
    name = chosen["name"]
    if name not in ("adamw", "normuon"):
        faults.append(Fault("train.optimizer", f"the fork has no {name}", "use adamw or normuon"))
        return
    out["lr"] = [repr(chosen["lr"])]
    rest = chosen if name == "adamw" else table(chosen, "aux")
    decay = chosen["decay"] if name == "adamw" else table(chosen, "decay")["rate"]
    if rest["head_lr"] not in (None, rest["embedding_lr"]):
        text = "the fork has one learning rate for embedding and head"
        faults.append(Fault("train.optimizer", text, "leave head_lr out"))
    if rest["embedding_lr"] is not None:
        out["decoupled-lr"] = [repr(rest["embedding_lr"])]
    out["weight-decay"] = [repr(decay)]
    out["adam-beta1"], out["adam-beta2"] = ([repr(beta)] for beta in value_of(rest, "betas", list[float]))
    out["adam-eps"] = [repr(rest["eps"])]
    out["optimizer"] = ["adam" if name == "adamw" else "normuon"]
    if name == "adamw":
        if chosen["scalar_lr"] not in (None, chosen["lr"]):
            faults.append(Fault("train.optimizer", "the fork has no rate for scalars", "leave scalar_lr out"))
    else:
        _normuon(chosen, out, faults, notes)


def _normuon(chosen: Choice, out: Words, faults: list[Fault], notes: list[Note]) -> None:
    """Write what normuon has beside adamw."""
    for path, only in NORMUON.items():
        *above, key = path.split(".")
        value = (table(chosen, above[0]) if above else chosen)[key]
        if value != only:
            cure = "leave it out" if only is None else f"use {path} = {spell(only)}"
            faults.append(Fault(f"train.optimizer.{path}", f"the fork cannot do {value!r}", cure))
    aux, decay, second = table(chosen, "aux"), table(chosen, "decay")["rate"], table(chosen, "second_moment")
    if aux["decay"] != decay:
        text = "the fork has one weight decay"
        faults.append(Fault("train.optimizer.aux.decay", text, f"use aux.decay = {decay!r}"))
    out["normuon-momentum"] = [repr(chosen["momentum"])]
    out["normuon-beta2"] = [repr(second["beta2"])]
    out["normuon-eps"] = [repr(second["eps"])]
    if aux["lr"] is not None:
        out["normuon-aux-lr"] = [repr(aux["lr"])]
    out["polar-express-safety-factor"] = [repr(table(chosen, "orthogonaliser")["safety"])]
    text = "q, k and v are one matrix there, with one orthogonalised update; three here"
    notes.append(warn("--optimizer normuon", text))
    if (form := second["eps_form"]) != "inside":
        text = f'eps stands under the root there (eps_form = "inside"), "{form}" here: felt by rows below 1e-5 alone'
        notes.append(warn("--normuon-eps", text))


def _schedule(
    chosen: Choice, optimizer: Choice, steps: int, out: Words, faults: list[Fault], notes: list[Note]
) -> None:
    name = chosen["name"]
    if name not in ("wsd", "cosine"):
        faults.append(Fault("train.schedule", f"the fork has no {name}", "use wsd or cosine"))
        return
    warm, low = (value_of(chosen, key, float) for key in ("warmup", "min_lr"))
    style = "cosine"
    if name == "wsd":
        fall, shape = value_of(chosen, "warmdown", float), chosen["shape"]
        style = "constant" if not fall else "WSD"
        if fall and shape == "linear" and abs(warm + fall - 1) < 1e-12:
            style = "linear"
        if style == "WSD":
            count = min(round(fall * steps), math.floor((1 - warm) * steps + 1e-9))
            if count < 1:
                text = f"a fall of {fall:g} of {steps} steps is less than one"
                faults.append(Fault("train.schedule.warmdown", text, "lengthen it, or set it 0"))
            elif clean(count / steps) != clean(fall):
                notes.append(note("train.schedule.warmdown", f"{fall:g} of {steps:,} steps are {count:,} whole ones"))
            out["lr-wsd-decay-style"] = ["linear" if shape == "linear" else "minus_sqrt"]
            out["lr-wsd-decay-iters"] = [str(count)]
    out["lr-decay-style"] = [style]
    if warm:
        out["lr-warmup-fraction"] = [repr(warm)]
    if style == "constant":
        low = 1.0
    aux = table(optimizer, "aux") if "aux" in optimizer else {}
    rates = {
        "min-lr": value_or_none(optimizer, "lr", float),
        "decoupled-min-lr": value_or_none(aux or optimizer, "embedding_lr", float),
        "normuon-aux-min-lr": value_or_none(aux, "lr", float),
    }
    out.update({flag: [repr(clean(rate * low))] for flag, rate in rates.items() if rate is not None})
