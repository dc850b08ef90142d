"""The study file as text and as TOML: what cannot be read, and values that no study may hold."""

from __future__ import annotations

import datetime
import math
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from ablab.core.fault import Fault, InvalidStudy
from ablab.core.opened import opened

MOST_BYTES = 256 * 1024
DEEPEST = 16  # tables and lists within one another
_PREFIXES = {"scale": 2, "arm": 2, "factorial": 2}  # tables that hold paths of the baseline below their name
_WORD = re.compile(r"[A-Za-z0-9_-]+\Z")
# tomllib takes quadratic time over the parts of one dotted key, so a long one is refused before it is parsed
# (possessive: what a part has taken is not tried again shorter, which took quadratic time over a line of blanks)
_PART = r"""(?>[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+"""
_LONG_KEY = re.compile(rf"^[ \t]*+\[*+[ \t]*+(?:{_PART}\.[ \t]*+){{{DEEPEST}}}", re.MULTILINE)


def read(path: Path) -> tuple[str, dict[str, object]]:
    """Read the text and its TOML tables. Raises InvalidStudy where there is no file, no text or no TOML in it."""
    text = _text(path)
    for number, line in enumerate(text.split("\n"), 1):
        bad = next((c for c in line.removesuffix("\r") if _control(c) and c != "\t"), None)
        if bad is not None:
            raise _refused(f"{path.name}: line {number}", f"control character {bad!a}", "remove it")
    if long := _LONG_KEY.search(text):
        raise _refused(f"{path.name}: line {text.count(chr(10), 0, long.start()) + 1}", *_TOO_DEEP)
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = re.fullmatch(r"(.*) \(at (line \d+, column \d+|end of document)\)", str(error), re.DOTALL)
        fault, place = (match[1], match[2]) if match else (str(error), "")
        raise _refused(
            f"{path.name}: {place}" if place else path.name, f"not TOML: {fault[:1].lower()}{fault[1:]}", "see toml.io"
        ) from error
    except RecursionError as error:
        raise _refused(path.name, *_TOO_DEEP) from error
    except ValueError as error:  # Python converts no more than 4300 digits
        raise _refused(path.name, "an integer with thousands of digits", "give a smaller one") from error


_TOO_DEEP = (f"nested deeper than {DEEPEST}", "a study needs no more; write it flatter")


def _text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise _refused(str(path), "not a file", "give the path of a study file")
        with opened(path) as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise _refused(str(path), f"cannot be read ({error.strerror})", "give the path of a study file") from error
    except ValueError as error:  # a NUL in the path
        raise _refused(ascii(str(path)), f"cannot be read ({error})", "give the path of a study file") from error
    if len(data) > MOST_BYTES:
        raise _refused(path.name, f"larger than {MOST_BYTES} bytes", "a study file is a page or two; is this one?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise _refused(f"{path.name}: line {line}", "not UTF-8", "save the file as UTF-8") from error


def unfit(raw: dict[str, object]) -> list[Fault]:
    """Return faults for values that no study may hold, wherever they are: dates, nan, inf, huge integers, controls, depth."""
    faults = []
    for path, value, depth in _walk(raw):
        if depth > DEEPEST:
            faults.append(Fault(place(path[:4]), *_TOO_DEEP))
        elif isinstance(value, datetime.date | datetime.time):
            faults.append(
                Fault(place(path), f"{value} is a date or a time", "no setting takes one; did you mean a string?")
            )
        elif isinstance(value, float) and not math.isfinite(value):
            faults.append(Fault(place(path), f"{value!r} is not finite", "give a finite number"))
        elif isinstance(value, int) and abs(value) > 2**63 - 1:
            faults.append(Fault(place(path), "an integer beyond 64 bits", "give a smaller one"))
        elif isinstance(value, str) and any(_control(c) and c not in "\t\n\r" for c in value):
            faults.append(Fault(place(path), "a control character in a string", "remove it"))
        if any(_control(c) for c in (path[-1] if path and isinstance(path[-1], str) else "")):
            faults.append(Fault(place(path), "a control character in a key", "remove it"))
    return faults


def place(path: Sequence[str | int]) -> str:
    """Spell `("arm", "rope", "model", "layers")` as `"arm.rope: model.layers"`; list items as `[0]`."""
    if path and path[0] in _PREFIXES and len(path) > _PREFIXES[str(path[0])]:
        cut = _PREFIXES[str(path[0])]
        return f"{place(path[:cut])}: {place(path[cut:])}"
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else f"{'.' if out else ''}{word(part)}"
    return out


def word(key: str) -> str:
    """Spell a key as it may be printed: itself where it is plain, quoted and escaped otherwise."""
    return key if _WORD.match(key) else ascii(key)


def _walk(raw: object) -> Iterator[tuple[tuple[str | int, ...], object, int]]:
    """Yield every value with its path and depth; without recursion, so that depth is no danger. Too deep is not entered."""
    stack: list[tuple[tuple[str | int, ...], object]] = [((), raw)]
    while stack:
        path, value = stack.pop()
        yield path, value, len(path)
        if len(path) <= DEEPEST and isinstance(value, dict | list):
            below = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
            stack += [((*path, key), part) for key, part in reversed(below)]


def _control(character: str) -> bool:
    return ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0


def _refused(place: str, fault: str, cure: str) -> InvalidStudy:
    return InvalidStudy(Fault(place, fault, cure))
