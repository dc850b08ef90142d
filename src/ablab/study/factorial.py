"""Factorials: every combination of a few levels, expanded to arms named `factor=value,factor=value`.

A level is the value of a setting, or all that an arm or a preset changes of the baseline: then the cells ask whether what helps
one helps the other.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ablab.core.differences import equal
from ablab.core.fault import Fault, did_you_mean
from ablab.core.toml import joined
from ablab.records.settings import Crossing
from ablab.study import preset
from ablab.study.arms import Draft, brief, changed, draft, same
from ablab.study.keys import DIFFED, lever_slot
from ablab.study.merge import Path as Keys
from ablab.study.merge import at, merge
from ablab.study.read import word
from ablab.study.record import BASELINE
from ablab.study.settings import look, settings
from ablab.study.take import alike, name_fault, show, table

MOST_CELLS = 64
ARM, PRESET = "arm:", "preset:"
_FAULTY = "\0faulty"  # a level that means nothing: no setting can have this value


@dataclass(frozen=True)
class _Factor:
    """A setting (its path) with its levels, or a name with levels that are arms or presets. own: the baseline's level, -1
    where a fault was found; diffs: what each level lays over the baseline; touched: the paths that it changes."""

    path: Keys
    levels: list[object]
    names: list[str]
    own: int
    diffs: list[dict[str, object]]
    touched: list[set[Keys]]


def expand(
    raw: dict[str, object], base: Draft, arms: dict[str, Draft], folder: Path, faults: list[Fault]
) -> tuple[dict[str, Crossing], dict[str, Draft]]:
    """Expand factorials to new arms. A cell that equals the baseline or an arm on the baseline is that arm."""
    if len(raw) > MOST_CELLS:  # each level of each is built on the baseline to be checked
        faults.append(Fault("factorial", f"more than {MOST_CELLS} factorials", "split the study"))
        return {}, {}
    levers = _Levers(base, arms, folder, faults)
    factors = {
        # as many factors of two levels are too many cells long before
        name: list(itertools.islice(levers.factors(value, f"factorial.{word(name)}"), MOST_CELLS))
        for name, value in raw.items()
    }
    labels = _labels({one.path for crossed in factors.values() for one in crossed})
    out: dict[str, Crossing] = {}
    cells: dict[str, Draft] = {}
    for name, crossed in factors.items():
        place = f"factorial.{word(name)}"
        fault = name_fault(name, "a factorial", place)
        faults += [fault] if fault else []
        if len(crossed) < 2:
            if isinstance(given := raw[name], dict) and len(list(_leaves(given, ()))) < 2:
                faults.append(Fault(place, "fewer than two factors cannot interact", "declare arms, or add a factor"))
            continue
        sizes = [len(one.levels) for one in crossed]
        if (count := _product(sizes)) > MOST_CELLS:
            faults.append(Fault(place, f"{count} cells", f"at most {MOST_CELLS}; drop levels or factors"))
            continue
        if twice := _touched_twice(crossed):
            faults.append(Fault(place, *twice))
            continue
        out[name] = {
            "factors": [
                {
                    "path": joined(one.path),
                    "label": labels[one.path],
                    "levels": one.levels if one.path[0] not in DIFFED else _values(one.path, one.levels, base, folder),
                    "names": one.names,
                    "base": one.own,
                }
                for one in crossed
            ],
            "cells": {},
        }
        for index in itertools.product(*map(range, sizes)):
            cell = _cell(name, index, crossed, labels, base, folder, faults)
            known = _known(cell, base, arms, cells)
            if known in out[name]["cells"] and not cell.faults:
                text = f"the cell {cell.name} has the very settings of {known}"
                faults.append(Fault(place, text, "drop a level, or a factor that changes nothing there"))
            out[name]["cells"][known] = list(index)
    faults += alike(out, "factorial")
    for one, other in itertools.combinations(out, 2):
        if out[one]["cells"].keys() == out[other]["cells"].keys():  # each interaction would be charged twice
            text = f"is {one} under another name: it has the same cells"
            faults.append(Fault(f"factorial.{word(other)}", text, "remove one of them"))
    return out, cells


def selected(name: str) -> Fault:
    """Return the fault of a factorial in a study that drops arms on the way."""
    fault = "every cell is needed, and decision.seeds.keep or probe would leave some out"
    return Fault(f"factorial.{word(name)}", fault, "remove keep and probe, or declare the cells as arms")


def _touched_twice(factors: Sequence[_Factor]) -> tuple[str, str] | None:
    """Return (fault, cure) where levels of two factors change one setting: what both together are is then not said."""
    for one, other in itertools.combinations(factors, 2):
        for (i, mine), (j, theirs) in itertools.product(enumerate(one.touched), enumerate(other.touched)):
            for a, b in itertools.product(sorted(mine), sorted(theirs)):
                if a[: len(b)] == b[: len(a)]:
                    both = f"{one.names[i]} and {other.names[j]} both change {'.'.join(a if len(a) > len(b) else b)}"
                    return both, "let each setting be changed by one factor"
    return None


@dataclass(frozen=True)
class _Levers:
    """What factors are made of: the baseline, the arms, and where faults go."""

    base: Draft
    arms: dict[str, Draft]
    folder: Path
    faults: list[Fault]

    def factors(self, raw: object, place: str) -> Iterator[_Factor]:
        """List every factor without a fault."""
        for path, levels in _leaves(table(raw, place, self.faults), ()):
            here = f"{place}: {'.'.join(map(word, path))}"
            named = path[0] not in DIFFED and isinstance(levels, list) and any(map(_is_named, levels))
            if path[0] not in DIFFED and not named:
                known = f"known: {', '.join(DIFFED)}"
                self.faults.append(Fault(here, f"an arm may not change {word(path[0])!r}", known))
            elif not named and len(path) < 2:
                self.faults.append(Fault(here, f"{show(levels)} is no table", "give a setting's path and its levels"))
            elif not isinstance(levels, list) or len(levels) < 2:
                text = f"{show(levels)} is no list of levels"
                self.faults.append(Fault(here, text, "give two or more, the baseline's among them"))
            elif len(levels) > MOST_CELLS:
                text = f"{len(levels):,} levels"
                self.faults.append(Fault(here, text, f"a factorial has at most {MOST_CELLS} cells; drop some"))
            elif named:
                yield from self._named(path, levels, here)
            else:
                yield from self._settings(path, levels, here)

    def _settings(self, path: Keys, levels: list[object], here: str) -> Iterator[_Factor]:
        """Make a factor of one setting's levels."""
        if self.base.faults:
            yield _of_setting(path, levels, -1)
            return
        values = _values(path, levels, self.base, self.folder)
        own = [i for i, value in enumerate(values) if same(path, value, look(self.base.settings, path))]
        earlier = [any(same(path, value, one) for one in values[:i]) for i, value in enumerate(values)]
        doubled = next((i for i, again in enumerate(earlier) if again and i not in own), None)
        if _FAULTY in values:
            yield _of_setting(path, levels, -1)  # the cell's own draft says what is wrong
        elif doubled is not None or len(own) > 1:
            which = levels[doubled] if doubled is not None else levels[own[1]]
            self.faults.append(Fault(here, f"the level {show(which)} is there twice", "remove one"))
        elif not own:
            now = look(self.base.settings, path)
            cure = f"add {brief(now)} to the list" if now is not None else "give the baseline one of the list"
            self.faults.append(Fault(here, "the baseline's own level is missing", cure))
        else:
            yield _of_setting(path, levels, own[0])

    def _named(self, path: Keys, levels: list[object], here: str) -> Iterator[_Factor]:
        """Make a factor whose levels are the baseline, arms and presets."""
        drafts = [self._level(level, here) for level in levels]
        doubled = next((level for i, level in enumerate(levels) if level in levels[:i]), None)
        if doubled is not None:
            self.faults.append(Fault(here, f"the level {show(doubled)} is there twice", "remove one"))
        elif BASELINE not in levels:
            self.faults.append(Fault(here, "the baseline's own level is missing", 'add "baseline" to the list'))
        elif all(one is not None for one in drafts) and not self.base.faults:
            touched = [_changed_paths(one, self.base) for one in drafts if one is not None]
            diffs = [_cut(one.diff, paths) for one, paths in zip(drafts, touched, strict=True) if one is not None]
            names = [str(level).removeprefix(ARM).removeprefix(PRESET) for level in levels]
            yield _Factor(path, levels, names, levels.index(BASELINE), diffs, touched)

    def _level(self, level: object, here: str) -> Draft | None:
        """Draft what a level names; None, with its fault, where it names nothing that can be a cell."""
        if level == BASELINE:
            return self.base
        name = str(level)
        if isinstance(level, str) and name.startswith(ARM):
            own = name.removeprefix(ARM)
            if (arm := self.arms.get(own)) is None:
                self.faults.append(Fault(here, f"no arm is called {show(own)}", did_you_mean(own, list(self.arms))))
            elif arm.on != BASELINE:
                text = f"arm {own} is on {arm.on}, and every cell is held against the baseline"
                self.faults.append(Fault(here, text, "name arms that are on the baseline"))
            elif not arm.faults:
                return arm
            return None
        if isinstance(level, str) and name.startswith(PRESET):
            own = name.removeprefix(PRESET)
            if own in preset.names():
                whole = draft(name, {"model": preset.model(own)}, self.base, self.folder, f"{here}: {own}", [])
                self.faults.extend(whole.faults)
                return None if whole.faults else whole
            self.faults.append(Fault(here, f"no preset is called {show(own)}", did_you_mean(own, preset.names())))
            return None
        cure = 'a level is "baseline", "arm:NAME" or "preset:NAME"'
        self.faults.append(Fault(here, f"{show(level)} names no level", cure))
        return None


