"""A clean copy of a checkout for one run: the commit, what the study's checkout held beside it, then the arm's patch."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from ablab.core import places
from ablab.core.fault import CheckFailed, Fault
from ablab.core.files import sha256_file
from ablab.core.inputs import Inputs
from ablab.core.opened import opened, read_whole
from ablab.runs.program import MOST, Program, kept
from ablab.runs.store import Store
from ablab.runtime.git import GitFailed, git

SMALL = 1 << 24  # bytes up to which a file that is read is copied for each run


def make(program: Program, to: Path, store: Store) -> Path:
    """Make the copy in the folder `to`, which may not be there; returns where a run stands in it.

    It is a repository of its own that borrows the checkout's objects: nothing in the checkout changes, and removing the
    folder is all there is to clean. It has no remotes: what pushes or pulls finds nothing. Files that are read and git does
    not keep are copies, large ones links to the store's own copy: what a program writes never reaches the user's files.

    CheckFailed where the checkout or a file is gone or changed, the patch does not apply, or changes nothing.
    """
    places.folder(to.parent)
    top = Path(program.top)
    try:
        git(top, "clone", "--quiet", "--shared", "--no-checkout", "--origin", "user", "--", program.top, str(to))
        git(to, "remote", "remove", "user")
        git(to, "checkout", "--quiet", "--detach", program.commit)
    except GitFailed as error:
        fault = f"cannot be copied at its commit {program.commit[:12]} ({error})"
        raise CheckFailed(Fault(program.top, fault, "put the commit back, or start the study again")) from error
    if program.diff:
        _apply(to, kept(store, program.diff), program.diff, "what it held beside its commit", program)
    if program.patch:
        before = _lies(to)
        _apply(to, kept(store, program.patch), program.patch, "the arm's patch", program)
        if _lies(to) == before:
            fault = f"the arm's patch changes nothing of commit {program.commit[:12]}"
            raise CheckFailed(Fault(program.top, fault, "put the change into it: git diff > FILE"))
    here = to / program.inside
    for name, sha256 in program.reads:
        _give(program.directory / name, Path(os.path.normpath(here / name)), to, sha256, store)
    return here


def _lies(tree: Path) -> bytes:
    """Return git's hash of all that lies in a copy; its own index is left alone."""
    with tempfile.TemporaryDirectory(prefix="ablab.") as own:
        where = {"GIT_INDEX_FILE": f"{own}/index"}
        try:
            git(tree, "add", "--all", "--force", where=where)
            return git(tree, "write-tree", where=where)
        except GitFailed as error:
            fault = f"cannot be compared before and behind the arm's patch ({error})"
            raise CheckFailed(Fault(str(tree), fault, "make room there, or mend the patch; then run again")) from error


def drop(tree: Path) -> None:
    """Remove a copy; what it links to stays."""
    shutil.rmtree(tree, ignore_errors=True)


def unchanged(program: Program, store: Store) -> None:
    """Refuse a file that a run could reach as others do, and that is no longer the one that they were keyed by.

    Those are files outside of the checkout and the store's own copies; one of these that was written through is made again.
    """
    inputs = Inputs(store.data / "inputs.json")
    for name, sha256 in program.reads:
        own = _own(store, sha256)
        if _outside(program, name):
            _same(program.directory / name, sha256, inputs)
        elif own.is_file() and inputs.sha256(own) != sha256:
            own.unlink(missing_ok=True)
            fault = f"was written to by a run, through the link {name} in its copy of the checkout"
            cure = "have the program write elsewhere, below {out}; your own file is as it was"
            raise CheckFailed(Fault(str(own), fault, cure))
    inputs.save()


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


def _outside(program: Program, name: str) -> bool:
    """Tell whether a file that is read lies outside of the checkout, where runs read it in its place."""
    return os.path.normpath(Path(program.inside) / name).startswith("..")


def _own(store: Store, sha256: str) -> Path:
    """Return where the store keeps its own copy of a large file that runs read."""
    return store.root / "reads" / sha256


def _give(file: Path, to: Path, tree: Path, sha256: str, store: Store) -> None:
    """Have a file that is read in the copy, unless git keeps it or it lies outside of the checkout."""
    inputs = Inputs(store.data / "inputs.json")
    _same(file, sha256, inputs)
    if not to.is_relative_to(tree) or os.path.lexists(to):
        return
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        if file.stat().st_size <= SMALL:
            _copied(file, to, sha256)
            return
        own = _own(store, sha256)
        if not own.is_file() or inputs.sha256(own) != sha256:  # a run that was stopped may have written to it
            beside = places.folder(own.parent) / f"{sha256}.{os.getpid()}"
            _copied(file, beside, sha256)
            beside.chmod(0o444)
            beside.replace(own)
        to.symlink_to(own.absolute())
        inputs.save()
    except OSError as error:
        raise places.unwritable(to, error) from error


def _copied(file: Path, to: Path, sha256: str) -> None:
    """Copy a file, sharing its blocks where the disk can (`cp --reflink` is that call)."""
    FICLONE = 0x40049409
    with opened(file) as old, to.open("wb") as new:
        try:
            fcntl.ioctl(new.fileno(), FICLONE, old.fileno())
        except OSError:
            shutil.copyfileobj(old, new, 1 << 20)
    if sha256_file(to) != sha256:
        to.unlink()
        raise CheckFailed(Fault(str(file), "changed after the runs were planned", "start the study again"))
