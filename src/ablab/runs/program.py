"""What runs of a program stand on: a commit, what the checkout holds beside it, an arm's patch, files that are read.

A state is keyed by content: git's hash of the whole tree as it lies there, so that committing a change redoes nothing and any
edit does. The study's file, its patches and the store are no part of it where they lie in the checkout.
"""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ablab.core.fault import CheckFailed, Fault, Refused
from ablab.core.files import key_of, read_json, write_atomic, write_json
from ablab.core.forms import fits
from ablab.core.inputs import Inputs
from ablab.core.opened import read_whole
from ablab.core.toml import spell
from ablab.records.run import Where
from ablab.records.settings import RunnerSettings
from ablab.runs.store import Store
from ablab.runtime.git import GitFailed, git, line
from ablab.study import runner

if TYPE_CHECKING:
    from ablab.study import Study

REVISION = 1  # of how a program is run
READ_REVISION = 1  # of how its score is read
MOST = 1 << 26  # bytes of files that git neither tracks nor ignores: a diff carries code, not data
ITS_OWN = Where("cpu", "its own", "its own", 0)  # how runs are executed is the program's affair
DIFF = ("diff", "--cached", "--binary", "--full-index", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames",
        "--src-prefix=a/", "--dst-prefix=b/")  # fmt: skip


@dataclass(frozen=True)
class Program:
    """top: the checkout; inside: where in it runs stand; diff, patch: sha256 of texts in the store, "" where there is none.

    tree: git's hash of what lies in the checkout. reads: (name, sha256) of every file, named from the directory.
    """

    top: str
    inside: str
    commit: str
    tree: str
    diff: str
    patch: str
    reads: tuple[tuple[str, str], ...]

    @property
    def directory(self) -> Path:
        """Where names of files that are read begin."""
        return Path(self.top) / self.inside


def run_key(asked: RunnerSettings, program: Program, seed: int) -> str:
    """Make the key of one run of a program: what is run, on which tree and files, from which seed."""
    what = {"argv": runner.argv(asked), "env": runner.variables(asked), "gpus": asked["gpus"], "inside": program.inside}
    state = {"tree": program.tree, "patch": program.patch, "reads": [list(one) for one in program.reads]}
    return key_of({"step": "program", **what, **state, "seed": seed, "revision": REVISION})


def read_key(asked: RunnerSettings, metric: str, *, trained: str, repeats: int = 0) -> str:
    """Make the key of a score: the run's key, and where in its output the number is looked for."""
    again = {"repeats": repeats} if repeats else {}
    return key_of(
        {"step": "read", "train": trained, "log": asked["log"], "metric": metric, "revision": READ_REVISION, **again}
    )


def kept(store: Store, sha256: str) -> Path:
    """Return where the store keeps a diff."""
    return store.root / "programs" / f"{sha256}.diff"


def of_arms(study: Study, store: Store, recall: Callable[[str], None] | None = None) -> dict[str, Program]:
    """Return the state of every arm's checkout as it is now, its diffs and patches kept in the store.

    recall: says so where a checkout cannot be read and its last state that the store knows is taken; without it that is
    refused. CheckFailed for what is no checkout, a missing file, and more than MOST bytes that git does not know.
    """
    folder, programs = study.path.parent.absolute(), dict[str, Program]()
    arms = {name: asked for name, arm in study.with_baseline.items() if (asked := arm.settings.get("runner"))}
    patches = [folder / asked["patch"] for asked in arms.values() if asked["patch"]]
    aside = [study.path.absolute(), store.root, *patches]
    known: dict[str, Program] = {}
    inputs = Inputs(store.data / "inputs.json")
    for name, asked in arms.items():
        directory = Path(os.path.normpath(folder / asked["directory"]))
        what = key_of([str(directory), asked["reads"]])
        if what not in known:
            try:
                known[what] = _state(directory, asked["reads"], aside, store, inputs)
                _remember(store, what, known[what], recall is None)
            except Refused as refused:
                before = _remembered(store, what)
                if recall is None or before is None:
                    raise
                recall(
                    f"note: the program cannot be read ({refused.faults[0]}); its last state that the store knows is taken"
                )
                known[what] = before
        programs[name] = known[what]
        if asked["patch"]:
            programs[name] = Program(
                **{**asdict(known[what]), "reads": known[what].reads, "patch": _patch(folder, asked, store)}
            )
    inputs.save()
    return programs