def _is_named(level: object) -> bool:
    return isinstance(level, str) and (level == BASELINE or level.startswith((ARM, PRESET)))


def _of_setting(path: Keys, levels: list[object], own: int) -> _Factor:
    diffs = [{} if i == own else at(path, level) for i, level in enumerate(levels)]
    touched = [set() if i == own else {path} for i in range(len(levels))]
    names = list[str]()
    for level in levels:
        names.append(_free(_spell(path, level), names))
    return _Factor(path, levels, names, own, diffs, touched)


def _changed_paths(one: Draft, base: Draft) -> set[Keys]:
    return {path for path in one.paths if any(changed(path, base, one))}


def _cut(diff: Mapping[str, object], paths: set[Keys]) -> dict[str, object]:
    """Cut from a diff what changes nothing: a preset also names what the baseline has, and would take a lever back."""
    out: dict[str, object] = {}
    for path in sorted(paths):
        value: object = diff
        for key in path:
            value = value[key] if isinstance(value, dict) else None
        out = merge(out, at(path, value), defaults=False)
    return out


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
    factors: list[_Factor],
    labels: dict[Keys, str],
    base: Draft,
    folder: Path,
    faults: list[Fault],
) -> Draft:
    diff: dict[str, object] = {}
    names, levels = [], {}
    for i, one in zip(index, factors):
        levels[joined(one.path)] = one.levels[i]
        if i != one.own:
            diff = merge(diff, one.diffs[i], defaults=False)
            names.append(f"{labels[one.path]}={one.names[i]}")
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


def _free(name: str, taken: Container[str]) -> str:
    """Return the name, numbered where it is taken: "a b" and "ab" are two levels."""
    numbers = itertools.count(2)
    own = name
    while own in taken:
        own = f"{name}_{next(numbers)}"
    return own


def _known(cell: Draft, base: Draft, arms: dict[str, Draft], cells: dict[str, Draft]) -> str:
    """Name the arm that a cell is run as; new cells are added to `cells`."""
    if not cell.paths or equal(cell.settings, base.settings):
        return BASELINE
    for name, other in (*arms.items(), *cells.items()):
        if other.on == BASELINE and equal(other.settings, cell.settings) and not other.faults:
            return name
    cell.name = _free(cell.name, cells)
    cells[cell.name] = cell
    return cell.name


def _product(sizes: list[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total
