"""Learning rates, steps and optimizer in Megatron's words as ablab's [budget] and [train]."""

from __future__ import annotations

from dataclasses import dataclass

from ablab.bridges.megatron.blends import training
from ablab.bridges.megatron.net import Net
from ablab.bridges.megatron.notes import Note, note, warn
from ablab.bridges.megatron.parse import Given
from ablab.bridges.megatron.training_flags import RATES
from ablab.core.fault import Fault
from ablab.core.lever import Choice, value_or_none

RULED = (  # values that say what the optimizer is
    *("optimizer", "lr", "weight_decay", "adam_beta1", "adam_beta2", "adam_eps", "decoupled_lr"),
    *("normuon_momentum", "normuon_beta2", "normuon_eps", "normuon_aux_lr", "polar_express_safety_factor"),
)
SHAPES = {"linear": "linear", "minus_sqrt": "sqrt"}


@dataclass(frozen=True)
class Length:
    """Rows of a step and optimizer steps; None where the flags do not say."""

    rows: int | None
    steps: int | None


def length(given: Given) -> Length:
    """Count rows of a step (--global-batch-size, or one micro-batch on one device) and steps."""
    rows = given["global_batch_size"] or given["micro_batch_size"]
    steps = given["train_iters"]
    if steps is None and given["train_samples"] and rows:
        steps = given["train_samples"] // rows
    return Length(rows, steps)


def train(net: Net) -> dict[str, object]:
    """Return the [train] table; what the flags leave open is missing."""
    given, out = net.given, dict[str, object]()
    chosen = optimizer(given)
    if len(chosen) > 1 or "optimizer" in given:
        out["optimizer"] = chosen
    scheduled = schedule(given)
    if scheduled is not None:
        out["schedule"] = scheduled
    if "clip_grad" in given:
        out["clip"] = given["clip_grad"]
    size = length(given)
    every = given["eval_interval"]
    if "eval_interval" in given and size.rows and net.seq_len and size.steps and every <= size.steps:
        out["validate_every"] = every * size.rows * net.seq_len
    return out


def budget(net: Net) -> dict[str, int]:
    """Return the [budget] table: tokens of the training and of a step."""
    size, out = length(net.given), dict[str, int]()
    if size.rows and net.seq_len:
        if size.steps:
            out["tokens"] = size.steps * size.rows * net.seq_len
        out["batch_tokens"] = size.rows * net.seq_len
    return out


def optimizer(given: Given) -> Choice:
    """Return the optimizer slot, Megatron's defaults written out; only its name where no flag of its is given."""
    kind = given["optimizer"]
    if kind not in ("adam", "normuon") or not any(dest in given for dest in RULED):
        return {"name": "normuon" if kind == "normuon" else "adamw"}
    rate = {} if given["lr"] is None else {"lr": given["lr"]}
    embedding = {} if given["decoupled_lr"] is None else {"embedding_lr": given["decoupled_lr"]}
    betas, decay = [given["adam_beta1"], given["adam_beta2"]], given["weight_decay"]
    if kind == "adam":
        return {"name": "adamw", **rate, "betas": betas, "eps": given["adam_eps"], "decay": decay, **embedding}
    aux = {} if given["normuon_aux_lr"] is None else {"lr": given["normuon_aux_lr"]}
    return {
        "name": "normuon",
        **rate,
        "momentum": given["normuon_momentum"],
        "decay": decay,
        "second_moment": {"beta2": given["normuon_beta2"], "eps": given["normuon_eps"], "eps_form": "inside"},
        "orthogonaliser": {"safety": given["polar_express_safety_factor"]},
        "aux": {**aux, **embedding, "betas": betas, "eps": given["adam_eps"], "decay": decay},
    }


