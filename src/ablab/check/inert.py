"""Whether an arm whose miniature equals its reference's changes nothing at all, or nothing that a miniature can show.

A miniature has 20 steps, narrow heads, short rows and a small file. So an equal outcome alone says little of a number: an
average over 1,000 steps, a match 4 MB away, a warm-up of 1%. What is asked instead is whether *another* value of the
changed number acts at that size. If one does, something reads the setting, and whether its two values differ at full size
is not known: the arm is untested. If none does, nothing reads it: the arm is inert.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeGuard, cast

from ablab.records.settings import Settings

Path = tuple[str | int, ...]

# A miniature is about a thousand times smaller than a study in steps and in bytes. What does not act within that factor of
# its values is not brought into reach by size: clipping at 1e8 and at 1e9 is the same at every size.
FACTORS = (2, 10, 1000)
FRACTIONS = (0.5, 0.1, 0.9)  # of a training, a document, a head: a fraction may come to act anywhere between 0 and 1
LEAST_FRACTION = 0.001  # smaller ones are tolerances, and no share of anything

_NOWHERE = object()


def changed(one: Settings, other: Settings) -> list[Path]:
    """List the paths of every value that differs. A lever replaced by another name is one value, and so is a list resized."""
    return list(_changed(one, other, ()))


def _changed(one: object, other: object, path: Path) -> Iterator[Path]:
    if isinstance(one, Mapping) and isinstance(other, Mapping) and one.get("name") == other.get("name"):
        for key in dict.fromkeys((*one, *other)):
            yield from _changed(one.get(key, _NOWHERE), other.get(key, _NOWHERE), (*path, key))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other) and not _numbers(one):
        for at, (a, b) in enumerate(zip(one, other)):
            yield from _changed(a, b, (*path, at))
    elif one is not other and one != other:
        yield path


def look(settings: object, path: Path) -> object:
    """Return the value at `path`, or a mark that equals nothing else where the path leads nowhere."""
    for key in path:
        if isinstance(settings, list) and isinstance(key, int):
            settings = settings[key] if key < len(settings) else _NOWHERE
        else:
            settings = settings.get(key, _NOWHERE) if isinstance(settings, Mapping) else _NOWHERE
    return settings


def spell(path: Path, settings: Settings) -> str:
    """Spell a path as a study names it: `train.optimizer.lr`, `model.local.window`."""
    if path[:2] == ("model", "kinds"):
        path = ("model", settings["model"]["kinds"][str(path[2])]["table"], *path[3:])
    return ".".join(map(str, path))


def put(settings: Settings, path: Path, value: object) -> Settings:
    """Copy settings with another value at `path`; what is beside the way there is shared."""
    return cast(Settings, _put(settings, path, value))


def _put(here: object, path: Path, value: object) -> object:
    if not path:
        return value
    key, rest = path[0], path[1:]
    if isinstance(here, list) and isinstance(key, int):
        return [*here[:key], _put(here[key], rest, value), *here[key + 1 :]]
    if isinstance(here, Mapping):
        return {**here, key: _put(here.get(key), rest, value)}
    raise KeyError(key)


def others(one: object, other: object) -> list[object]:
    """Choose values to try instead of two that came out equal: numbers within a factor of 1,000, and fractions anywhere.

    Nothing for words, switches and replaced levers: they have no scale that a smaller model could miss.
    """
    values: Sequence[object]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other) and _numbers(one + other):
        values = [
            [*one[:at], near, *one[at + 1 :]] for at, pair in enumerate(zip(one, other)) for near in _around(pair)
        ]
    elif lists := [value for value in (one, other) if isinstance(value, list) and _numbers(value)]:
        values = [[*value[:at], near, *value[at + 1 :]]
                 for value in lists for at, part in enumerate(value) for near in _around((part, part))]  # fmt: skip
    else:
        values = _around(tuple(value for value in (one, other) if _number(value)))
    unique = {repr(value): value for value in values if value not in (one, other)}
    return list(unique.values())


def _around(values: tuple[float, ...]) -> list[float]:
    """Return numbers below the smallest and above the largest of `values` that is no 0."""
    sizes = [value for value in values if value]
    if not sizes:
        return []
    least, most = min(sizes), max(sizes)
    numbers = [near for factor in FACTORS for near in (least / factor, most * factor)]
    if all(isinstance(value, int) for value in sizes):
        return [whole for near in numbers if (whole := round(near))]
    return [*(FRACTIONS if LEAST_FRACTION <= most < 1 else ()), *numbers]


def untested(
    full: tuple[Settings, Settings],
    small: tuple[Settings, Settings],
    acts: Callable[[Settings], bool],
) -> list[Path]:
    """List what an arm changes and a miniature cannot tell apart; nothing where the arm is inert.

    `full` and `small`: the settings of the arm and of its reference, whose miniatures came out equal. `acts`: whether a
    miniature of the arm with these settings instead differs from the reference's.
    """
    paths = []
    for path in changed(*full):
        one, other = (look(settings, path) for settings in small)
        same = one is other or one == other  # by the smaller size: windows of 64 and 128 both shrink to 2
        if same or any(acts(put(small[0], path, value)) for value in others(one, other)):
            paths.append(path)
    return paths


def _number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _numbers(values: list[object]) -> bool:
    return bool(values) and all(map(_number, values))
