"""The source that can change a result: which files it is made by, a hash of each, and what differs between two of them.

A key says what was asked and the revisions of the parts; it does not see that somebody edited a lever's file. So every result
keeps a hash of each file of this package that its making can reach: what `ablab.training.train` or `ablab.scoring.stage`
import, in whatever way, and of the levers those that the settings name. Files that can change no number (NEUTRAL) are left
out. Comments, blanks and docstrings are no part of a hash; it is taken of the syntax tree, part by part, so that a difference
names functions.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ablab.core.fault import CheckFailed
from ablab.core.files import key_of, read_json, write_json
from ablab.core.lever import Origin
from ablab.core.slot import Slot
from ablab.records.run import MadeBy
from ablab.records.settings import Settings

PACKAGE, ROOT = "ablab", Path(__file__).resolve().parents[1]
DETAILS = "source.json"  # beside a result: file -> part -> hash
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
DIGITS = 16  # of a hash: nobody looks for two sources of one hash
# Modules that say, write, lock, hash or show, and give no number to a result.
NEUTRAL = frozenset(
    f"{PACKAGE}.{name}"
    for name in ("core.fault", "core.files", "core.inputs", "core.strict_json", "core.loose_json", "core.grid", "core.opened",
                 "core.places", "core.safe_path", "core.plain", "core.streams", "core.forms", "runtime.lock", "records.run",
                 "records.result", "records.decision", "records.corpus", "records.answer", "records.settings", "records.cost",
                 "runtime.signals", "runtime.provenance", "runtime.source", "runtime.changed", "training.metrics",
                 "training.mirrors",
                 "report.shareable", "core.sealed", "data.formats.located", "data.formats.index_writer")
)  # fmt: skip
Files = dict[str, str]
OUTSIDE = "outside/"  # before the name of a file that is not of this package: levers that a study names
_STRANGERS: dict[str, Origin] = {}  # those that this process has met


def of_training(settings: Settings) -> Files:
    """List every file of this package that can change the result of a training of `settings`, with its hash."""
    if "runner" in settings:
        return {}  # its numbers are the program's own
    adopts = bool(settings["train"]["weights"])
    chosen: dict[str, object] = {"model": settings["model"], "train": {} if adopts else settings["train"]}
    return _files("training.adopt" if adopts else "training.train", chosen)


def of_stage(settings: Settings, name: str) -> Files:
    """List every file that can change the result of stage `name` on given weights, with its hash."""
    if "runner" in settings:
        reader = (settings["runner"]["log"]["reader"] or "found").partition("-")[0]
        return {**_files("judging.logs.found", {}), **_files(f"judging.logs.{reader}", {})}
    here, root = settings["stage"][name], settings["stage"][name]
    while root["after"] is not None:
        root = settings["stage"][root["after"]]
    packed = {"compress": root["compress"], "codec": root["codec"], "evaluate": here["evaluate"]}
    tokenizer = settings["data"].get("tokenizer")
    return _files("scoring.stage", {"model": settings["model"], **packed, "tokenizer": tokenizer})


def keep(folder: Path, files: Files) -> None:
    """Write into `folder` what the hashes of `files` are made of, part by part."""
    write_json(folder / DETAILS, {name: parts(name) for name in files})


def changes(made: MadeBy, here: MadeBy, folder: Path | None = None) -> list[str]:
    """List the files that differ between what a result keeps and those `here`, a text each: `mlps/swiglu.py (SwiGLU.forward)`.

    Nothing of a result that keeps none. folder: where `keep` wrote the parts of them; without these a file alone is named.
    """
    kept, now = made.get("source"), here["source"]
    if not isinstance(kept, dict) or kept == now:
        return []
    details = _details(folder)
    changes = []
    for name in sorted(kept.keys() | now.keys()):
        if kept.get(name) == now.get(name):
            continue
        if name not in now or name not in kept:
            changes.append(f"{name} ({'no longer used' if name in kept else 'not used then'})")
            continue
        before, after = details.get(name), parts(name)
        if before is None or key_of(before)[:DIGITS] != kept[name] or _hash(name) != now[name]:
            changes.append(name)
            continue
        moved = [part for part in sorted(before.keys() | after.keys()) if before.get(part) != after.get(part)]
        changes.append(f"{name} ({', '.join(moved)})")
    return changes


def parts(name: str) -> dict[str, str]:
    """Hash of every function, method and rest of a class of a file of this package, and of the rest of the file."""
    if name in _STRANGERS:
        return {"its bytes": _STRANGERS[name].sha256[:DIGITS]}
    return dict(_read(name).parts)


def _files(root: str, settings: Mapping[str, object]) -> Files:
    every = _reached(f"{PACKAGE}.{root}")
    slots = {slot.name: slot for module in every if isinstance(slot := _slot(module), Slot)}
    strangers = {}
    for slot_name, choice in _chosen(settings):
        if slot_name in slots:
            every |= _reached(f"{slots[slot_name].package}.{choice}")
            if origin := slots[slot_name].origin(choice):
                strangers[f"{OUTSIDE}{origin.path.name}"] = origin
                every |= _asked_by(origin.path)
    _STRANGERS.update(strangers)
    return {name: _hash(name) for name in sorted({*map(_name, every - NEUTRAL), *strangers})}


def _asked_by(path: Path) -> set[str]:
    """Find every file of this package that a file from outside reaches."""
    files = set[str]()
    for of, names in _imports(ast.parse(path.read_text(encoding="utf-8"))):
        for module in {_defined(of, name) for name in names.values()} if names else {of}:
            files |= _reached(module)
    return files


def _chosen(settings: object, at: str = "") -> Iterator[tuple[str, str]]:
    """Yield (slot, lever) of everything in the settings that looks like a choice; a list of them is composed."""
    if isinstance(settings, Mapping):
        if isinstance(name := settings.get("name"), str):
            yield at, name
        for key, value in settings.items():
            yield from _chosen(value, str(key))
    elif isinstance(settings, list | tuple):
        if at and settings and isinstance(settings[0], Mapping):
            yield at, "composed"
        for value in settings:
            yield from _chosen(value, at)


@functools.cache
def _reached(module: str) -> frozenset[str]:
    """Find the module and all of ours that it imports, at the top or late, directly or not; nothing of a missing one."""
    modules, front = set[str](), {module}
    while front:
        here = front.pop()
        if here not in modules and _path(here) is not None:
            modules.add(here)
            front |= _imported(here)
    return frozenset(modules)


def _imported(module: str) -> set[str]:
    """Find the modules of this package that one module imports; of a package the modules that define the names asked for."""
    modules = set[str]()
    for of, names in _read(_name(module)).imports if module not in NEUTRAL else ():
        modules |= {_defined(of, name) for name in names.values()} if names else {of}
    return modules


def _defined(module: str, name: str) -> str:
    """Name the module that `from module import name` leads to: a module of a package, or where a package has the name from."""
    if _path(f"{module}.{name}") is not None:
        return f"{module}.{name}"
    path = _path(module)
    if path is not None and path.name == "__init__.py":
        for of, names in _read(_name(module)).imports:
            if name in names:
                return _defined(of, names[name])
    return module


def _slot(module: str) -> object:
    path = _path(module)
    return (
        getattr(importlib.import_module(module), "slot", None)
        if path is not None and path.name == "__init__.py"
        else None
    )


@functools.cache
def _path(module: str) -> Path | None:
    """Find the file of a module of this package; None where there is none."""
    base = ROOT.joinpath(*module.split(".")[1:])
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


@functools.cache
def _name(module: str) -> str:
    path = _path(module)
    assert path is not None, module
    return path.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class _Source:
    """What is read off a file: a hash per part; what it imports of this package, (module, name here -> name there)."""

    parts: dict[str, str]
    imports: list[tuple[str, dict[str, str]]]


@functools.cache
def _read(name: str) -> _Source:
    """Read a module once in a process, soon after it was imported: a later edit is not what this process computes with."""
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    spelled = {part: "".join(map(_spell, nodes)) for part, nodes in _parts(tree).items()}
    hashes = {part: hashlib.sha256(text.encode()).hexdigest()[:DIGITS] for part, text in spelled.items()}
    return _Source(hashes, list(_imports(tree)))


def _parts(tree: ast.Module) -> dict[str, list[object]]:
    parts: dict[str, list[object]] = {}
    for node in _bare(tree.body):
        if isinstance(node, ast.ClassDef):
            parts.setdefault(node.name, []).append([node.bases, node.keywords, node.decorator_list])
            for inner in _bare(node.body):
                part = f"{node.name}.{inner.name}" if isinstance(inner, FUNCTION) else node.name
                parts.setdefault(part, []).append(inner)
        elif isinstance(node, FUNCTION):
            parts.setdefault(node.name, []).append(node)
        elif not _is_table(node):
            parts.setdefault("its own statements", []).append(node)
    return parts


def _imports(tree: ast.Module) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield every import of this package, at the top or late, those for type checkers alone aside."""
    front: list[ast.AST] = [tree]
    while front:
        node = front.pop()
        if isinstance(node, ast.ImportFrom):
            if node.module and node.module.partition(".")[0] == PACKAGE:
                yield node.module, {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            yield from ((alias.name, {}) for alias in node.names if alias.name.startswith(f"{PACKAGE}."))
        elif not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            front += (inner for inner in ast.iter_child_nodes(node) if isinstance(inner, ast.stmt | ast.ExceptHandler))


def _hash(name: str) -> str:
    return key_of(parts(name))[:DIGITS] if name in _STRANGERS else _own_hash(name)


@functools.cache
def _own_hash(name: str) -> str:
    return key_of(parts(name))[:DIGITS]


def _details(folder: Path | None) -> dict[str, dict[str, str]]:
    try:
        details = {} if folder is None else read_json(folder / DETAILS)
    except CheckFailed:
        return {}
    return {k: v for k, v in details.items() if isinstance(v, dict)} if isinstance(details, dict) else {}


def _is_table(node: ast.stmt) -> bool:
    """Tell whether this is `slot: Slot[...] = Slot(...)`, a table of levers: another one in it changes none of those in use."""
    return isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "slot"


def _bare(body: list[ast.stmt]) -> list[ast.stmt]:
    """Return statements without the docstring, or any text that stands alone."""
    return [node for node in body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]


def _spell(value: object) -> str:
    """Spell a syntax tree in the one way that is the same in every version of Python: empty or missing fields say nothing."""
    said: list[str] = []
    _say(value, said.append)
    return "".join(said)


def _say(value: object, put: Callable[[str], None]) -> None:
    if isinstance(value, list):
        put("[")
        for one in _bare(value) if value and isinstance(value[0], ast.stmt) else value:
            _say(one, put)
        put("]")
    elif isinstance(value, ast.Constant):
        put(f"{type(value.value).__name__} {value.value!r};")
    elif isinstance(value, ast.AST):
        put(type(value).__name__ + "(")
        for name in value._fields:
            inner = getattr(value, name, None)
            if inner is not None and inner != [] and name not in ("type_comment", "ctx"):
                put(name)
                _say(inner, put)
        put(")")
    else:
        put(f"{value!r};")
