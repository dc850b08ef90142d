"""Arms as diffs: of the baseline or of one another, each changing one thing or saying why it changes two."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ablab.core.differences import equal
from ablab.core.fault import Fault, did_you_mean
from ablab.core.setting import coerce, describe
from ablab.core.toml import joined
from ablab.records.settings import Settings
from ablab.study import average, elsewhere, runner
from ablab.study.keys import DIFFED, IN_MODEL, SECTIONS
from ablab.study.merge import kind_table, merge, named
from ablab.study.read import word
from ablab.study.record import BASELINE, Arm, Change
from ablab.study.settings import look, settings, staged, written
from ablab.study.take import show, table, take

OF_MEAN = {"train.ema", "train.ema_warmup"}


@dataclass(frozen=True)
class Texts:
    """An arm's own words, and the arm that it is a diff of."""

    on: str = BASELINE
    because: str | None = None
    together: str | None = None
    expect: dict[str, float] = field(default_factory=dict)


@dataclass
class Draft:
    """An arm on its way: its tree, what the tree means, and every fault found in it."""

    name: str
    tree: dict[str, object]
    settings: Settings
    found: list[Fault]  # places relative to the baseline
    faults: list[Fault] = field(default_factory=list)  # those to be reported, with the arm's place
    on: str = BASELINE
    paths: list[tuple[str, ...]] = field(default_factory=list)
    texts: Texts = field(default_factory=lambda: Texts())
    factorial: str | None = None
    levels: dict[str, object] = field(default_factory=dict)
    diff: dict[str, dict[str, object]] = field(default_factory=dict)  # what is laid over its reference

    def arm(self, reference: Draft | None) -> Arm:
        """Return the finished arm; its reference gives the values before."""
        changes = tuple(c for path in self.paths for c in changed(path, reference, self)) if reference else ()
        return Arm(
            self.name,
            self.on,
            self.settings,
            changes,
            together=self.texts.together,
            because=self.texts.because,
            expect=self.texts.expect,
            factorial=self.factorial,
            levels=self.levels,
            source=written(self.tree),
        )


def baseline(tree: dict[str, object], folder: Path) -> Draft:
    """Make the baseline's draft."""
    resolved, wrong = settings(tree, folder)
    data = tree.get("data")
    wrong += elsewhere.idle(resolved, named({"data": data}, {}) if isinstance(data, dict) else ())
    return Draft(BASELINE, tree, resolved, wrong, faults=list(wrong))


def declared(raw: dict[str, object], base: Draft, folder: Path) -> dict[str, Draft]:
    """Draft every declared arm, in order; one whose reference is unknown or in a circle has faults and the baseline's tree."""
    out: dict[str, Draft] = {}
    for name in raw:
        _declare(name, raw, base, folder, out, ())
    return {name: out[name] for name in raw}


def _declare(
    name: str, raw: dict[str, object], base: Draft, folder: Path, out: dict[str, Draft], above: tuple[str, ...]
) -> Draft:
    if name in out:
        return out[name]
    place, faults = f"arm.{word(name)}", list[Fault]()
    given = table(raw[name], place, faults)
    texts = _texts(given, place, base, faults)
    on, reference = texts.on, base
    if on != BASELINE and on in (*above, name):
        circle = " -> ".join([*above, name, on])
        faults.append(Fault(f"{place}.on", f"goes in a circle: {circle}", "let one be on the baseline"))
    elif on != BASELINE and on in raw:
        reference = _declare(on, raw, base, folder, out, (*above, name))
    elif on != BASELINE:
        known = [*(other for other in raw if other != name), BASELINE]
        faults.append(
            Fault(
                f"{place}.on",
                f"no arm is called {show(on)}",
                did_you_mean(on, known),
            )
        )
    if name not in out:
        diff = {key: value for key, value in given.items() if key not in SECTIONS["arm"]}
        out[name] = draft(name, diff, reference, folder, place, faults)
        out[name].on, out[name].texts = on, texts
        if not out[name].faults:
            _one_thing(out[name], reference, place)
    return out[name]


