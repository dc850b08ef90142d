"""A tree of tables to canonical settings: every default filled in, every number in its type, every fault found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ablab.core.fault import Fault, did_you_mean
from ablab.core.lever import Choice, value_of, value_or_none
from ablab.data import tokenizers
from ablab.data.sources.hub import located
from ablab.records.settings import BudgetSettings, DataSettings, Settings, StageSettings, TrainSettings
from ablab.scoring import evaluators
from ablab.study import average, elsewhere, runner
from ablab.study.keys import IN_MODEL, SECTIONS
from ablab.study.layers import spell
from ablab.study.merge import Path as Keys
from ablab.study.model import model
from ablab.study.take import name_fault, section, show, table

WORDS = ("python", "mock")  # sources that are no files
PACKED = ("compress", "codec", "code")  # what a stage that stands after another has from it
DEFAULT_STAGE = {"pre_quant": {"evaluate": "disjoint"}}


def settings(tree: Mapping[str, object], folder: Path) -> tuple[Settings, list[Fault]]:
    """Read the canonical settings of a tree (contract: budget, data, model, train, stage) and every fault in it.

    `data.span` stays None where it is not given: its default needs the other arms.
    """
    if "runner" in tree:
        return runner.settings(tree)
    faults: list[Fault] = []
    out: Settings = {
        "budget": section("budget", tree.get("budget"), "budget", faults, BudgetSettings),
        "data": _data(tree.get("data"), folder, faults),
        "model": model(tree.get("model"), faults),
        "train": section("train", tree.get("train"), "train", faults, TrainSettings),
        "stage": _stages(tree.get("stage"), folder, faults),
    }
    _windows(out, faults)
    average.warmed(out["train"], faults)
    elsewhere.located(out["train"], table(tree.get("train"), "train", []), folder, faults)
    _budget(out, table(tree.get("budget"), "budget", []), faults)
    _idle(out, table(tree.get("data"), "data", []), faults)
    if out["train"]["salt"] and len(out["train"]["salt"]) > 64:
        faults.append(Fault("train.salt", "longer than 64 characters", "shorten it"))
    return out, faults


def written(tree: Mapping[str, object]) -> dict[str, object]:
    """Return sources, tokenizer and weights as the file writes them: what is hashed, so that a study means the same in another
    folder."""
    data = table(tree.get("data"), "data", [])
    files = {key: data.get(key) for key in ("source", "valid_source", "tokenizer")}
    files["weights"] = table(tree.get("train"), "train", []).get("weights")
    return {key: [value] if isinstance(value, str) and key != "tokenizer" else value for key, value in files.items()}


def staged(tree: dict[str, object]) -> dict[str, object]:
    """Return the tree with its stages written out where it relies on the default one, so that a diff can name it."""
    return tree if tree.get("stage") else {**tree, "stage": DEFAULT_STAGE}


def _data(raw: object, folder: Path, faults: list[Fault]) -> DataSettings:
    out = section("data", raw, "data", faults, DataSettings)
    if out["source"] is not None:
        out["source"] = _sources(out["source"], "data.source", folder, faults)
    if out["valid_source"] is not None:
        out["valid_source"] = _sources(out["valid_source"], "data.valid_source", folder, faults)
    if tokenizer := out["tokenizer"]:
        for path in tokenizers.slot.load(value_of(tokenizer, "name", str)).paths:
            if tokenizer[path]:
                tokenizer[path] = str(folder.absolute() / value_of(tokenizer, path, str))
    return out


def _sources(named: str | list[str], place: str, folder: Path, faults: list[Fault]) -> list[str]:
    sources = [named] if isinstance(named, str) else named
    if not sources or not all(sources):
        faults.append(Fault(place, "names nothing", 'give a file, a pattern, "python" or "mock"'))
    return [one if one in WORDS else _located(one, folder.absolute()) for one in sources]


def _located(source: str, folder: Path) -> str:
    """Read a path or pattern from the study file's folder; a dataset's name, unless a folder there is called so."""
    return located(source, folder) if source.startswith("hf:") else str(folder / source)


def _budget(out: Settings, raw: Mapping[str, object], faults: list[Fault]) -> None:
    budget, train, seq_len = out["budget"], out["train"], out["model"]["seq_len"]
    tokens, seconds, batch = budget["tokens"], budget["seconds"], budget["batch_tokens"]
    if "tokens" in raw and "seconds" in raw:
        faults.append(Fault("budget", "gives both tokens and seconds", "keep one"))
    elif "tokens" not in raw and "seconds" not in raw:
        faults.append(Fault("budget", "gives neither tokens nor seconds", "add tokens = ... (or seconds = ...)"))
    if batch and seq_len and batch % seq_len:
        text = f"{batch} is no multiple of model.seq_len {seq_len}"
        near = max(1, round(batch / seq_len)) * seq_len
        faults.append(Fault("budget.batch_tokens", text, f"give whole rows, say {near}"))
    if batch and tokens and tokens < batch:
        faults.append(Fault("budget.tokens", f"{tokens} is less than one batch of {batch}", "give more tokens"))
    every = train["validate_every"]
    if every is None and seconds and tokens is None and not train["weights"]:
        if not any(fault.place == "train.validate_every" for fault in faults):
            text = "needed under a budget in seconds"
            faults.append(Fault("train.validate_every", text, "add validate_every = ... (tokens) to [train]"))
    elif batch and (every or tokens):
        if every and tokens and every > tokens:
            text = f"{every} is more than budget.tokens {tokens}"
            faults.append(Fault("train.validate_every", text, "validate at least once"))
        train["validate_every"] = max(1, round((every or (tokens or 0) / 10) / batch)) * batch


def _idle(out: Settings, given: Mapping[str, object], faults: list[Fault]) -> None:
    """Refuse settings of one section that another leaves without anything to act on."""
    model, budget, optimizer = out["model"], out["budget"], out["train"]["optimizer"] or {}
    aux = value_or_none(optimizer, "aux", dict[str, object])
    for place, rates in (("train.optimizer", optimizer), ("train.optimizer.aux", aux or {})):
        if model["tied"] and rates.get("head_lr") is not None:
            text = "acts on nothing: the head is the embedding (model.tied)"
            faults.append(Fault(f"{place}.head_lr", text, "use embedding_lr, or tied = false"))
    data = out["data"]
    if data["valid_source"] and "valid_fraction" in given:
        text = "chooses nothing: data.valid_source names what is held out"
        faults.append(Fault("data.valid_fraction", text, "remove one of them"))
    if data["order"] == "megatron" and "span" in given:
        faults.append(Fault("data.span", "shuffles nothing: Megatron's order has no chunks", "remove it"))
    if data["weights"] is not None and data["order"] == "chunks":
        faults.append(
            Fault("data.weights", 'blends nothing: the order is "chunks"', 'remove it, or set order = "megatron"')
        )
    if data["weights"] is not None and not all(weight > 0 for weight in data["weights"]):
        faults.append(Fault("data.weights", "are not all above 0", "leave out the sources that are not used"))
    if data["order"] == "megatron" and budget["tokens"] is None and budget["seconds"]:
        text = "needs to know how many rows are read, and the budget is in seconds"
        faults.append(Fault("data.order", text, "give budget.tokens"))
    start = value_or_none(out["train"]["qat"] or {}, "start", float)
    if start and budget["tokens"] and budget["batch_tokens"]:
        steps = -(-budget["tokens"] // budget["batch_tokens"])
        if (steps - 1) / steps < start:
            text = f"{start:g} is beyond the last of {steps} steps: no step would be rounded"
            faults.append(Fault("train.qat.start", text, "lower it, or remove qat"))
    group = value_or_none(out["train"]["loss"] or {}, "group_rows", int)
    rows = (budget["batch_tokens"] or 0) // (model["seq_len"] or 1)
    if rows and group and rows % group:
        text = f"{group} does not divide the {rows} rows of a batch"
        faults.append(Fault("train.loss.group_rows", text, "choose a divisor, or 0 for the whole batch"))
    if model["loops"] and model["loop_from"] and budget["tokens"] and budget["batch_tokens"]:
        steps = -(-budget["tokens"] // budget["batch_tokens"])
        if steps > 0 and (steps - 1) / steps < model["loop_from"]:
            text = f"{model['loop_from']:g} is beyond the last of {steps} steps: scores would loop, and no step"
            faults.append(Fault("model.loop_from", text, "lower it, or remove the loop"))


def _stages(raw: object, folder: Path, faults: list[Fault]) -> dict[str, StageSettings]:
    given = table(raw, "stage", faults) or DEFAULT_STAGE
    out: dict[str, StageSettings] = {}
    for name, value in given.items():
        fault = name_fault(name, "a stage", "stage")
        if fault:
            faults.append(fault)
            continue
        if not isinstance(value, dict):
            text = f"{show(value)} is no table"
            faults.append(Fault(f"stage.{name}", text, 'write { evaluate = "disjoint" }'))
            continue
        out[name] = stage = section("stage", value, f"stage.{name}", faults, StageSettings)
        for key in PACKED:
            if "after" in value and key in value:
                text = f"has both after and {key}; after uses the other stage's compressed weights"
                faults.append(Fault(f"stage.{name}", text, "keep one"))
        if stage["code"] is not None:
            stage["code"] = str(folder.absolute() / stage["code"])
    for name, stage in out.items():
        root = _root(name, out, given, faults)
        if root and root != name:
            packed = out[root]
            stage.update({"compress": packed["compress"], "codec": packed["codec"], "code": packed["code"]})
    return _ordered(out)


def _ordered(stages: dict[str, StageSettings]) -> dict[str, StageSettings]:
    """Order the stages as they are written, each behind the one that it stands on: TOML puts tables of their own last."""
    waiting, ordered = list(stages), {}
    while waiting:  # the first one of all where `after` goes in a circle, which is a fault by then
        name = next((one for one in waiting if stages[one]["after"] not in waiting), waiting[0])
        waiting.remove(name)
        ordered[name] = stages[name]
    return ordered


def _windows(out: Settings, faults: list[Fault]) -> None:
    """Check windows that a stage sets: of layer kinds that exist, each a size or 0."""
    known = [one["table"] for one in out["model"]["kinds"].values()]
    for name, stage in out["stage"].items():
        for kind, size in (stage["windows"] or {}).items():
            place = f"stage.{name}.windows"
            if kind not in known:
                faults.append(Fault(place, f"no layer kind is called {show(kind)}", did_you_mean(kind, known)))
            elif not isinstance(size, int) or isinstance(size, bool) or size < 0:
                faults.append(
                    Fault(f"{place}.{kind}", f"{show(size)} is no window", "give tokens, or 0 for everything")
                )


def _root(name: str, stages: dict[str, StageSettings], given: Mapping[str, object], faults: list[Fault]) -> str | None:
    """Name the stage whose compressed weights `name` uses: the end of its chain of `after`."""
    seen = [name]
    while (after := stages[seen[-1]]["after"]) is not None:
        if after not in stages:
            if len(seen) == 1 and after not in given:
                known = [other for other in stages if other != name]
                faults.append(
                    Fault(f"stage.{name}.after", f"no stage is called {show(after)}", did_you_mean(after, known))
                )
            return None
        if after in seen:
            text = f"goes in a circle: {' -> '.join([*seen, after])}"
            faults.append(Fault(f"stage.{name}.after", text, "let one of them compress for itself"))
            return None
        seen.append(after)
    return seen[-1]


def decides(evaluate: Choice | None) -> bool:
    """Tell whether an evaluator's scores are the decision's metric over the text (a needle's are not)."""
    return evaluate is None or evaluators.slot.load(value_of(evaluate, "name", str)).decides


def look(settings: Settings, path: Keys) -> object:
    """Return the value in force at a path of the baseline: {kind: choice} of a slot without letter; None of a missing kind."""
    plain: Mapping[str, object] = settings
    if path[0] != "model":
        return _follow(plain[path[0]], path[1:])
    model = settings["model"]
    if path[1:] == ("layers",) and model["layers"]:
        return spell(model["layers"], model["loops"])  # a loop is part of what the key says
    kinds = {kind["table"]: kind for kind in model["kinds"].values()}
    if path[1] in IN_MODEL:
        return {name: _follow(kind, path[1:]) for name, kind in kinds.items()}
    if path[1] in SECTIONS["model"]:
        return _follow(model, path[1:])
    return _follow(kinds.get(path[1]), () if path[2:3] == ("like",) else path[2:])


def _follow(value: object, keys: Keys) -> object:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
