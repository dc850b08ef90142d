"""Factorials: every combination of a few levels, expanded to arms named `factor=value,factor=value`."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ablab.core.fault import Fault
from ablab.records.settings import Crossing
from ablab.study.arms import Draft, brief, draft
from ablab.study.keys import DIFFED, lever_slot
from ablab.study.merge import Path as Keys
from ablab.study.merge import at, merge
from ablab.study.read import word
from ablab.study.record import BASELINE
from ablab.study.settings import look, settings
from ablab.study.take import name_fault, show, table

MOST_CELLS = 64
_FAULTY = "\0faulty"  # a level that means nothing: no setting can have this value


def expand(
    raw: dict[str, object], base: Draft, arms: dict[str, Draft], folder: Path, faults: list[Fault]
) -> tuple[dict[str, Crossing], dict[str, Draft]]:
    """Factorials and their new arms. A cell that equals the baseline or an arm on the baseline is that arm."""
    if len(raw) > MOST_CELLS:  # each level of each is built on the baseline to be checked
        faults.append(Fault("factorial", f"more than {MOST_CELLS} factorials", "split the study"))
        return {}, {}
    factors = {
        # as many factors of two levels are too many cells long before
        name: list(itertools.islice(_factors(value, f"factorial.{word(name)}", base, folder, faults), MOST_CELLS))
        for name, value in raw.items()
    }
    labels = _labels({path for found in factors.values() for path, _, _ in found})
    out: dict[str, Crossing] = {}
    cells: dict[str, Draft] = {}
    for name, found in factors.items():
        place = f"factorial.{word(name)}"
        fault = name_fault(name, "a factorial", place)
        faults += [fault] if fault else []
        if len(found) < 2:
            if isinstance(given := raw[name], dict) and len(list(_leaves(given, ()))) < 2:
                faults.append(Fault(place, "fewer than two factors cannot interact", "declare arms, or add a factor"))
            continue
        sizes = [len(levels) for _, levels, _ in found]
        if (count := _product(sizes)) > MOST_CELLS:
            faults.append(Fault(place, f"{count} cells", f"at most {MOST_CELLS}; drop levels or factors"))
            continue
        one: Crossing = {
            "factors": [
                {
                    "path": ".".join(path),
                    "label": labels[path],
                    "levels": _values(path, levels, base, folder),
                    "base": own,
                }
                for path, levels, own in found
            ],
            "cells": {},
        }
        for index in itertools.product(*map(range, sizes)):
            cell = _cell(name, index, found, labels, base, folder, faults)
            one["cells"][_known(cell, base, arms, cells)] = list(index)
        out[name] = one
    return out, cells


def _factors(
    raw: object, place: str, base: Draft, folder: Path, faults: list[Fault]
) -> Iterator[tuple[Keys, list[object], int]]:
    """(path, levels, index of the baseline's own level) for every factor without a fault."""
    for path, levels in _leaves(table(raw, place, faults), ()):
        here = f"{place}: {'.'.join(map(word, path))}"
        if path[0] not in DIFFED:
            faults.append(Fault(here, f"an arm may not change {word(path[0])!r}", f"known: {', '.join(DIFFED)}"))
        elif len(path) < 2:
            faults.append(Fault(here, f"{show(levels)} is no table", "give a setting's path and its levels"))
        elif not isinstance(levels, list) or len(levels) < 2:
            faults.append(
                Fault(here, f"{show(levels)} is no list of levels", "give two or more, the baseline's among them")
            )
        elif len(levels) > MOST_CELLS:
            faults.append(
                Fault(here, f"{len(levels):,} levels", f"a factorial has at most {MOST_CELLS} cells; drop some")
            )
        elif base.faults:
            yield path, levels, -1
        else:
            values = _values(path, levels, base, folder)
            own = [i for i, value in enumerate(values) if value == look(base.settings, path)]
            doubled = next((i for i, value in enumerate(values) if value in values[:i] and i not in own), None)
            if _FAULTY in values:
                yield path, levels, -1  # the cell's own draft says what is wrong
            elif doubled is not None or len(own) > 1:
                which = levels[doubled] if doubled is not None else levels[own[1]]
                faults.append(Fault(here, f"the level {show(which)} is there twice", "remove one"))
            elif not own:
                now = look(base.settings, path)
                cure = f"add {brief(now)} to the list" if now is not None else "give the baseline one of the list"
                faults.append(Fault(here, "the baseline's own level is missing", cure))
            else:
                yield path, levels, own[0]


def _leaves(raw: dict[str, object], path: Keys) -> Iterator[tuple[Keys, object]]:
    for key, value in raw.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _values(path: Keys, levels: list[object], base: Draft, folder: Path) -> list[object]:
    """Take each level in canonical form (no window is None), _FAULTY where it means nothing."""
    out = []
    for level in levels:
        resolved, wrong = settings(merge(base.tree, at(path, level)), folder)
        value = look(resolved, path)
        faulty = any(fault.place.startswith(".".join(path)) for fault in wrong) or (value is None and level != 0)
        out.append(_FAULTY if faulty else value)
    return out


def _labels(paths: set[Keys]) -> dict[Keys, str]:
    """Label paths by the shortest tail that no other shares: `window`, or `local.position` and `global.position`.

    A layer kind's name says nothing alone: windows at evaluation are `windows.local`.
    """
    out = {}
    shared = Counter(path[-length:] for path in paths for length in range(1, len(path) + 1))
    for path in paths:
        for length in range(2 if path[-2:-1] == ("windows",) else 1, len(path) + 1):
            tail = path[-length:]
            if shared[tail] == 1:
                break
        out[path] = ".".join(tail)
    return out


def _cell(
    factorial: str,
    index: tuple[int, ...],
    factors: list[tuple[Keys, list[object], int]],
    labels: dict[Keys, str],
    base: Draft,
    folder: Path,
    faults: list[Fault],
) -> Draft:
    diff: dict[str, object] = {}
    names, levels = [], {}
    for i, (path, values, own) in zip(index, factors):
        levels[".".join(path)] = values[i]
        if i != own:
            diff = merge(diff, at(path, values[i]), defaults=False)
            names.append(f"{labels[path]}={_spell(path, values[i])}")
    place = f"factorial.{word(factorial)}: {','.join(names)}"
    cell = draft(",".join(names) or BASELINE, diff, base, folder, place, [])
    cell.factorial, cell.levels = factorial, levels
    seen = {(fault.place.rpartition(": ")[2], fault.fault) for fault in faults}  # once per bad level, not once per cell
    faults += [fault for fault in cell.faults if (fault.place.rpartition(": ")[2], fault.fault) not in seen]
    return cell


def _spell(path: Keys, level: object) -> str:
    """Spell a level inside an arm's name."""
    if lever_slot(path) and isinstance(level, list):
        return "+".join(_spell(path, part) for part in level)
    if isinstance(level, str):
        return "".join(level.split())
    return brief(level)


def _known(cell: Draft, base: Draft, arms: dict[str, Draft], cells: dict[str, Draft]) -> str:
    """Name the arm that a cell is run as; new cells are added to `cells`."""
    if not cell.paths or cell.settings == base.settings:
        return BASELINE
    for name, other in (*arms.items(), *cells.items()):
        if other.on == BASELINE and other.settings == cell.settings and not other.faults:
            return name
    cells[cell.name] = cell
    return cell.name


def _product(sizes: list[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total