def of_checkout(directory: Path, reads: Sequence[str], store: Store) -> Program:
    """Return the state of one checkout as it is now, its difference kept in the store. CheckFailed as `of_arms`."""
    inputs = Inputs(store.data / "inputs.json")
    found = _state(Path(os.path.normpath(directory.absolute())), reads, [store.root], store, inputs)
    inputs.save()
    return found


def _state(directory: Path, reads: Sequence[str], aside: Sequence[Path], store: Store, inputs: Inputs) -> Program:
    files = _files(directory, reads)
    try:
        top = line(directory, "rev-parse", "--show-toplevel")
        _within(directory, Path(top), reads)
        commit = line(directory, "rev-parse", "--verify", "HEAD^{commit}")
        inside = line(directory, "rev-parse", "--show-prefix").removesuffix("/")
        own, read = (
            [os.path.relpath(os.path.realpath(one), os.path.realpath(top)) for one in some]
            for some in (aside, [directory / name for name in files])
        )
        tree, diff = _lies(Path(top), own, read)
    except GitFailed as error:
        cure = "give the place of a checkout with a commit: git init && git add -A && git commit"
        raise CheckFailed(Fault(str(directory), f"is no git checkout that can be run ({error})", cure)) from error
    told = tuple((name, inputs.sha256(directory / name)) for name in files)
    return Program(top, inside, commit, tree, keep(store, diff), "", told)


