"""Presets: whole models by name, which a study's [model] starts from."""

from __future__ import annotations

import tomllib
from pathlib import Path

from ablab.core.fault import Fault, did_you_mean
from ablab.study.merge import merge
from ablab.study.take import show

FOLDER = Path(__file__).resolve().parent / "presets"


def names() -> list[str]:
    """List every preset."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def model(name: str) -> dict[str, object]:
    """Read the [model] of a preset as a study file would write it. KeyError where there is none of this name."""
    if name not in names():
        raise KeyError(name)
    return tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


def expanded(raw: dict[str, object], faults: list[Fault]) -> dict[str, object]:
    """Write out `model.preset` in the study, the file's own keys laid over it. Appends a fault for an unknown name."""
    given = raw.get("model")
    if not isinstance(given, dict) or "preset" not in given:
        return raw
    rest = {key: value for key, value in given.items() if key != "preset"}
    name = given["preset"]
    if not isinstance(name, str) or name not in names():
        fault = f"no preset is called {show(name)}"
        faults.append(Fault("model.preset", fault, did_you_mean(str(name), names())))
        return {**raw, "model": rest}
    return {**raw, "model": merge({"model": model(name)}, {"model": rest})["model"]}
