"""The o200k vocabulary file: where it lies, whether it is the right one, and how it is installed.

The file is never fetched while ablab works: `ablab data vocab` puts it into the environment once. Whatever it came from,
its sha256 decides.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import http.client
import os
import shlex
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from ablab.core import places, streams
from ablab.core.fault import CheckFailed, Fault, Refused
from ablab.core.files import write_atomic
from ablab.core.kinds import what_is
from ablab.core.opened import opened

NAME = "o200k_base.tiktoken"
SHA1_NAME = "fb374d419588a4632f3f557e76b4b70aebbca790"  # sha1 of URL: the file's name in tiktoken's cache
SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
SIZE = 3_613_922  # bytes
COUNT = 199_998  # ranks
URL = "https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken"
_VARIABLES = ("TIKTOKEN_ENCODINGS_BASE", "TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR", "TIKTOKEN_RS_CACHE_DIR")
_CACHES = ("data-gym-cache", "tiktoken-rs-cache")  # in the folder for temporary files
_CURE = "run 'ablab data vocab' to install the right one"
_CURE_OF_A_PATH = "give the path of the right one, or no path and run 'ablab data vocab' once"
# What files, connections and archives raise where they are missing or damaged.
_UNREADABLE = (OSError, ValueError, http.client.HTTPException, zipfile.BadZipFile, zlib.error, RuntimeError, EOFError)


def default_path() -> Path:
    """Return where the file is installed: in the environment that runs ablab."""
    return Path(sys.prefix) / "share" / "ablab" / NAME


def read(path: Path | None = None) -> bytes:
    """Read the vocabulary file at `path` (None: the installed one).

    ValueError, with the cure, where it is missing, unreadable, truncated or another file.
    """
    cure = _CURE if path is None else _CURE_OF_A_PATH
    path = path or default_path()
    try:
        data = _bytes_at(path)
    except OSError as error:
        raise ValueError(f"{path}: the o200k vocabulary cannot be read ({error.strerror or error}); {cure}") from error
    if fault := _fault(data):
        raise ValueError(f"{path} {fault}; {cure}")
    return data


def ranks(data: bytes) -> dict[bytes, int]:
    """Map each token to its rank from the file's lines (token in base64, space, rank).

    ValueError where a line is no such pair, or the ranks are not 0 to 199997 in order.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines()):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise ValueError(f"line {number + 1} of the o200k vocabulary is no token and rank; {_CURE}") from None
    if list(ranks.values()) != list(range(COUNT)):
        raise ValueError(f"the o200k vocabulary holds {len(ranks)} ranks that are not 0 to {COUNT - 1}; {_CURE}")
    return ranks


def install(origin: str | None = None, to: Path | None = None, say: Callable[[str], None] = print) -> Path:
    """Put the vocabulary file at `to` (None: `default_path()`) and return that path.

    `origin`: a file, a folder (looked through for the file's two names), a wheel or zip (likewise), or an http(s) URL.
    None: nothing to do where the right file is there; else the folders that tiktoken and openai-harmony use, then the
    publisher's URL. A file that is not the right one is never installed.

    Errors: ValueError with every place tried and what was wrong there; CheckFailed where `to` cannot be written.
    """
    to = to or default_path()
    if to.is_dir():
        raise CheckFailed(Fault(str(to), "is a folder", f"name a file in it: --to {shlex.quote(str(to / NAME))}"))
    if origin is None and to.is_file() and not _fault(_bytes_at(to)):
        say(f"{to} is there already")
        return to
    tried: list[str] = []
    for place in [origin] if origin is not None else [*_usual_places(), URL]:
        if file := _right_one(place, tried):
            name, data = file
            _write(to, data)
            say(f"{to} installed from {name}")
            return to
    cure = f"get {NAME} (sha256 {SHA256}) and run 'ablab data vocab' with its path"
    raise ValueError("the o200k vocabulary was not installed. " + ". ".join(tried) + f"; {cure}")


def _write(to: Path, data: bytes) -> None:
    try:
        write_atomic(places.real(to), data)
    except CheckFailed as error:
        told = [Fault(one.place, one.fault, one.cure.replace("--out", "--to")) for one in error.faults]
        raise CheckFailed(told) from error


def _usual_places() -> list[str]:
    """List the folders that hold the file on a machine that has used it before, as far as they are there."""
    named = [os.environ.get(variable) for variable in _VARIABLES]
    return [one for one in named if one] + [
        str(path) for name in _CACHES if (path := Path(tempfile.gettempdir()) / name).is_dir()
    ]


def _right_one(place: str, tried: list[str]) -> tuple[str, bytes] | None:
    """Name and bytes of the vocabulary at `place`, or None; what was wrong there is added to `tried`."""
    before = len(tried)
    try:
        for name, data in _candidates(place):
            if not (fault := _fault(data)):
                return name, data
            tried.append(f"{name} {fault}")
    except _UNREADABLE as error:
        tried.append(f"{place} cannot be read ({getattr(error, 'strerror', None) or error})")
    if len(tried) == before:
        tried.append(f"{place} holds no {NAME} and no {SHA1_NAME}")
    return None


def _candidates(place: str) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of every file at `place` that may be the vocabulary. One of _UNREADABLE where that fails."""
    if place.startswith(("http://", "https://")):
        yield place, _fetched(place if place.endswith((NAME, SHA1_NAME)) else f"{place.rstrip('/')}/{NAME}")
        return
    path = Path(place)
    if path.is_dir():
        for name in (NAME, SHA1_NAME):
            if (path / name).is_file():
                yield str(path / name), _bytes_at(path / name)
    elif path.suffix in (".whl", ".zip"):
        with opened(path) as whole, zipfile.ZipFile(whole) as archive:
            for member in archive.infolist():
                if member.filename.rsplit("/", 1)[-1] in (NAME, SHA1_NAME):
                    with archive.open(member) as file:
                        yield f"{path}:{member.filename}", file.read(SIZE + 1)
    else:
        yield str(path), _bytes_at(path)


def _fetched(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            data: bytes = answer.read(SIZE + 1)
            return data
    except urllib.error.URLError as error:
        raise OSError(f"{error.reason}") from error


def _bytes_at(path: Path) -> bytes:
    """Read at most one byte more than the vocabulary has: a larger file is another one, and need not be read whole."""
    with opened(path) as file:
        return file.read(SIZE + 1)


def _fault(data: bytes) -> str:
    """Say what is wrong with `data`; nothing where it is the vocabulary."""
    digest = hashlib.sha256(data).hexdigest()
    if digest == SHA256:
        return ""
    if what := what_is(data):
        return f"{what}, and not the o200k vocabulary (sha256 {SHA256})"
    if len(data) > SIZE:
        return f"is larger than {SIZE} bytes, so it is not the o200k vocabulary (sha256 {SHA256})"
    return f"has {len(data)} bytes and sha256 {digest}, where the o200k vocabulary has {SIZE} and {SHA256}"


def main() -> None:
    """Run `python -P -m ablab.data.vocabulary [ORIGIN]`: install the file, before there is a command line of ablab."""
    streams.install()
    try:
        install(sys.argv[1] if len(sys.argv) > 1 else None)
    except (ValueError, Refused) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
