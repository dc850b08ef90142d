"""One run as a log in parameter-golf's own line shapes, so that programs which read theirs read ours."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from ablab.bridges.golf.rules import evaluation_seconds
from ablab.bridges.noted import noted, unread
from ablab.core.fault import CheckFailed, Fault
from ablab.core.forms import fits
from ablab.records.result import Result
from ablab.records.run import Trained
from ablab.records.settings import Settings
from ablab.report.shareable import shareable
from ablab.runs.store import read_lines

if TYPE_CHECKING:
    from ablab.bridges.golf.entry import Entry
    from ablab.runs.plan import Plan

SHOWN_STEPS = 20  # training losses between the first five and the last
SCORED = {"quantized": "quantized", "sliding": "quantized_sliding_window", "ttt": "quantized_ttt"}


class StepRow(TypedDict, total=False):
    """What is read of a line of metrics.jsonl: of a step its loss and the time until then, of a validation the scores."""

    step: int
    loss: float
    tokens: int
    seconds: float
    valid_nats_per_token: float | None
    valid_bits_per_byte: float | None


def log(plan: Plan, one: Entry, seed: int) -> str:
    """Write the text of one run's log: settings, steps, and every stage in the words that are known for it."""
    settings, done, results = plan.runs[one.arm, seed].settings, one.done[seed], one.results[seed]
    said = shareable(
        settings, folder=plan.study.path.parent, root=plan.store.root
    )  # as values: a path may hold a blank
    corpus = plan.corpus(plan.runs[one.arm, seed])
    lines = ["Hyperparameters:", *(f"  {key}: {value}" for key, value in _settings(said, seed, done).items())]
    lines.append(f"val_tokens: {int(corpus.valid.n_targets)}")
    part = done.get("validated") or {}
    if part and not part["whole"]:
        lines.append(f"val_tokens on the way: {part['tokens']}, the same at every step; stages score all")
    rows = _rows(plan.store.train(plan.runs[one.arm, seed].train_key), done["steps"])
    lines += _training(settings, done, rows)
    artifact = _artifact(one, results)
    if artifact is not None and artifact.get("artifact", {}).get("raw_bytes"):
        lines.append(f"Serialized model: {int(artifact['artifact']['raw_bytes'])} bytes")
    if artifact is not None:
        codec = str(artifact.get("artifact", {}).get("codec") or "raw")
        lines.append(f"Code size: {int(artifact.get('code_bytes') or 0)} bytes")
        lines.append(
            f"Serialized model quantized+{codec}: {int(artifact.get('model_bytes') or artifact['bytes'])} bytes"
        )
        lines.append(f"Total submission size quantized+{codec}: {int(artifact['bytes'])} bytes")
    scored = [line for stage, role in one.roles.items() if (line := _scored(role, results[stage]))]
    before = [line for line in scored if line.startswith("pre-quantization")]
    at = next((i for i, line in enumerate(lines) if line.startswith(("Serialized model", "Code size"))), len(lines))
    return "\n".join([*lines[:at], *before, *lines[at:], *(line for line in scored if line not in before)]) + "\n"


def _rows(folder: Path, steps: int) -> list[StepRow]:
    """Read what the run wrote step by step. CheckFailed where one is missing: a log without it would look like one with it."""
    rows: list[StepRow] = [row for row in read_lines(folder / "metrics.jsonl") if fits(row, StepRow) and "step" in row]
    known = {row["step"] for row in rows if "loss" in row and "seconds" in row}
    if lost := steps - len(known & {*range(1, steps + 1)}):
        fault = f"lacks {lost} of {steps} steps of a finished run"
        raise CheckFailed(Fault(str(folder / "metrics.jsonl"), fault, f"delete {folder} to have the run made again"))
    return rows


def _settings(settings: Settings, seed: int, done: Trained) -> dict[str, object]:
    """Return what golf has a name for, and everything else of the arm under its place in a study."""
    asked, table = noted(settings)
    model, budget = asked["model"], asked["budget"]
    known: dict[str, object] = {
        "iterations": done["steps"] or "not known: trained elsewhere",
        "model_dim": model["d_model"],
        "num_layers": len(model["layers"]),
        "layers": model["layers"],
        "seed": seed,
        "train_batch_tokens": budget["batch_tokens"],
        "train_seq_len": model["seq_len"],
    }
    return known | {place: json.dumps(value) for place, value in unread(table)}


def _training(settings: Settings, done: Trained, rows: list[StepRow]) -> Iterator[str]:
    total = done["steps"]
    nats, bits = (done["untrained"].get(name) for name in ("nats_per_token", "bits_per_byte"))
    if nats is not None and bits is not None:
        yield _validation(0, total, nats, bits)
    every, began = max(1, total // SHOWN_STEPS), _loop_step(settings, total, rows)
    for row in rows:
        step = row.get("step", 0)
        if "loss" in row:
            if step == began:
                yield _loops(settings, step, total)
            if step <= 5 or step % every == 0 or step == total:
                speed = row["tokens"] / row["seconds"] if row.get("seconds") else 0.0
                minutes = f"train_time: {row.get('seconds', 0.0) / 60:.1f}m tok/s: {speed:.0f}"
                yield f"{step}/{total} train_loss: {row['loss']:.4f} {minutes}"
        elif (nats := row.get("valid_nats_per_token")) is not None and (
            bits := row.get("valid_bits_per_byte")
        ) is not None:
            yield _validation(step, total, nats, bits)


def _validation(step: int, total: int, nats: float, bits: float) -> str:
    return f"{step}/{total} val_loss: {nats:.4f} val_bpb: {bits:.4f}"


def _loop_step(settings: Settings, total: int, rows: list[StepRow]) -> int | None:
    """Find the first step whose layers run in loops; None where they never begin to."""
    start, clock = settings["model"].get("loop_from"), settings["budget"]["seconds"]
    if not start or not settings["model"].get("loops"):
        return None
    if settings["budget"]["tokens"] is not None:
        return math.ceil(start * total) + 1
    assert clock is not None  # of tokens and seconds one is given
    late = (row["step"] for row in rows if "loss" in row and row.get("seconds", 0.0) >= start * clock)
    return next((step + 1 for step in late), None)


def _loops(settings: Settings, step: int, total: int) -> str:
    from ablab.model.decoder import order

    met = order(len(settings["model"]["layers"]), settings["model"]["loops"])
    half = len(met) // 2
    frac = (step - 1) / total
    return f"layer_loop:enabled step:{step} frac:{frac:.3f} encoder:{met[:half]} decoder:{met[half:]}"


def _artifact(one: Entry, results: Mapping[str, Result]) -> Result | None:
    """Find the result that counted the packed bytes: of the quantised stage, else the last of packed weights; None of none."""
    schemes = {stage: (results[stage].get("artifact") or {}).get("schemes") or {} for stage in one.roles}
    packed = [stage for stage, how in schemes.items() if not all(name.startswith("keep") for name in how)]
    chosen = [stage for stage in packed if one.roles[stage] == "quantized"] or packed[-1:]
    return results[chosen[0]] if chosen else None


def _scored(role: str, result: Result) -> str:
    """Write the line of one stage; nothing for a score that is not finite, or a stage that golf has no word for."""
    metrics = result.get("metrics") or {}
    nats, bits = metrics.get("nats_per_token"), metrics.get("bits_per_byte")
    word = "pre-quantization post-ema" if role == "pre_quant" else SCORED.get(role)
    if word is None or nats is None or bits is None:
        return ""
    return f"{word} val_loss:{nats:.8f} val_bpb:{bits:.8f} eval_time:{1000 * evaluation_seconds(result):.0f}ms"