def draft(name: str, diff: dict[str, object], reference: Draft, folder: Path, place: str, faults: list[Fault]) -> Draft:
    """Lay `diff` over the reference. Reported are the faults that the reference has not already."""
    good: dict[str, dict[str, object]] = {}
    for key, value in diff.items():
        if key not in DIFFED:
            known = [*DIFFED, *SECTIONS["arm"]]
            fixed = key in ("study", "decision", "limits")
            text = f"an arm may not change [{key}]" if fixed else f"an arm has no key {word(key)!r}"
            cure = "it is the same for every arm" if fixed else did_you_mean(key, known)
            faults.append(Fault(place, text, cure))
        elif isinstance(value, dict):
            good[key] = value
        else:
            faults.append(Fault(f"{place}: {key}", f"{show(value)} is {describe(type(value))}", "give a table"))
    faults += runner.unchangeable(good, reference.tree, place)
    if "groups" in good.get("data", {}):
        text = "an arm may not change data.groups"
        faults.append(Fault(place, text, "documents belong together for every arm alike: write it in [data]"))
    for stage in good.get("stage", {}):
        if stage not in reference.settings["stage"] and isinstance(reference.tree.get("stage", {}), dict):
            text = f"no stage is called {show(stage)} in the baseline"
            faults.append(Fault(f"{place}: stage", text, did_you_mean(stage, list(reference.settings["stage"]))))
    tree = merge(staged(reference.tree) if "stage" in good else reference.tree, good)
    resolved, wrong = settings(tree, folder)
    paths = list(named(good, reference.tree))
    wrong += elsewhere.idle(resolved, paths)
    known_faults = {str(fault) for fault in reference.found}
    fresh = [Fault(f"{place}: {f.place}", f.fault, f.cure) for f in wrong if str(f) not in known_faults]
    return Draft(name, tree, resolved, wrong, faults=faults + fresh, paths=paths, diff=good)


def changed(path: tuple[str, ...], reference: Draft, draft: Draft) -> Iterator[Change]:
    """Yield the settings that really differ at a named path: a replaced lever is one, a merged one counts each setting."""
    before, after = look(reference.settings, path), look(draft.settings, path)
    dotted = joined(path)
    if same(path, before, after):
        return
    if path == ("train", "weights"):
        before, after = (written(one.tree)["weights"] or None for one in (reference, draft))
    if (
        path[0] == "model"
        and len(path) == 2
        and isinstance(before, dict)
        and isinstance(after, dict)
        and _by_kind(path)
    ):
        kinds = [kind for kind in after if not equal(before.get(kind), after[kind])]
        before, after = _collapse({k: before.get(k) for k in kinds}), _collapse({k: after[k] for k in kinds})
    if isinstance(before, dict) and isinstance(after, dict) and "name" in after and before.get("name") == after["name"]:
        yield from _settings(dotted, before, after)
    else:
        yield Change(dotted, before, after)


def same(path: tuple[str, ...], one: object, other: object) -> bool:
    """Tell whether two values of a setting are one: of an argument of a program where it makes the same words."""
    if path[:2] == ("runner", "args") and len(path) == 3:
        return runner.flags(path[2], one) == runner.flags(path[2], other)
    return equal(one, other)


def _settings(dotted: str, before: dict[str, object], after: dict[str, object]) -> Iterator[Change]:
    """Yield the settings in which two choices of one lever differ; of a sub-choice each by itself."""
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            yield from _settings(f"{dotted}.{joined([key])}", old, value)
        elif not equal(old, value):
            yield Change(f"{dotted}.{joined([key])}", old, value)


def _by_kind(path: tuple[str, ...]) -> bool:
    return path[1] in SECTIONS["model"]


def _collapse(by_kind: dict[str, object]) -> object:
    values = list(by_kind.values())
    return values[0] if values and all(equal(value, values[0]) for value in values) else by_kind


