"""Weights trained elsewhere (`train.weights`): where the files lie, whether there is one for each seed, and what then acts
on nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from ablab.core.fault import Fault
from ablab.records.settings import Limits, SeedsSettings, Settings, TrainSettings
from ablab.study.merge import Path as Keys

# What only a run that trains hears of, by section; everything of [budget] and the rest of [train] is of that kind too.
IN_DATA = ("span", "order", "weights")
IN_MODEL = ("init", "init_std", "embed_std", "out_std", "loop_from")
WHY, CURE = "acts on nothing: the weights were trained elsewhere (train.weights)", "remove it"


def located(train: TrainSettings, raw: Mapping[str, object], folder: Path, faults: list[Fault]) -> None:
    """Put full paths into `train["weights"]` (None where there are none), and a fault for whatever else [train] says."""
    named = train["weights"]
    train["weights"] = None
    if not named:
        return
    resolved = [os.path.realpath(folder / name) for name in named]  # Path.resolve raises where a link leads to itself
    for at, name in enumerate(named):
        place = f"train.weights[{at}]"
        if not name.strip():
            faults.append(Fault(place, "names nothing", "give a file"))
        elif resolved[at] in resolved[:at]:
            first = named[resolved.index(resolved[at])]
            again = f"{name} again" if first == name else f"{first} again, as {name}"
            faults.append(Fault(place, f"names {again}: two seeds would be one run twice", "give each seed its own"))
    faults += [Fault(f"train.{key}", WHY, CURE) for key in raw if key != "weights"]
    train["weights"] = [str(folder.absolute() / name) for name in named]


def idle(settings: Settings, paths: Iterable[Keys]) -> list[Fault]:
    """Return a fault for each of the paths, as a file names them, that acts on nothing beside such weights; [train] aside."""
    if not settings["train"]["weights"]:
        return []
    only = {"data": IN_DATA, "model": IN_MODEL}
    lost = [path for path in paths if path[0] == "budget" or (path[1:2] and path[1] in only.get(path[0], ()))]
    return [Fault(".".join(path), WHY, CURE) for path in lost]


def too_few(settings: Settings, seeds: SeedsSettings) -> Fault | None:
    """Return a fault where a seed that the decision may ask for has no file."""
    files, at_most, probe = settings["train"]["weights"], seeds["at_most"], seeds["probe"]
    if not files or at_most is None or probe is None or len(files) >= at_most + probe:
        return None
    n, wanted = len(files), at_most + probe
    text = f"names {n} file{'s' if n > 1 else ''}, decision.seeds asks for up to {wanted}"
    return Fault("train.weights", text, f"give {wanted} files, one for each seed, or set decision.seeds = {n}")


def limited(settings: Settings, limits: Limits) -> Fault | None:
    """Return a fault for a limit on a time that nobody measured here."""
    if not settings["train"]["weights"] or limits.get("seconds") is None:
        return None
    text = "limits the time of training, which is not known of weights trained elsewhere (train.weights)"
    return Fault("limits.seconds", text, CURE)
