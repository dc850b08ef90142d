"""git, asked about a checkout that a study names, and told to copy it. Its settings are obeyed: its program will be run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from ablab.core.fault import CheckFailed, Fault

# Hooks of the user's would run at every copy, and colours, tools and prefixes of theirs would stand in a diff.
_QUIET = ("-c", "core.hooksPath=/dev/null", "-c", "advice.detachedHead=false", "-c", "core.quotePath=true")


class GitFailed(Exception):
    """git said no; its last words."""


def git(folder: Path, *words: str, data: bytes | None = None, where: Mapping[str, str] | None = None) -> bytes:
    """Return what git says in a folder; data: what it reads, where: variables that tell it where to look.

    Raises GitFailed, and CheckFailed where there is no git or no such folder.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    quiet = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    if not folder.is_dir():
        raise CheckFailed(Fault(str(folder), "is no folder", "give the place of a git checkout in runner.directory"))
    try:
        done = subprocess.run(
            ["git", *_QUIET, *words],
            cwd=folder,
            input=data,
            capture_output=True,
            env={**environment, **quiet, **(where or {})},
        )
    except OSError as error:
        raise CheckFailed(Fault("git", f"cannot be started ({error.strerror})", "install git")) from error
    if done.returncode != 0:
        raise GitFailed((done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1])
    return done.stdout


def line(folder: Path, *words: str, where: Mapping[str, str] | None = None) -> str:
    """Return the same as text, without the end of its line."""
    return git(folder, *words, where=where).decode("utf-8", "surrogateescape").removesuffix("\n")