def schedule(given: Given) -> Choice | None:
    """Return the schedule slot, or None where no flag is about it; its fractions are of the whole training."""
    if not any(flag in RATES for flag in given.flags):
        return None
    style, warm = given["lr_decay_style"], warmup(given)
    low = clean(given["min_lr"] / given["lr"]) if given["lr"] and given["min_lr"] <= given["lr"] else 0.0
    if style == "cosine":
        return {"name": "cosine", "warmup": warm, "min_lr": low}
    out: Choice = {"name": "wsd", "warmup": warm, "warmdown": 0.0, "min_lr": low, "shape": "linear"}
    if style == "linear":
        out["warmdown"] = clean(1 - warm)
    elif style == "WSD":
        out["warmdown"] = _share(given, "lr_wsd_decay")
        out["shape"] = SHAPES.get(given["lr_wsd_decay_style"], "linear")
    if not out["warmdown"]:
        out["min_lr"] = 0.0
    return out


def warmup(given: Given) -> float:
    """Return warm-up as a fraction of the decay's steps."""
    fraction = given["lr_warmup_fraction"]
    return _share(given, "lr_warmup") if fraction is None else float(fraction)


def _share(given: Given, name: str) -> float:
    """Return steps or rows of a phase as a fraction of the training; 0 where the training's length is unknown."""
    size = length(given)
    steps = given[f"{name}_iters"] or 0
    if given[f"{name}_samples"] and size.rows:
        steps = given[f"{name}_samples"] / size.rows
    return clean(steps / size.steps) if size.steps else 0.0


def clean(value: float) -> float:
    """Round a float to be without the dust of its arithmetic."""
    return float(f"{value:.14g}")


def refusals(net: Net) -> list[Fault]:
    """Return faults for what would make a [train] of these flags mean another thing."""
    given, size, out = net.given, length(net.given), list[Fault]()
    if given["optimizer"] not in ("adam", "normuon"):
        text = f"ablab does not write Megatron's {given['optimizer']} as a study"
        out.append(Fault("--optimizer", text, "use adam or normuon"))
    if given["optimizer"] == "normuon" and abs(given["polar_express_safety_factor"] - 0.02) > 1e-12:
        text = "another factor than 0.02 raises there without --polar-express-coeffs-path"
        out.append(Fault("--polar-express-safety-factor", text, "leave it 0.02"))
    if schedule(given) is None:
        return out
    style = given["lr_decay_style"]
    if style == "inverse-square-root":
        out.append(Fault("--lr-decay-style", f"ablab has no {style}", "use cosine, linear, constant or WSD"))
    if style == "WSD" and given["lr_wsd_decay_style"] not in SHAPES:
        text = f"ablab's fall is linear or minus_sqrt, not {given['lr_wsd_decay_style']}"
        out.append(Fault("--lr-wsd-decay-style", text, "use linear or minus_sqrt"))
    if style == "WSD" and not (given["lr_wsd_decay_iters"] or given["lr_wsd_decay_samples"]):
        out.append(Fault("--lr-wsd-decay-iters", "WSD needs the steps of its fall", "add it"))
    if given["lr_warmup_init"]:
        out.append(Fault("--lr-warmup-init", "ablab's warm-up begins at 0", "remove it"))
    decay = given["lr_decay_iters"]
    if decay is None and given["lr_decay_samples"] and size.rows:
        decay = given["lr_decay_samples"] // size.rows
    if (
        decay is not None
        and size.steps
        and decay != size.steps
        and (style != "constant" or given["lr_warmup_fraction"])
    ):
        text = f"the schedule ends at step {decay}, the training at step {size.steps}; ablab's spans the training"
        out.append(Fault("--lr-decay-iters", text, "remove it"))
    warm = warmup(given)
    if (given["lr_warmup_iters"] or given["lr_warmup_samples"]) and size.steps is None:
        out.append(Fault("--lr-warmup-iters", "a fraction of an unknown number of steps", "add --train-iters"))
    if not 0 <= warm < 1 or warm + (value_or_none(schedule(given) or {}, "warmdown", float) or 0.0) > 1 + 1e-12:
        out.append(Fault("--lr-warmup-iters", "warm-up and fall are longer than the training", "shorten them"))
    if given["lr"] is not None and given["min_lr"] > given["lr"]:
        out.append(Fault("--min-lr", f"{given['min_lr']:g} is above --lr {given['lr']:g}", "lower it"))
    if given["min_lr"] and given["lr"] is None:
        out.append(Fault("--min-lr", "a fraction of an unknown --lr", "add --lr"))
    if style != "constant":
        out += _ends(given)
    return out


