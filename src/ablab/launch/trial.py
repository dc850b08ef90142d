"""One change of a checkout, tried: is the program better with it? A study of two arms, made and run by one call.

The baseline is the tree that is committed, the candidate that tree with the change in it. Both are keyed by content, so that a
trial that is made again takes the runs that there are, and so does the next one on a candidate that was kept and committed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

from ablab.core.fault import CheckFailed, Fault, Interrupted, InvalidStudy, Refused
from ablab.core.files import key_of, write_atomic
from ablab.core.opened import read_whole
from ablab.core.toml import spell
from ablab.launch.study import GivenUp, Lab
from ablab.records.answer import ArmAnswer
from ablab.report.judged import Judged
from ablab.runs import program, tree
from ablab.runs.program import MOST, Program
from ablab.runs.store import Store
from ablab.runtime.git import line
from ablab.runtime.lock import locked
from ablab.study.placeholders import SEED, says

CANDIDATE, BASE = "candidate", "baseline"
OPEN = "not settled"
START = 3  # seeds before the first look, as in a study
_OPTIONS = {"runner.log": "--log", "runner.command": "COMMAND", "runner.reads": "--reads", "runner.timeout": "--timeout",
            "runner.directory": "--directory", "decision.metric": "--metric", "decision.matters": "--matters",
            "decision.confidence": "--alpha", "decision.seeds": "--seeds"}  # fmt: skip


@dataclass(frozen=True)
class Attempt:
    """What is tried, and by which rule.

    command: words, {seed} and {out} in them stand for a run's seed and folder. log: as `runner.log` of a study. patch: a diff
    that git takes; None is what the checkout holds beside its commit. seeds: of each side, at most. matters: the smallest
    difference that does, in the metric.
    """

    command: tuple[str, ...]
    log: str | dict[str, object]
    matters: float
    metric: str = "val_loss"
    lower: bool = True
    directory: Path = Path()
    patch: Path | None = None
    reads: tuple[str, ...] = ()
    timeout: str | None = None
    seeds: int = 8
    first_seed: int = 0
    alpha: float = 0.05
    out: Path = Path("runs")


class Tried(TypedDict):
    """What came out. word: of the candidate, or `not settled` where time ended first; better: whether to keep it.

    delta: candidate minus baseline in the metric as it is printed, with its interval. seeds: pairs that stand behind it.
    exploratory: why the word is not to be relied on as it stands; faults: runs that were given up.
    """

    trial: str
    better: bool
    word: str
    said: str
    metric: str
    delta: float | None
    low: float | None
    high: float | None
    p: float | None
    seeds: int
    matters: float
    alpha: float
    exploratory: str | None
    faults: list[str]
    commit: str
    patch: str
    seconds: float
    study: str
    page: str


def trial(
    asked: Attempt, *, budget: float | None = None, jobs: int | None = None, say: Callable[[str], None] = print
) -> Tried:
    """Run seed after seed of both sides until the word is settled, the seeds are used, or `budget` seconds have passed.

    Raises InvalidStudy for what cannot be asked; CheckFailed for no checkout, no change, a change that does not apply;
    Interrupted at a signal, where the same call goes on.
    """
    began = time.monotonic()
    store = Store(asked.out)
    with _in_words_of_options():
        if not any(says(word, SEED) for word in asked.command):
            fault = f"never says {SEED}: every seed would be the same run"
            cure = (
                f"write it as the program takes its seed (--seed={SEED}, env SEED={SEED} PROGRAM), or give --seed-arg"
            )
            raise InvalidStudy(Fault("COMMAND", fault, cure))
        base, patch = _sides(asked, store)
        name = _name(asked, base, patch)
        folder = store.root / "trials" / name
        with locked(folder), _checkouts(asked, base, patch, folder, store):
            text = _study(asked, name, base, patch)
            write_atomic(folder / "study.toml", text)
            lab, faults = Lab(folder / "study.toml", out=asked.out), tuple[Fault, ...]()
            try:
                left = None if budget is None else max(0.0, budget - (time.monotonic() - began))
                judged = lab.run(jobs=jobs, until=left, say=say)
            except GivenUp as some:
                judged, faults = some.judged, some.faults
            except Interrupted:
                if budget is None or time.monotonic() - began < budget:
                    raise
                judged = lab.report(recall=say)
    found = _tried(asked, judged, base, patch)
    return {
        **found, "faults": [str(in_options(one)) for one in faults], "study": str(folder / "study.toml"),
        "seconds": time.monotonic() - began,
    }  # fmt: skip


def _sides(asked: Attempt, store: Store) -> tuple[Program, str]:
    """Find the committed tree, and the change as the store keeps it. CheckFailed where there is none."""
    stands = program.of_checkout(asked.directory, asked.reads, store)
    patch, place = stands.diff, str(asked.directory)
    cure = "edit the checkout (files that git ignores do not count), or give --patch FILE"
    if asked.patch is not None:
        place, cure = str(asked.patch), "write it with: git diff > FILE"
        try:
            patch = program.keep(store, read_whole(asked.patch, MOST))
        except OSError as error:
            raise CheckFailed(Fault(place, f"cannot be read ({error.strerror or error})", cure)) from error
    if not patch:
        what = "is empty" if asked.patch else "holds what is committed and nothing else"
        raise CheckFailed(Fault(place, f"{what}: there is nothing to try", cure))
    return replace(stands, diff=""), patch


def _name(asked: Attempt, base: Program, patch: str) -> str:
    """Name the question: what is changed of which tree, how it is run and scored. Not by which rule: whoever changes that asks
    again what was asked, and the record of decisions knows it."""
    committed = line(Path(base.top), "rev-parse", f"{base.commit}^{{tree}}")
    what = [committed, base.inside, patch, asked.command, base.reads, asked.metric, asked.lower]
    return f"trial-{key_of(what)[:12]}"


@contextlib.contextmanager
def _checkouts(asked: Attempt, base: Program, patch: str, folder: Path, store: Store) -> Iterator[None]:
    """Make the two checkouts that runs are copies of, for as long as the block takes. The user's own is left alone."""
    try:
        for side, change in ((BASE, ""), (CANDIDATE, patch)):
            tree.drop(folder / side)
            try:
                tree.make(replace(base, patch=change), folder / side, store)
            except CheckFailed as error:
                if asked.patch is None or not change:
                    raise
                raise CheckFailed(
                    Fault(str(asked.patch), one.fault, "make it of what is committed there: git diff > FILE")
                    for one in error.faults
                ) from error
            # what is read is no change of either side, whether git would ignore them or not
            every = [os.path.normpath(Path(base.inside) / name) for name, _ in base.reads]
            names = [name for name in every if not name.startswith("..")]
            write_atomic(folder / side / ".git" / "info" / "exclude", "".join(f"/{_literal(one)}\n" for one in names))
        yield
    finally:
        for side in (BASE, CANDIDATE):
            tree.drop(folder / side)


