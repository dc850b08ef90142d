"""Diffs: a table laid over another in the baseline's own path, where a lever of the same name merges its settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ablab.study.keys import IN_MODEL, OF_MODEL, SECTIONS, SLOTS, lever_slot

Path = tuple[str, ...]
OF_SOURCE = ("valid_source", "valid_text_bytes", "weights")


def merge(tree: Mapping[str, object], diff: Mapping[str, object], *, defaults: bool = True) -> dict[str, object]:
    """Lay `diff` over `tree`; neither is changed. With `defaults`, a nameless lever table extends the lever in force."""
    return _merge(tree, tree, diff, (), defaults)


def lay(tree: object, diff: object, *, defaults: bool = True) -> object:
    """Do the same with what may be no tables: the diff then stands for itself, and nothing at all changes nothing."""
    return _lay_over(tree, tree, diff, (), defaults)


def _lay_over(root: object, tree: object, diff: object, path: Path, defaults: bool) -> object:
    if not isinstance(diff, dict):
        return diff
    if not diff and tree is not None:
        return tree
    return _merge(root, tree if isinstance(tree, dict) else {}, diff, path, defaults)


def _merge(
    root: object, tree: Mapping[str, object], diff: Mapping[str, object], path: Path, defaults: bool
) -> dict[str, object]:
    out = dict(tree)
    if path == ("budget",) and ("tokens" in diff) != ("seconds" in diff):  # naming one replaces the other
        out.pop("seconds" if "tokens" in diff else "tokens", None)
    if path == ("data",) and "source" in diff:  # what was said of the other source goes with it
        out = {key: value for key, value in out.items() if key not in OF_SOURCE}
    if path == ("data",) and "valid_source" in diff:
        out.pop("valid_fraction", None)
    if path == ("train",) and diff.get("weights"):  # what was said of training goes with it
        out = {}
    if path == ("train",) and diff.get("ema") == 0:
        out.pop("ema_warmup", None)
    for key, value in diff.items():
        here = (*path, key)
        if slot := lever_slot(here):
            out[key] = _lay(slot, standing(root, here, defaults=defaults), value)
        else:
            out[key] = _lay_over(root, out.get(key), value, here, defaults)
    return out


def _lay(slot: str, old: object, new: object) -> object:
    """Lay a lever over a lever: the same name (or none) merges the settings, another name replaces it."""
    old = {"name": old} if isinstance(old, str) else old
    if isinstance(new, str):
        new = {"name": new}
    if isinstance(old, dict) and isinstance(new, dict) and new.get("name", old.get("name")) == old.get("name"):
        return SLOTS[slot].laid(old, new)
    return new


def standing(tree: object, path: Path, *, defaults: bool = True) -> object:
    """Return the lever in force at `path`: written there, or (with `defaults`) copied by `like`, general, or the default."""
    raw = _get(tree, path)
    if raw is not None or not defaults:
        return raw
    if path[0] == "model":
        model = tree.get("model") if isinstance(tree, dict) else None
        own = kind_table(model, path[1]).get(path[2]) if len(path) == 3 else None
        return own or _get(model, (path[-1],)) or {**IN_MODEL, **OF_MODEL}[path[-1]]
    default = SECTIONS[path[0]][path[-1]].default
    return default if isinstance(default, str) else None


def kind_table(model: object, name: str, seen: tuple[str, ...] = ()) -> dict[str, object]:
    """Return a layer kind's keys after `like`; a broken `like` (unknown, in a circle) copies nothing."""
    raw = model.get(name) if isinstance(model, dict) else None
    if not isinstance(raw, dict):
        return {}
    like = raw.get("like")
    if not isinstance(like, str) or like in (*seen, name):
        return dict(raw)
    out = kind_table(model, like, (*seen, name))
    out.pop("like", None)
    for key, value in raw.items():
        out[key] = _lay(key, out.get(key), value) if key in IN_MODEL else value
    return out


def named(diff: Mapping[str, object], tree: object, path: Path = ()) -> Iterator[Path]:
    """Yield the paths that a diff names: one for a lever, one for a layer kind that `tree` lacks, one for any other key."""
    for key, value in diff.items():
        here = (*path, key)
        new_kind = len(here) == 2 and here[0] == "model" and isinstance(value, dict) and _get(tree, here) is None
        if lever_slot(here) or new_kind or not isinstance(value, dict):
            yield here
        else:
            yield from named(value, tree, here)


def at(path: Path, value: object) -> dict[str, object]:
    """Return the diff that sets `path` to `value`."""
    *above, last = path
    out: dict[str, object] = {last: value}
    for key in reversed(above):
        out = {key: out}
    return out


def _get(tree: object, path: Path) -> object:
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree
