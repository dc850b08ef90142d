"""Which commit is at work: of ablab, where it runs from a git checkout, and of the repository that a study file lies in."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import subprocess
import tempfile
from pathlib import Path

from ablab.core.opened import read_whole

DIGITS = 12  # of a commit: more than git itself needs in any repository
CHANGED = ", changed since"
SECONDS = 10  # that git may take; a repository on a disk that hangs must not hold up a study
_SHORT = 4096  # bytes of HEAD and of the like
_MANY = 1 << 26  # bytes of branches and tags: about a million of them
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_OWN = "[core]\n\trepositoryformatversion = {}\n\tbare = true\n{}"
_SHA256 = "[extensions]\n\tobjectFormat = sha256\n"


@functools.cache
def of_ablab() -> str | None:
    """Return the commit of the checkout that ablab runs from, `, changed since` behind it where a file of the package differs.

    None where it is installed as a package, or git is not there: then the version says what there is to say.
    """
    package = Path(__file__).resolve().parents[1]
    return commit(package / "__init__.py", package)


def of_study(path: Path) -> str | None:
    """Return the commit of the repository that holds a study file, marked where the file differs; None where none does.

    The repository may be a stranger's, and git does what a repository's settings say: core.fsmonitor, filters and remotes
    name programs that it runs. So its settings are never read: HEAD is looked up here, and git is asked, in an empty
    repository of our own, only what the commit holds.
    """
    path = path.resolve()
    try:
        if (repository := _repository(path)) is None:
            return None
        root, folder = repository
        head = _head(folder)
        kept = _kept(folder, head, path.relative_to(root)) if head else None
        if head is None or kept is None:
            return None
        same = kept in _blobs(read_whole(path), kept)
    except (OSError, ValueError):
        return None
    return head[:DIGITS] + ("" if same else CHANGED)


def commit(tracked: Path, judged: Path) -> str | None:
    """Return HEAD of the repository that tracks the file `tracked`, marked where `judged`, a file or folder, differs from it.

    For our own checkout: its settings are obeyed. A repository that merely lies around an environment says nothing about
    what is installed there: hence `tracked`.
    """
    if _git(tracked.parent, "ls-files", "--error-unmatch", "--", tracked.name) is None:
        return None
    head = _git(tracked.parent, "rev-parse", "HEAD")
    if not head:
        return None
    folder = judged if judged.is_dir() else judged.parent
    changed = _git(folder, "status", "--porcelain", "--", "." if judged.is_dir() else judged.name)
    return head[:DIGITS] + (CHANGED if changed else "")


def _repository(path: Path) -> tuple[Path, Path] | None:
    """Find the innermost working tree around a file, and the folder of its repository."""
    for root in path.parents:
        place = root / ".git"
        if place.is_dir():
            return root, place
        if place.is_file():  # of a second working tree, or of a submodule
            word, _, there = read_whole(place, _SHORT).decode().strip().partition(": ")
            return (root, root / there) if word == "gitdir" else None
    return None


def _head(folder: Path) -> str | None:
    """Read the commit that is checked out."""
    said = read_whole(folder / "HEAD", _SHORT).decode().strip()
    if _COMMIT.fullmatch(said):
        return said
    word, _, name = said.partition(": ")
    if word != "ref" or not name.startswith("refs/") or ".." in name:
        return None
    places = [folder, _shared(folder)]
    for place in places:
        with contextlib.suppress(OSError):
            commit = read_whole(place / name, _SHORT).decode().strip()
            return commit if _COMMIT.fullmatch(commit) else None
    for line in read_whole(places[-1] / "packed-refs", _MANY).decode().splitlines():
        digits, _, packed = line.strip().partition(" ")
        if packed == name:
            return digits if _COMMIT.fullmatch(digits) else None
    return None


def _shared(folder: Path) -> Path:
    """Find where a repository's objects and branches lie: elsewhere for second working trees."""
    try:
        return folder / read_whole(folder / "commondir", _SHORT).decode().strip()
    except OSError:
        return folder


def _kept(folder: Path, head: str, name: Path) -> str | None:
    """Return the hash of a file's content as the commit `head` holds it; None where it holds no such file."""
    wide = len(head) == 64
    with tempfile.TemporaryDirectory(prefix="ablab.") as own:
        for inside in ("objects", "refs"):
            (Path(own) / inside).mkdir()
        (Path(own) / "HEAD").write_text(f"{head}\n")
        (Path(own) / "config").write_text(_OWN.format(int(wide), _SHA256 if wide else ""))
        where = {
            "GIT_DIR": own,
            "GIT_OBJECT_DIRECTORY": str(_shared(folder) / "objects"),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_LITERAL_PATHSPECS": "1",
            "GIT_NO_LAZY_FETCH": "1",
        }
        said = _git(Path(own), "ls-tree", "-z", head, "--", name.as_posix(), **where)
    words = (said or "").split("\t")[0].split()  # mode, type, hash
    return words[2] if len(words) == 3 and words[1] == "blob" else None


def _blobs(content: bytes, like: str) -> set[str]:
    """Return git's hashes of a content: as it is, and with the line ends that git keeps where it was told to convert them."""
    make = hashlib.sha256 if len(like) == 64 else hashlib.sha1
    forms = (content, content.replace(b"\r\n", b"\n"))
    return {make(b"blob %d\0" % len(form) + form).hexdigest() for form in forms}


def _git(folder: Path, *words: str, **where: str) -> str | None:
    """Return what git says there, None where it fails. The caller's own GIT_DIR and the like name other repositories."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            env={**environment, "GIT_OPTIONAL_LOCKS": "0", **where},
            timeout=SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
