"""Levers from outside the package: files that a study names, and modules of installed packages (group `ablab.levers`).

A file is run once, by the bytes that its sha256 is taken of, and only where the user allowed these (`ablab.study.trusted`).
Every class in it that inherits a slot's base is a lever of that slot, called by its attribute `name`, or by the class's own
name in snake case.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import re
import shlex
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from ablab.core.fault import CheckFailed, Fault, Refused
from ablab.core.lever import Lever, Origin
from ablab.core.setting import settings_of
from ablab.core.slot import Slot
from ablab.records.settings import Settings
from ablab.study import trusted
from ablab.study.keys import SLOTS

GROUP, ENTRY, FROM = "ablab.levers", "entry point ", "levers.from"
MOST_FILES = 64  # a study of so many is none that anyone reads
EXAMPLE = "ablab.model.positions.position.Position"
_CHANGED = "was changed while the study ran, and results are kept under what it was; start the command again"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")


def named(files: list[str], folder: Path) -> tuple[dict[str, str], list[Fault]]:
    """Take in the levers of these files (relative to `folder`) and of every entry point.

    Returns {where: sha256} of what was taken in, and every fault. CheckFailed before anything is run, where a file was never
    allowed to: each with its sha256.
    """
    taken, faults, names = dict[str, str](), list[Fault](), dict[str, Path]()
    for called in [*_allowed(files, folder, faults), *installed()]:
        try:
            origin, module = _entered(called)
            if (other := names.setdefault(origin.path.name, origin.path)) != origin.path:
                raise ValueError(f"{called} and {other} have one name; rename one of them")
            taken[origin.called] = origin.sha256
            _take(origin, module)
        except ValueError as error:
            faults.append(_fault(called if called.startswith(ENTRY) else FROM, error))
    return taken, faults


def _allowed(files: list[str], folder: Path, faults: list[Fault]) -> list[str]:
    """Return the absolute paths of these files. CheckFailed naming every one that was not allowed to run."""
    places, refused = list[str](), list[Fault]()
    if len(files) > MOST_FILES:
        faults.append(Fault(FROM, f"{len(files):,} files", f"name {MOST_FILES} at most"))
    for asked in files[:MOST_FILES]:
        if not asked.isprintable():
            faults.append(Fault(FROM, f"{asked[:200]!a} is no name of a file", "give letters that can be seen"))
            continue
        path = (folder / asked).absolute()
        try:
            _, sha256 = trusted.read(path)
        except ValueError as error:
            faults.append(_fault(FROM, error))
            continue
        places.append(str(path))
        if not trusted.allows(path, sha256):
            fault = f"{path} is code, and these bytes were never allowed to run there (sha256 {sha256})"
            refused.append(
                Fault(FROM, fault, f"read the file, then allow it: ablab levers --trust {shlex.quote(str(path))}")
            )
    if refused:
        raise CheckFailed(refused)
    return places


def _fault(place: str, error: ValueError) -> Fault:
    fault, _, cure = str(error).partition("; ")
    return Fault(place, fault, cure)


@contextlib.contextmanager
def alone(taken: Mapping[str, str]) -> Iterator[None]:
    """Hide, while a study is read, the levers of files that another study in this process named."""
    with contextlib.ExitStack() as hiding:
        for slot in SLOTS.values():
            origins = {name: slot.origin(name) for name in slot.names}
            others = {n for n, o in origins.items() if o and not o.called.startswith(ENTRY) and o.called not in taken}
            hiding.enter_context(slot.without(others))
        yield


def used(taken: Mapping[str, str], settings: Sequence[Settings]) -> dict[str, str]:
    """Return those of `taken` that a study names: its files, and entry points of which it uses a lever."""
    origins = {slot.origin(name) for slot in SLOTS.values() for name in slot.names if name in _names(settings)}
    called = {origin.called for origin in origins if origin}
    return {where: sha256 for where, sha256 in taken.items() if not where.startswith(ENTRY) or where in called}


def _names(value: object) -> set[str]:
    """Collect every `name` anywhere in settings."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    own = {value["name"]} if isinstance(value, dict) and isinstance(value.get("name"), str) else set[str]()
    return own.union(*(_names(one) for one in inner))


