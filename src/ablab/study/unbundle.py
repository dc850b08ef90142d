"""A stack taken apart: for an arm that changes several settings, the arms that tell which of them matters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ablab.core.fault import Fault, InvalidStudy, did_you_mean
from ablab.core.toml import dotted, joined, parted, written
from ablab.study.keys import SECTIONS
from ablab.study.load import load
from ablab.study.merge import Path as Keys
from ablab.study.merge import at, merge
from ablab.study.read import read
from ablab.study.record import BASELINE
from ablab.study.take import show

Tree = dict[str, object]


@dataclass(frozen=True)
class Unbundled:
    """The stack's name, what it stands on, and its new arms as a study file writes them: each part alone, all but one."""

    stack: str
    on: str
    arms: dict[str, Tree]

    @property
    def toml(self) -> str:
        """The arms as tables to paste below the study."""
        return "\n".join("\n".join([f"[arm.{joined([name])}]", *dotted(arm)]) + "\n" for name, arm in self.arms.items())


def unbundle(path: Path, stack: str) -> Unbundled:
    """Make the one-in and leave-one-out arms of the arm `stack`, on what the stack is on: one baseline is shared.

    Of two parts, leaving one out is the other alone. Raises InvalidStudy for a study that does not load, no such arm, or an
    arm of one part.
    """
    study, (_, raw) = load(path), read(path)
    place, known = f"{path.name}: arm {show(stack)}", list(study.arms)
    tables = raw.get("arm")
    table = tables.get(stack) if isinstance(tables, dict) else None
    if stack not in study.arms or not isinstance(table, dict):
        cell = stack in study.arms
        text = "is a cell of a factorial, which takes it apart already" if cell else "the file has no such arm"
        raise InvalidStudy(Fault(place, text, "read its interactions" if cell else did_you_mean(stack, known)))
    diff = {key: value for key, value in table.items() if key not in SECTIONS["arm"]}
    parts = dict(_part(diff, parted(change.path)) for change in study.arms[stack].changes)
    if len(parts) < 2:
        raise InvalidStudy(
            Fault(place, "changes one setting: there is nothing to take apart", "name an arm that stacks")
        )
    on, taken, arms = study.arms[stack].on, set(map(str.lower, known)), dict[str, Tree]()
    labels = _labels(list(parts))
    for keys, value in parts.items():
        name = _free(f"only_{labels[keys]}", taken)
        arms[name] = _arm(on, at(keys, value), f"of {stack}: {joined(keys)} alone", 1)
    for keys in parts if len(parts) > 2 else ():
        rest: Tree = {}
        for other, value in parts.items():
            rest = rest if other == keys else merge(rest, at(other, value), defaults=False)
        name = _free(f"without_{labels[keys]}", taken)
        arms[name] = _arm(on, rest, f"{stack} without {joined(keys)}", len(parts) - 1)
    return Unbundled(stack, on, arms)


def study_of(path: Path, unbundled: Unbundled) -> str:
    """Write a whole study of the stack alone: the file's baseline, rule and scales, the stack, what it is on, its parts."""
    _, raw = read(path)
    study = load(path)
    kept, name = [unbundled.stack], unbundled.on
    while name != BASELINE:
        kept.append(name)
        name = study.arms[name].on
    tables = _table(raw.get("arm"))
    arms = {one: tables[one] for one in reversed(kept)}
    gone = {*study.arms} - {*kept}
    decision = dict(_table(raw.get("decision")))
    if isinstance(tie := decision.get("tie"), list):
        decision["tie"] = [rung for rung in tie if str(rung).removeprefix("prefer ").strip() not in gone]
    scales = {
        scale: {
            **{key: value for key, value in _table(one).items() if key not in ("arm", "factorial", "only")},
            **({"arm": own} if (own := {n: v for n, v in _table(_table(one).get("arm")).items() if n in kept}) else {}),
        }
        for scale, one in _table(raw.get("scale")).items()
    }
    who = _table(raw.get("study"))
    named = {**who, "name": f"{who['name']}_{unbundled.stack}", "question": f"What of {unbundled.stack} matters?"}
    rest = {key: value for key, value in raw.items() if key not in ("study", "arm", "factorial", "scale", "decision")}
    tree = {"study": named, "decision": decision, **rest, "arm": arms}
    last = [written({"scale": scales})] if scales else []
    return "\n\n".join([written(tree), unbundled.toml.rstrip("\n"), *last]) + "\n"


def _part(diff: Mapping[str, object], keys: Keys) -> tuple[Keys, object]:
    """Return (where it is written, what is written there) of a changed setting: of a lever that is replaced, all of it."""
    value: object = diff
    for depth, key in enumerate(keys):
        inside = value if isinstance(value, dict) else {}
        lever = depth >= 2 and "name" in inside and keys[0] != "runner"  # an argument may be called so
        if key not in inside or lever:
            return keys[:depth], value
        value = inside[key]
    return keys, value


def _arm(on: str, diff: Tree, because: str, parts: int) -> Tree:
    head: Tree = {} if on == BASELINE else {"on": on}
    return {**head, "because": because, **({"together": because} if parts > 1 else {}), **diff}


def _labels(paths: list[Keys]) -> dict[Keys, str]:
    """Label paths by the shortest tail that no other has, as a name: `window`, or `local_window`."""
    labels = {}
    for path in paths:
        tails = [path[-n:] for n in range(1, len(path) + 1)]
        others = {other[-n:] for other in paths if other != path for n in range(1, len(other) + 1)}
        tail = next((one for one in tails if one not in others), path)
        labels[path] = re.sub(r"\W", "_", "_".join(tail))
    return labels


def _free(name: str, taken: set[str]) -> str:
    """Return the name, numbered where an arm has it already."""
    number, own = 2, name[:60]
    while own.lower() in taken:
        own, number = f"{name[:60]}_{number}", number + 1
    taken.add(own.lower())
    return own


def _table(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}
