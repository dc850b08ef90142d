"""A clean copy of a checkout for one run: the commit, what the study's checkout held beside it, then the arm's patch."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ablab.core import places
from ablab.core.fault import CheckFailed, Fault
from ablab.core.files import sha256_file
from ablab.core.inputs import Inputs
from ablab.core.opened import read_whole
from ablab.runs.program import MOST, Program, kept
from ablab.runs.store import Store
from ablab.runtime.git import GitFailed, git


def make(program: Program, to: Path, store: Store) -> Path:
    """Make the copy in the folder `to`, which may not be there; returns where a run stands in it.

    It is a repository of its own that borrows the checkout's objects: nothing in the checkout changes, and removing the
    folder is all there is to clean. Files that are read and git does not keep are links to where they lie.

    CheckFailed where the checkout or a file is gone or changed, or the patch does not apply.
    """
    places.folder(to.parent)
    top = Path(program.top)
    try:
        git(top, "clone", "--quiet", "--shared", "--no-checkout", "--", program.top, str(to))
        git(to, "checkout", "--quiet", "--detach", program.commit)
    except GitFailed as error:
        fault = f"cannot be copied at its commit {program.commit[:12]} ({error})"
        raise CheckFailed(Fault(program.top, fault, "put the commit back, or start the study again")) from error
    for what, sha256 in (("what it held beside its commit", program.diff), ("the arm's patch", program.patch)):
        if sha256:
            _apply(to, kept(store, sha256), sha256, what, program)
    here = to / program.inside
    for name, sha256 in program.reads:
        _link(program.directory / name, here / name, sha256, store)
    return here


def drop(tree: Path) -> None:
    """Remove a copy; what it links to stays."""
    shutil.rmtree(tree, ignore_errors=True)


def unchanged(program: Program, store: Store) -> None:
    """Refuse a file that runs read and that is no longer the one that they were keyed by."""
    inputs = Inputs(store.data / "inputs.json")
    for name, sha256 in program.reads:
        _same(program.directory / name, sha256, inputs)


def _same(file: Path, sha256: str, inputs: Inputs) -> None:
    if inputs.sha256(file) != sha256:
        raise CheckFailed(Fault(str(file), "changed after the runs were planned", "start the study again"))


def _apply(to: Path, diff: Path, sha256: str, what: str, program: Program) -> None:
    try:
        text = read_whole(diff, MOST + (MOST >> 1))  # of binary files a diff has four letters for three bytes
        if sha256_file(diff) != sha256:
            raise CheckFailed(
                Fault(str(diff), "is not the diff that it is named by", "delete it, and start the study again")
            )
        git(to, "apply", "--whitespace=nowarn", "-", data=text)
    except OSError as error:
        raise CheckFailed(
            Fault(str(diff), f"cannot be read ({error.strerror or error})", "start the study again")
        ) from error
    except GitFailed as error:
        fault = f"{what} does not apply to commit {program.commit[:12]} ({error})"
        raise CheckFailed(Fault(program.top, fault, "make it there with: git diff > FILE")) from error


def _link(file: Path, to: Path, sha256: str, store: Store) -> None:
    """Have a file that is read in the copy, unless git keeps it or it lies outside of the checkout."""
    _same(file, sha256, Inputs(store.data / "inputs.json"))
    tree = os.path.normpath(to)
    if ".." in to.parts or os.path.lexists(tree):
        return
    try:
        Path(tree).parent.mkdir(parents=True, exist_ok=True)
        Path(tree).symlink_to(os.path.realpath(file))
    except OSError as error:
        raise places.unwritable(Path(tree), error) from error