def _literal(name: str) -> str:
    """Write a path as a pattern of git's that only it matches."""
    return re.sub(r"([\\*?\[\] #!])", r"\\\1", name)


def _study(asked: Attempt, name: str, base: Program, patch: str) -> str:
    """Write the study that is run."""
    inside = f"/{base.inside}" if base.inside else ""
    reads = [os.path.relpath(one, base.directory) if Path(one).is_relative_to(base.top) else one for one in asked.reads]
    lines = [
        "# Written by `ablab trial`, whose checkouts lie here while it runs; the same command goes on with it.",
        "[study]",
        f"name = {spell(name)}",
        f"question = {spell(f'Is it better with the change than without, on commit {base.commit[:12]}?')}",
        "[decision]",
        f"metric = {spell(asked.metric)}",
        f"lower = {spell(asked.lower)}",
        f"matters = {float(asked.matters)!r}",
        f"confidence = {round(1 - asked.alpha, 12)!r}",
        f"seeds = {{ start = {min(START, asked.seeds)}, at_most = {asked.seeds}, first = {asked.first_seed} }}",
        "[runner]",
        f"command = {spell(shlex.join(asked.command))}",
        f"directory = {spell(BASE + inside)}",
        f"log = {spell(asked.log)}",
        *([f"reads = {spell(reads)}"] if reads else []),
        *([f"timeout = {spell(asked.timeout)}"] if asked.timeout else []),
        f"[arm.{CANDIDATE}]",
        f"runner.directory = {spell(CANDIDATE + inside)}",
        f"because = {spell(f'the change whose sha256 begins with {patch[:12]}')}",
    ]
    return "\n".join(lines) + "\n"


def _tried(asked: Attempt, judged: Judged, base: Program, patch: str) -> Tried:
    """Read the answer off the verdict."""
    [row] = [arm for arm in judged.answer["arms"] if arm["name"] == CANDIDATE]
    given = row["word"] if row["word"] not in (None, "waiting") else OPEN
    word = OPEN if given == "inconclusive" and judged.answer["decided_by"] == "not finished" else given
    delta, low, high = row["delta"], row["low"], row["high"]
    if not asked.lower:
        delta, low, high = (None if one is None else -one for one in (delta, high, low))
    exploratory = row["record"]["because"] if "record" in row and row["record"]["kind"] == "exploratory" else None
    return {
        "trial": judged.answer["study"], "better": word == "better" and (exploratory is None or _pooled_better(row)),
        "word": str(word), "said": judged.answer["sentence"], "metric": asked.metric, "delta": delta, "low": low,
        "high": high, "p": row["p"], "seeds": row["seeds"], "matters": asked.matters, "alpha": asked.alpha,
        "exploratory": exploratory, "faults": [], "commit": base.commit, "patch": patch, "seconds": 0.0, "study": "",
        "page": str(judged.page),
    }  # fmt: skip


def _pooled_better(row: ArmAnswer) -> bool:
    """Tell whether all seeds ever run for it, their error shared out over the rules they were asked by, say so, too."""
    pooled = row.get("pooled")
    return pooled is not None and pooled["word"] == "better"


@contextlib.contextmanager
def _in_words_of_options() -> Iterator[None]:
    """Have what is refused within the block name the options of a trial, not the keys of the study that it writes."""
    try:
        yield
    except Refused as refused:
        refused.faults = tuple(map(in_options, refused.faults))
        refused.args = ("\n".join(map(str, refused.faults)),)
        raise


def in_options(fault: Fault) -> Fault:
    """Put a fault of the written study in the words of whoever wrote none."""
    texts = [fault.place.removeprefix("study.toml: "), fault.fault, fault.cure]
    for key, option in _OPTIONS.items():
        texts = [text.replace(f"{key} = ", f"{option} ").replace(key, option) for text in texts]
    return Fault(*texts)
