"""What an arm asks, but for draws and names: by it two studies know that they ask the same question."""

from __future__ import annotations

from pathlib import Path

from ablab.core.files import key_of
from ablab.core.inputs import Inputs
from ablab.records.settings import ModelSettings
from ablab.runs.plan import Plan
from ablab.runs.program import read_key, run_key
from ablab.runs.store import stage_asked

IDLE = (
    "salt",
    "validate_every",
    "validate_bytes",
)  # of [train]: other draws of the same training, or how it is watched
ANY = -1  # the seed of no run
DIGITS = 6  # of a setting's number: no seed's noise shows a 7th, and ema = .9999 and .99999 stay apart


def recipe(plan: Plan, name: str, stage: str) -> str:
    """Make the key of everything that an arm asks up to a stage, but for draws: equal for equal questions."""
    settings, run = plan.study.arm(name).settings, plan.runs[name, plan.seeds[0]]
    if run.program is not None:
        asked = settings["runner"]
        return read_key(asked, run.metric, trained=run_key(asked, run.program, ANY))
    identity = plan.corpus(run).manifest["identity"]
    data = {
        "sources": identity.get("sources", {}).get("train", run.corpus.name),
        "tokenizer": identity.get("tokenizer", settings["data"]["tokenizer"]),
        **{key: settings["data"][key] for key in ("order", "weights")},
    }
    model = _unnamed(settings["model"])
    train = {key: value for key, value in settings["train"].items() if key not in IDLE}
    trained: dict[str, object] = {"data": data, "model": model, "budget": settings["budget"], "train": train}
    if files := settings["train"]["weights"]:
        own = [plan.runs[name, seed].weights for seed in plan.seeds]
        inputs = Inputs(plan.store.data / "inputs.json")
        contents = sorted([*own, *(inputs.sha256(Path(file)) for file in files[len(own) :])])
        trained = {"data": data, "model": model, "weights": contents}
    packed = stage_asked(settings, stage)
    kinds, windows = settings["model"]["kinds"], packed["windows"] or {}
    each = [windows.get(kinds[letter]["table"]) for letter in settings["model"]["layers"]] if windows else None
    return key_of(_rounded([trained, {**packed, "windows": each}]))


def _unnamed(model: ModelSettings) -> dict[str, object]:
    """Describe a model by what each layer is: letters and names of layer kinds and their sharing are the file's own."""
    kinds = {letter: {k: v for k, v in kind.items() if k != "table"} for letter, kind in model["kinds"].items()}
    bare = {key: value for key, value in model.items() if key != "kinds"}
    return {**bare, "layers": [kinds[letter] for letter in model["layers"]]}


def _rounded(value: object) -> object:
    """Round every number that is not whole to DIGITS significant digits: one in the next digit asks nothing new."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