def _one_thing(draft: Draft, reference: Draft, place: str) -> None:
    """Refuse a change that changes nothing, and two changes without a reason."""
    if not draft.paths:
        draft.faults.append(Fault(place, "changes nothing: it names no setting", "name what it changes"))
    changes: list[Change] = []
    for path in draft.paths:
        real = list(changed(path, reference, draft))
        if not real and not reference.faults:
            value = look(draft.settings, path)
            said, cure = f"{reference.name} has {brief(value)} too", "remove it or give another value"
            if own := _own(draft, path):
                said = f"no layer takes {'.'.join(path)}, as each kind names its own"
                cure = "write " + " or ".join(f"model.{kind}.{path[1]}" for kind in own)
            elif path[0] == "model" and _nowhere(value):
                said = "no layer uses it"
            draft.faults.append(Fault(f"{place}: {'.'.join(path)}", f"changes nothing: {said}", cure))
        changes += real
    draft.faults += _shadowed(draft, reference, changes, place)
    if len(changes) > 1 and not draft.texts.together:
        listed = ", ".join(change.path for change in changes)
        draft.faults.append(
            Fault(place, f"changes {len(changes)} settings at once ({listed})", 'split it, or say together = "why"')
        )


def _own(draft: Draft, path: tuple[str, ...]) -> list[str]:
    """List the layer kinds where each that is used names its own lever for a slot, so that none takes the model's."""
    kinds = [kind["table"] for kind in draft.settings["model"]["kinds"].values()]
    if path[0] != "model" or path[1:2] == () or path[1] not in IN_MODEL:
        return []
    given = draft.tree.get("model")
    return kinds if all(path[1] in kind_table(given, kind) for kind in kinds) else []


def _shadowed(draft: Draft, reference: Draft, changes: list[Change], place: str) -> list[Fault]:
    """Return a fault for changes of the running mean that come to the same mean, and change nothing else."""
    paths = [change.path for change in changes]
    same = average.alike(draft.settings, reference.settings) if paths and {*paths} <= OF_MEAN else None
    return [Fault(f"{place}: {paths[0]}", f"changes nothing: {same[0]}", same[1])] if same else []


def _nowhere(value: object) -> bool:
    """Tell whether a slot of the model holds nothing in any layer kind."""
    return value is None or (isinstance(value, dict) and all(part is None for part in value.values()))


def brief(value: object) -> str:
    """Spell a setting in a few characters: `nope`, `rope(theta=500000)`, `grape_m+grape_a`, `true`."""
    if isinstance(value, dict) and "name" in value:
        rest = ",".join(f"{key}={brief(part)}" for key, part in value.items() if key != "name" and part != "")
        return f"{value['name']}({rest})" if rest else str(value["name"])
    if isinstance(value, list):
        return "+".join(map(brief, value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return ", ".join(f"{key}: {brief(part)}" for key, part in value.items())
    if isinstance(value, float):
        return f"{value:.12g}"
    return "nothing" if value is None else str(value)


def _texts(given: dict[str, object], place: str, base: Draft, faults: list[Fault]) -> Texts:
    said = {key: _text(key, given[key], place, faults) for key in ("on", "because", "together") if key in given}
    expect = given.get("expect")
    return Texts(
        said.get("on") or BASELINE,
        said.get("because"),
        said.get("together"),
        {} if expect is None else _expected(expect, place, base, faults),
    )


def _text(key: str, value: object, place: str, faults: list[Fault]) -> str | None:
    got = take(SECTIONS["arm"][key], value, f"{place}.{key}", faults)
    if not isinstance(got, str):
        return None
    if not got.strip():
        faults.append(Fault(f"{place}.{key}", "is empty", "write why, or remove it"))
    return got


def _expected(value: object, place: str, base: Draft, faults: list[Fault]) -> dict[str, float]:
    """Read what an arm's author expects: a number of each stage."""
    out, known = dict[str, float](), list(base.settings["stage"])
    for stage, number in table(take(SECTIONS["arm"]["expect"], value, f"{place}.expect", faults), place, []).items():
        got, fault = coerce(number, float, f"{place}.expect.{word(stage)}")
        faults += [fault] if fault else []
        if isinstance(got, float):
            out[stage] = got
        if stage not in known:
            faults.append(Fault(f"{place}.expect", f"no stage is called {show(stage)}", did_you_mean(stage, known)))
    return out