def _ends(given: Given) -> list[Fault]:
    """Return a fault where rates of their own do not fall to the same fraction: ablab's schedule is one factor for all."""
    out = []
    for own, low in (("decoupled_lr", "decoupled_min_lr"), ("normuon_aux_lr", "normuon_aux_min_lr")):
        used = own == "decoupled_lr" or given["optimizer"] == "normuon"
        peak = given[own] if given[own] is not None else given["lr"]
        end = given[low] if given[low] is not None else given["min_lr"]
        if not used or not peak or not given["lr"] or (given[own] is None and given[low] is None):
            continue
        wanted = given["min_lr"] / given["lr"] * peak
        if abs(end - wanted) > 1e-9 * peak:
            name = f"--{low.replace('_', '-')}"
            text = f"{end:g} is another fraction of {peak:g} than --min-lr is of --lr"
            out.append(Fault(name, text, f"give {name} {clean(wanted)!r}"))
    return out


def on_training(net: Net) -> list[Note]:
    """List traps about training."""
    given, size, out = net.given, length(net.given), list[Note]()
    if size.steps and size.rows and net.seq_len:
        tokens = size.steps * size.rows * net.seq_len
        text = f"{size.steps:,} steps x {size.rows} rows x {net.seq_len:,} tokens = {tokens:,} tokens"
        out.append(note("--train-iters" if given["train_iters"] else "--train-samples", text))
    elif size.rows and net.seq_len:
        out.append(note("--train-iters", steps_text(size.rows * net.seq_len)))
    if given["global_batch_size"] is None and given["micro_batch_size"]:
        out.append(note("--global-batch-size", "is not given: one micro-batch per device; one device is assumed"))
    if given["optimizer"] == "normuon":
        if given["lr"] is not None and given["lr"] == given["min_lr"]:
            out.append(note("--min-lr", "equals --lr: the learning rate is constant after the warm-up"))
        if given["normuon_aux_lr"] is None and given["lr"] is not None:
            text = f"is not given: AdamW runs at NorMuon's {given['lr']:g}, which one of the two will not like"
            out.append(warn("--normuon-aux-lr", f"{text} (published: NorMuon 0.02, decay 0)"))
        out.append(note("--optimizer", "q, k and v are one matrix there (one orthogonalised update), three here"))
        out.append(
            note("--optimizer", "no distributed optimizer, no offload; matrices are every 2-D but embedding, head")
        )
    if given["optimizer"] in ("adaptive_muon", "muon", "dist_muon"):
        text = "is upstream's; its adaptive form is adamuon by default, and normuon is not on its command line"
        out.append(warn("--optimizer", f"{given['optimizer']} {text}"))
    if schedule(given) is not None and "lr_decay_style" not in given:
        out.append(note("--lr-decay-style", "is not given: linear, down to --min-lr at the last step"))
    if given["lr"] is not None and not ({"weight_decay", "adam_beta2"} <= set(given.values)):
        out.append(note("--weight-decay, --adam-beta2", "Megatron's defaults are 0.01 and 0.999"))
    if "seed" in given and training(given) is None:
        out.append(note("--seed", "other generators: the same seed gives other numbers here"))
    return out


def steps_text(batch: int) -> str:
    """Say how many steps 200 million tokens are, the budget of a small ablation."""
    return f"{batch:,} tokens a step: 200,000,000 tokens are {-(-200_000_000 // batch):,} steps"
