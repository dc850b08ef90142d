"""Which commit is at work: of ablab, where it runs from a git checkout, and of the repository that a study file lies in."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

DIGITS = 12  # of a commit: more than git itself needs in any repository
CHANGED = ", changed since"
SECONDS = 10  # that git may take; a repository on a disk that hangs must not hold up a study


@functools.cache
def of_ablab() -> str | None:
    """The commit of the checkout that ablab runs from, `, changed since` behind it where a file of the package differs.

    None where it is installed as a package, or git is not there: then the version says what there is to say.
    """
    package = Path(__file__).resolve().parent
    return commit(package / "__init__.py", package)


def of_study(path: Path) -> str | None:
    """The commit of the repository that tracks a study file, marked where the file differs; None where none does."""
    return commit(path.resolve(), path.resolve())


def commit(tracked: Path, judged: Path) -> str | None:
    """HEAD of the repository that tracks the file `tracked`, marked where `judged`, a file or folder, differs from it.

    A repository that merely lies around an environment says nothing about what is installed there: hence `tracked`.
    """
    if _git(tracked.parent, "ls-files", "--error-unmatch", "--", tracked.name) is None:
        return None
    head = _git(tracked.parent, "rev-parse", "HEAD")
    if not head:
        return None
    folder = judged if judged.is_dir() else judged.parent
    changed = _git(folder, "status", "--porcelain", "--", "." if judged.is_dir() else judged.name)
    return head[:DIGITS] + (CHANGED if changed else "")


def _git(folder: Path, *words: str) -> str | None:
    """What git says there, None where it fails. The caller's own GIT_DIR and the like name other repositories."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            env={**environment, "GIT_OPTIONAL_LOCKS": "0"},
            timeout=SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