def _take(origin: Origin, module: types.ModuleType) -> None:
    """Put a module's levers into their slots, in place of those that an earlier form of it had."""
    held = list(levers(module))
    for slot in SLOTS.values():
        slot.forget(origin.called)
    for slot, name, cls in held:
        slot.add(name, cls, origin)


def again(taken: Mapping[str, str]) -> None:
    """Take in, in another process, what `named` took in. CheckFailed, unrun, where a file is no longer the same."""
    for called, sha256 in taken.items():
        try:
            _take(*_entered(called, sha256))
        except ValueError as error:
            raise CheckFailed(_fault(called, error)) from error


def levers(module: types.ModuleType) -> Iterator[tuple[Slot[Lever], str, type[Lever]]]:
    """Yield (slot, name, class) of every lever that a module declares. ValueError where there is none, or one is none."""
    classes = [
        cls
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, Lever) and cls.__module__ == module.__name__
        if not cls.__name__.startswith("_")
    ]
    if not classes:
        raise ValueError(f"holds no lever; write a class that inherits the base of its slot, such as {EXAMPLE}")
    for cls in classes:
        slot = next((slot for slot in SLOTS.values() if issubclass(cls, slot.base)), None)
        if slot is None:
            raise ValueError(f"{cls.__name__} is of no slot; let it inherit the base of one, such as {EXAMPLE}")
        name = vars(cls).get("name", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower())
        if not isinstance(name, str) or not _NAME.match(name):
            raise ValueError(f"{cls.__name__}: {name!r} is no name of a lever; give `name` small letters, digits and _")
        try:
            settings_of(cast(type, cls))
        except Exception as error:  # whatever an annotation of a stranger does
            fault = f"{cls.__name__}: its constructor cannot be read ({error!r})"
            raise ValueError(f"{fault}; give every keyword-only argument a type that the file imports") from error
        yield slot, name, cls


def installed() -> list[str]:
    """List what installed packages declare under the group `ablab.levers`."""
    return [f"{ENTRY}{point.name}" for point in _points()]


@functools.cache
def _points() -> tuple[importlib.metadata.EntryPoint, ...]:
    return tuple(sorted(importlib.metadata.entry_points(group=GROUP), key=lambda point: point.name))


def _entered(called: str, sha256: str | None = None) -> tuple[Origin, types.ModuleType]:
    """Load the module of an entry point or of a file's absolute path; says where it came from. ValueError ("fault; cure").

    sha256: what the bytes must be; None: a file's must be allowed.
    """
    if called.startswith(ENTRY):
        return _loaded(called, sha256)
    path = Path(called)
    text, digest = trusted.read(path)
    if digest != sha256 if sha256 else not trusted.allows(path, digest):
        raise ValueError(_CHANGED)
    return Origin(called, path, digest), _run(path, text, digest)


def _loaded(called: str, sha256: str | None) -> tuple[Origin, types.ModuleType]:
    point = next((point for point in _points() if f"{ENTRY}{point.name}" == called), None)
    if point is None:
        raise ValueError("is of no installed package; install it where the study runs")
    try:
        module: object = point.load()
    except Exception as error:
        raise ValueError(f"cannot be loaded ({error!r}); mend or remove the package {point.value}") from error
    if not isinstance(module, types.ModuleType) or module.__file__ is None:
        raise ValueError(f"{point.value} is no module; let the entry point name the module that holds the levers")
    path = Path(module.__file__)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if sha256 not in (None, digest):
        raise ValueError(_CHANGED)
    return Origin(called, path, digest), module


def _run(path: Path, text: str, sha256: str) -> types.ModuleType:
    """Run this text as a module, once in a process."""
    name = f"ablab_outside_{path.stem}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}_{sha256[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = types.ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # annotations are looked up there
    try:
        exec(compile(text, str(path), "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        if isinstance(error, Refused):
            raise
        raise ValueError(
            f"{path.name} cannot be loaded ({error!r}); mend it: python {shlex.quote(path.name)} shows where"
        ) from error
    except BaseException:
        del sys.modules[name]
        raise
    return module
