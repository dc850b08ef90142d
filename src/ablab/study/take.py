"""Values taken from the file: in the key's type, within its bounds, or a fault. Levers are built once to hear them out."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import re
from collections.abc import Collection, Iterable
from typing import TypeVar, cast

from ablab.core import duration
from ablab.core.fault import Fault, did_you_mean
from ablab.core.files import canonical
from ablab.core.lever import Choice, Lever, value_of
from ablab.core.setting import coerce, describe
from ablab.core.slot import Slot
from ablab.model.shape import Shape
from ablab.study.keys import IN_MODEL, OF_MODEL, REQUIRED, SECTIONS, SLOTS, Key
from ablab.study.read import word

IDENTITY = {
    "position": "nope",
    "gate": "off",
    "residual": "plain",
    "embedding": "plain",
}  # of the slots that take lists
T = TypeVar("T")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(1, 10))}


def section(name: str, raw: object, place: str, faults: list[Fault], form: type[T], skip: Collection[str] = ()) -> T:
    """Take every key of a section with its value in its type; None where it is faulty or has no default. Appends faults.

    form: what a section without faults is. Keys in `skip` are known and left to the caller.
    """
    keys, given = SECTIONS[name], table(raw, place, faults)
    for key in given:
        if key not in keys:
            faults.append(Fault(place, f"{place} has no key {word(key)!r}", did_you_mean(key, list(keys))))
    out: dict[str, object] = {}
    for key, spec in keys.items():
        if key in skip:
            continue
        if key in given:
            out[key] = take(spec, given[key], f"{place}.{key}", faults)
        elif spec.default is REQUIRED:
            faults.append(Fault(place, f"needs the key '{key}'", f"add {key} = {spec.example}"))
            out[key] = None
        else:
            out[key] = None if spec.default is None else take(spec, spec.default, f"{place}.{key}", faults)
    return cast(T, out)


def table(raw: object, place: str, faults: list[Fault]) -> dict[str, object]:
    """Return `raw` where it is a table; nothing where it is missing; a fault where it is something else."""
    if raw is None or isinstance(raw, dict):
        return raw or {}
    faults.append(Fault(place, f"{show(raw)} is {describe(type(raw))}", "give a table"))
    return {}


def take(key: Key, value: object, place: str, faults: list[Fault]) -> object:
    """Take `value` as the key wants it, or None and a fault."""
    if key.slot:
        return lever(key.slot, value, place, faults)
    if key.span and isinstance(value, str) and (seconds := duration.seconds(value)) is not None:
        value = seconds
    done, fault = coerce(value, key.type, place)
    if fault and key.span:
        fault = Fault(place, fault.fault, 'give a number of seconds, or a span of time: "90s", "30m", "1h30m"')
    if fault is None and isinstance(done, int | float) and not isinstance(done, bool):
        outside = (
            (key.least is not None and done < key.least)
            or (key.most is not None and done > key.most)
            or (key.above is not None and done <= key.above)
            or (key.below is not None and done >= key.below)
        )
        if outside:
            fault = Fault(place, f"{show(done)} is out of bounds", f"give {describe(key.type)} {key.bounds()}")
    if fault:
        faults.append(fault)
        return None
    return done


def lever(
    slot_name: str, value: object, place: str, faults: list[Fault], shape: Shape | None = None
) -> Choice | list[Choice] | None:
    """Take the canonical choice (a list of several where the slot composes), built once so that impossible settings show."""
    slot = SLOTS[slot_name]
    if isinstance(value, list) and len(value) == 1 and slot.lists:
        value = value[0]
    choice, wrong = slot.coerce(value, place)
    if not wrong and isinstance(choice, list):
        wrong = _idle(slot_name, choice, place)
    if not wrong and choice is not None:
        wrong = _trials(slot_name, slot, choice, place, shape)
    faults += wrong
    return None if wrong else choice


def _idle(slot_name: str, parts: list[Choice], place: str) -> list[Fault]:
    """Return faults for parts of a list that do nothing there: the slot's identity, and a part that stands twice."""
    out = []
    for i, part in enumerate(parts):
        if part["name"] == IDENTITY.get(slot_name):
            out.append(Fault(f"{place}[{i}]", f"{part['name']} does nothing beside others", "remove it"))
        elif part in parts[:i]:
            out.append(Fault(f"{place}[{i}]", f"{part['name']} stands in the list twice", "remove one"))
    return out


