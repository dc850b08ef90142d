"""What may stand in a page that is passed on: files by the names that a study gives them, no path of the machine."""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar, cast

T = TypeVar("T")
# A path within a sentence: it begins behind a blank or a bracket, and has a folder. `nats/token` and URLs are none.
IN_TEXT = re.compile(r"(?<![\w./:~*-])/(?:[^\s/'\"`,;:()\[\]{}<>|]+/)+[^\s/'\"`,;:()\[\]{}<>|]*")


def shareable(value: T, *, folder: Path | None = None, root: Path | None = None) -> T:
    """Return the nest `value` with every absolute path in it replaced, in keys, values and within sentences.

    folder: of the study file; what lies below is named from there. root: the store; what lies below begins with its name.
    A file of a package begins with the package's name. Of any other path its last part stays, and as much before it as
    tells two files of one name apart.
    """
    known = _known(folder, root)
    texts = [text for text in _texts(value) if "/" in text]
    whole = {text for text in texts if _is_path(text)}
    whole |= {path for text in texts if not _is_path(text) for path in IN_TEXT.findall(_named(text, known))}
    shown = _shortest({path for path in whole if _named(path, known) == path})
    longest = sorted(shown, key=len, reverse=True)

    def said(text: str) -> str:
        text = _named(text, known)
        for path in longest:
            if path in text:
                text = re.sub(rf"{re.escape(path)}(?![\w-])", _literal(shown[path]), text)
        return text

    return cast(T, _mapped(value, said))  # of the same shape: texts alone are other ones


def _known(folder: Path | None, root: Path | None) -> list[tuple[str, str]]:
    """List folders that have a name of their own, the deepest first: (its path with a slash, what stands for that)."""
    packages = {sysconfig.get_paths()[name] for name in ("purelib", "platlib", "stdlib")}
    names = {str(Path(__file__).resolve().parents[1]): "ablab/", **dict.fromkeys(packages, ""), sys.prefix: ""}
    if root is not None:
        names |= {str(path): f"{root.name}/" for path in (root.absolute(), root.resolve())}
    if folder is not None:
        names |= {str(path): "" for path in (folder.absolute(), folder.resolve())}
    pairs = [(f"{path}/", name) for path, name in names.items() if path != "/"]
    return sorted(pairs, key=lambda pair: len(pair[0]), reverse=True)


def _named(text: str, known: list[tuple[str, str]]) -> str:
    for path, name in known:
        if path in text:
            text = re.sub(rf"(?<![\w.~*-]){re.escape(path)}", _literal(name), text)
    return text


def _literal(name: str) -> str:
    """Escape `name` as the replacement of a pattern."""
    return name.replace("\\", r"\\")


def _is_path(text: str) -> bool:
    """Tell whether a text is one path and not a sentence that begins with one: without blanks, or of a file that is there."""
    if not text.startswith("/") or len(Path(text).parts) < 3:
        return False
    return not re.search(r"\s", text) or (len(text) < 1000 and os.path.lexists(text))


def _shortest(paths: set[str]) -> dict[str, str]:
    """Map each path to as few of its last parts as no other one of them ends with."""
    parts = {path: Path(path).parts[1:] for path in paths}

    def name(path: str) -> str:
        own = parts[path]
        others = [other for other in parts.values() if other != own]
        for n in range(1, len(own)):
            if all(other[-n:] != own[-n:] for other in others):
                return "/".join(own[-n:])
        return "/".join(own)

    return {path: name(path) for path in paths}


def _texts(value: object) -> Iterator[str]:
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            left += [*one, *one.values()]
        elif isinstance(one, list | tuple):
            left += one


def _mapped(value: object, do: Callable[[str], str]) -> object:
    if isinstance(value, str):
        return do(value) if "/" in value else value
    if isinstance(value, dict):
        return {_mapped(key, do): _mapped(inner, do) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(inner, do) for inner in value]
    return value