def _lies(top: Path, aside: Sequence[str], read: Sequence[str]) -> tuple[str, bytes]:
    """Return git's hash of all in a checkout that is not ignored, and how it differs from the commit.

    aside: what is no part of either. read: files that runs read, keyed by their own sha256 and so no part of the hash; those
    that git tracks are in the difference all the same, as a copy of the commit would have them as they were. git writes into
    an index and a folder of objects of our own, so that the checkout stays as it is.
    """
    others = _names(git(top, "ls-files", "--others", "--exclude-standard", "-z"))
    tracked = _names(git(top, "ls-files", "-z"))
    every = [*others, *tracked]
    # of those that it ignores git would only complain
    outside = [name for name in (*aside, *read) if any(one == name or one.startswith(f"{name}/") for one in every)]
    changed = set(read).intersection(tracked).difference(aside)
    left_out = [f":(top,exclude,literal){name}" for name in outside if name not in changed]
    new = [one for one in others if not any(one == name or one.startswith(f"{name}/") for name in outside)]
    left_out += [f":(top,exclude,literal){name}" for name in _nested(top, new, read)]
    _bounded(top, new)
    with tempfile.TemporaryDirectory(prefix="ablab.") as own:
        objects = top / line(top, "rev-parse", "--git-path", "objects")
        index = top / line(top, "rev-parse", "--git-path", "index")
        where = {"GIT_INDEX_FILE": f"{own}/index", "GIT_OBJECT_DIRECTORY": f"{own}/objects",
                 "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(objects)}  # fmt: skip
        Path(own, "objects").mkdir()
        if index.is_file():
            # it knows which files have not changed, and by its own time which of them it must not trust
            shutil.copy2(index, f"{own}/index")
        else:
            git(top, "read-tree", "HEAD", where=where)
        git(top, "add", "--all", "--", ":/", *left_out, where=where)
        diff = git(top, *DIFF, "HEAD", where=where)
        if named := [f":(top,literal){name}" for name in outside]:
            git(top, "rm", "-r", "--quiet", "--cached", "--force", "--ignore-unmatch", "--", *named, where=where)
        return line(top, "write-tree", where=where), diff


def _names(said: bytes) -> list[str]:
    """Split names that git says with a zero behind each."""
    return [os.fsdecode(name) for name in said.split(b"\0") if name]


def _nested(top: Path, others: Sequence[str], read: Sequence[str]) -> list[str]:
    """Name repositories within the checkout that have files, of which runs read some. Refuse those of which runs read none.

    Of such a repository git keeps the commit at most: an edit in it would be no other run, and no copy would have its files.
    """
    entries = _names(git(top, "ls-files", "--stage", "-z"))
    links = [one.partition("\t")[2] for one in entries if one.startswith("160000 ")]
    filled = [one for one in links if (top / one).is_dir() and any((top / one).iterdir())]
    found = sorted({*filled, *(one.removesuffix("/") for one in others if one.endswith("/"))})
    if bare := [one for one in found if not any(name.startswith(f"{one}/") for name in read)]:
        fault = f"holds {bare[0]}, a repository of its own: its files are in no key and in no copy of the checkout"
        named = spell(f"{bare[0]}/**/*.py")
        cure = f"name those that runs read (runner.reads = [{named}]), or have git ignore it, or remove it"
        raise CheckFailed(Fault(str(top), fault, cure))
    return found


def _bounded(top: Path, names: Sequence[str]) -> None:
    """Refuse a checkout with more than MOST bytes that git neither tracks nor ignores."""
    sizes = {name: (top / name).lstat().st_size for name in names}
    if sum(sizes.values()) > MOST:
        largest = max(sizes, key=lambda name: sizes[name])
        fault = f"holds {sum(sizes.values()):,} bytes that git neither tracks nor ignores, most of all {largest}"
        cure = "ignore them (.gitignore), and name in runner.reads those that runs read"
        raise CheckFailed(Fault(str(top), fault, cure))


def _files(directory: Path, reads: Sequence[str]) -> list[str]:
    """List every file that the names and patterns stand for, named from the directory."""
    unique = dict[str, None]()
    for pattern in reads:
        here = sorted(glob.glob(pattern, root_dir=directory, recursive=True))  # noqa: PTH207  a Path takes no absolute pattern
        files = [name for name in here if (directory / name).is_file()]
        if not files:
            fault = f"runner.reads names {pattern!r}, and no file is there"
            cure = "prepare the data as the program wants it, or mend the name"
            if here:
                fault, cure = f"runner.reads names {pattern!r}, a folder", f"name its files: {spell(f'{pattern}/**')}"
            raise CheckFailed(Fault(str(directory), fault, cure))
        unique |= dict.fromkeys(os.path.relpath(directory / name, directory) for name in files)
    return list(unique)


def _within(directory: Path, top: Path, reads: Sequence[str]) -> None:
    """Refuse a name that climbs out of the checkout: where a run stands, nothing lies there."""
    for one in reads:
        if not Path(one).is_absolute() and not Path(os.path.normpath(directory.resolve() / one)).is_relative_to(
            top.resolve()
        ):
            fault = f"runner.reads names {one!r}, which leaves the checkout: in a run's copy nothing lies there"
            whole = spell(os.path.normpath(directory / one))
            cure = f"give its whole path, runner.reads = [{whole}], and have the program read it there"
            raise CheckFailed(Fault(str(directory), fault, cure))


def _patch(folder: Path, asked: RunnerSettings, store: Store) -> str:
    path = folder / str(asked["patch"])
    cure = "write it with: git diff > FILE"
    try:
        sha256 = keep(store, read_whole(path, MOST))
    except OSError as error:
        raise CheckFailed(Fault(str(path), f"cannot be read ({error.strerror or error})", cure)) from error
    if not sha256:
        raise CheckFailed(Fault(str(path), "is empty: the arm would be what it is compared with", cure))
    return sha256


def keep(store: Store, text: bytes) -> str:
    """Store a diff and return its sha256; "" of an empty one."""
    if not text.strip():
        return ""
    sha256 = hashlib.sha256(text).hexdigest()
    if not kept(store, sha256).is_file():
        write_atomic(kept(store, sha256), text)
    return sha256


def _remember(store: Store, what: str, state: Program, writes: bool) -> None:
    path = store.root / "programs" / "states.json"
    if writes and _remembered(store, what) != state:
        states = read_json(path) if path.exists() else {}
        write_json(path, {**(states if isinstance(states, dict) else {}), what: asdict(state)})


def _remembered(store: Store, what: str) -> Program | None:
    """Read the last state of a checkout; None where it is not known, or the note is damaged."""
    try:
        kept = read_json(store.root / "programs" / "states.json", form=dict[str, dict[str, str | list[list[str]]]])[
            what
        ]
    except (CheckFailed, KeyError):
        return None
    texts = {key: value for key, value in kept.items() if isinstance(value, str)}
    reads = kept.get("reads")
    if texts.keys() != {"top", "inside", "commit", "tree", "diff", "patch"} or not fits(reads, list[list[str]]):
        return None
    return Program(**texts, reads=tuple((one[0], one[1]) for one in reads if len(one) == 2))