def _trials(
    slot_name: str, slot: Slot[Lever], choice: Choice | list[Choice], place: str, shape: Shape | None
) -> list[Fault]:
    if slot_name in (*IN_MODEL, *OF_MODEL) and shape is None:
        return []
    choices = choice if isinstance(choice, list) else [choice]
    texts = [_trial(slot, canonical(one), shape) for one in choices]
    if isinstance(choice, list) and not any(texts):
        texts = [_composed(slot, canonical(choice), shape)]
    places = [place if len(texts) == 1 else f"{place}[{i}]" for i in range(len(texts))]
    return [Fault(here, *_parted(text)) for here, text in zip(places, texts) if text]


def _parted(text: str) -> tuple[str, str]:
    """Split `what is wrong; cure` into a fault and its cure."""
    fault, _, cure = text.partition("; ")
    return fault, cure


@functools.lru_cache(maxsize=4096)
def _trial(slot: Slot[Lever], text: str, shape: Shape | None) -> str | None:
    """Return what the lever's constructor says against these settings; nothing is allocated (meta device)."""
    choice: Choice = json.loads(text)
    if shape is None and _wants_parts(slot.load(value_of(choice, "name", str))):
        return None
    try:
        if shape is None:
            slot.build(choice)
        else:
            import torch

            with torch.device("meta"):
                slot.build(choice, shape)
    except ValueError as error:
        return f"{choice['name']}: {error}"
    except (RuntimeError, OverflowError, TypeError):  # torch's words, with its own stack in them
        return f"{choice['name']}: a size is beyond what a tensor can have; give smaller numbers"
    return None


@functools.lru_cache(maxsize=1024)
def _composed(slot: Slot[Lever], text: str, shape: Shape | None) -> str | None:
    """Return what composing the list says against it (two additive parts, say)."""
    import torch

    try:
        with torch.device("meta"):
            parts = [slot.build(choice, shape) for choice in json.loads(text)]
            importlib.import_module(f"{slot.package}.composed").Composed(parts)
    except (ValueError, RuntimeError) as error:
        return str(error)
    return None


def _wants_parts(cls: type) -> bool:
    """Tell whether the constructor needs more than settings (an optimizer needs parameters)."""
    if cls.__init__ is object.__init__:  # type: ignore[misc]
        return False
    parameters = inspect.signature(cls).parameters.values()
    return any(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def name_fault(name: str, what: str, place: str) -> Fault | None:
    """Refuse a name that cannot be a folder and a column: letters, digits, - and _, at most 64."""
    shown = show(name)
    if name.lower() in _RESERVED:
        return Fault(place, f"{shown} cannot name {what}: Windows keeps it for a device", "choose another name")
    if _NAME.match(name):
        return None
    return Fault(
        place, f"{shown} cannot name {what}", "use letters, digits, - and _, at most 64, a letter or digit first"
    )


def alike(names: Iterable[str], place: str) -> list[Fault]:
    """Return faults for names that differ by case alone: on many disks they are one folder."""
    first: dict[str, str] = {}
    faults = []
    for name in names:
        if (other := first.setdefault(name.lower(), name)) != name:
            fault = f"{show(name)} and {show(other)} differ by case alone, which many disks do not tell apart"
            faults.append(Fault(f"{place}.{name}", fault, "choose another name"))
    return faults


def show(value: object) -> str:
    """Spell a value for an error message, shortened."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
