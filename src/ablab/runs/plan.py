"""A study on a store and a machine, every run keyed: `ablab.runs.planning` makes one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ablab.core.fault import CheckFailed, Fault, InvalidStudy, did_you_mean
from ablab.core.files import read_json
from ablab.core.forms import fits
from ablab.records.run import FailedRun, Where
from ablab.records.settings import Settings
from ablab.runs.program import Program
from ablab.runs.store import Store
from ablab.verdict.evidence import DocumentScores, RunScore

if TYPE_CHECKING:
    from ablab.data import Corpus
    from ablab.model.decoder import Decoder
    from ablab.study import Study

T = TypeVar("T")
Stamp = tuple[int, int, int]  # inode, size and time: a file written anew has another one, for it is another file


@dataclass(frozen=True)
class Run:
    """One arm at one seed: its settings, the key of its training and the key of each of its stages, in file order."""

    arm: str
    seed: int
    settings: Settings
    corpus: Path
    train_key: str
    score_keys: dict[str, str]
    study: str = ""  # with its scale; what dashboards show before arm and seed
    weights: str = ""  # sha256 of the file that they are taken from, where they were trained elsewhere
    levers: dict[str, str] = field(default_factory=dict)  # from outside the package: where they lie, and their sha256
    program: Program | None = None  # what it stands on, where it is a run of a program that is not ours
    metric: str = ""  # of such a run: the one score that it has
    repeats: int = 0  # and how often it is made once more, under the same seed

    @property
    def called(self) -> str:
        """`study/arm/seed`: the name of the run for people; its keys are for the store."""
        return f"{self.study}/{self.arm}/{self.seed}"

    @property
    def steps(self) -> set[str]:
        """Keys of everything that it makes: its training and its stages."""
        return {self.train_key, *self.score_keys.values()}


@dataclass(frozen=True)
class Plan:
    """A study made concrete on one store and one machine: corpora prepared, execution resolved, every run keyed."""

    study: Study
    store: Store
    where: Where
    corpora: dict[str, Corpus]
    runs: dict[tuple[str, int], Run]
    per_run: int = 1  # processes that make one run together
    _decoders: dict[str, Decoder] = field(default_factory=dict, compare=False, repr=False)
    _counted: dict[tuple[str, str], Any] = field(default_factory=dict, compare=False, repr=False)
    _seen: dict[tuple[str, str], Any] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    def directory(self) -> Path:
        """Where the study's own files lie."""
        return self.store.study(self.study.name, self.study.scale)

    @property
    def seeds(self) -> list[int]:
        """Every seed that may be used, in the declared order."""
        return self.study.seeds

    @property
    def stages(self) -> list[str]:
        """Stage names in file order."""
        return list(self.study.baseline.settings["stage"])

    def corpus(self, run: Run) -> Corpus:
        return self.corpora[run.corpus.name]

    def trained(self, arm: str, seed: int | None, cure: str) -> Run:
        """Return the arm's run under `seed`, or the first that is trained; `cure`: what to do where none is.

        Raises InvalidStudy for an arm or a seed that the study has not, CheckFailed where nothing is trained.
        """
        known = list(self.study.with_baseline)
        if arm not in known:
            raise InvalidStudy(Fault(self.study.path.name, f"no arm is called '{arm}'", did_you_mean(arm, known)))
        if seed is not None and seed not in self.seeds:
            listed = ", ".join(map(str, self.seeds))
            raise InvalidStudy(Fault(self.study.path.name, f"{seed} is none of its seeds", f"known: {listed}"))
        for each in self.seeds if seed is None else [seed]:
            done = self.store.trained(self.runs[arm, each].train_key)
            if done and done["status"] == "done":
                return self.runs[arm, each]
            if done and seed is not None:
                fault = f"has no weights: it {done['status']}"
                raise CheckFailed(Fault(f"{arm}, seed {seed}", fault, "choose another seed"))
        which = "no seed is" if seed is None else f"seed {seed} is not"
        raise CheckFailed(Fault(f"{self.study.path.name}: {arm}", f"{which} trained yet", cure))

    def decoder(self, arm: str) -> Decoder:
        """Build an arm's decoder on the meta device: names and sizes for whoever counts. Made once, so nobody changes it."""
        from ablab.model.decoder import skeleton

        if arm not in self._decoders:
            run = self.runs[arm, self.seeds[0]]
            self._decoders[arm] = skeleton(run.settings["model"], vocab_size=self.corpus(run).vocab_size)
        return self._decoders[arm]

    def counted(self, what: str, arm: str, make: Callable[[], T]) -> T:
        """Return what `make` gives of an arm's settings alone, made once."""
        return _once(self._counted, what, arm, make)

    def seen(self, what: str, arm: str, make: Callable[[], T]) -> T:
        """Return what `make` gives of an arm's runs: made once in a look, within which nothing of the store changes."""
        return _once(self._seen, what, arm, make) if isinstance(self.store, Look) else make()

    def look(self, kept: Readings | None = None) -> Plan:
        """Return the plan on its store as it is, each record read once (`Look`); keeps what earlier looks read."""
        if isinstance(self.store, Look):
            return self
        return replace(self, store=Look(self.store.root, kept or Readings()))

    def failures(self) -> list[FailedRun]:
        """List the runs of this plan given up for infrastructure.

        `failed.json` lies under the study's name, which an edited study has too: rows of runs with other keys are not meant.
        """
        given_up = (row for row in self.every_failure() if (row["arm"], row["seed"]) in self.runs)
        return [row for row in given_up if set(row.get("keys", ())) == self.runs[row["arm"], row["seed"]].steps]

    def every_failure(self) -> list[FailedRun]:
        """List the runs given up under the study's name, whatever their keys."""
        path = self.directory / "failed.json"
        rows: object = read_json(path) if path.exists() else []
        if not fits(rows, list[FailedRun]):
            raise CheckFailed(Fault(str(path), "does not hold a list of runs", "delete it to have them tried again"))
        return rows

    def metric(self, run: RunScore) -> float:
        """Return the deciding metric of a finished run."""
        value = run.stages[self.study.decision["stage"]]
        return value.metric(self.study.decision["metric"]) if isinstance(value, DocumentScores) else value


def _once(known: dict[tuple[str, str], Any], what: str, arm: str, make: Callable[[], T]) -> T:
    if (what, arm) not in known:
        known[what, arm] = make()
    value: T = known[what, arm]
    return value


class Readings:
    """What earlier looks have read, by file; taken again while the file is the same. Looks of several threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], tuple[Stamp, Any]] = {}

    def get(self, path: str, what: str, stamp: Stamp, reader: Callable[[Path], T]) -> T:
        """Return what `reader` gives of the file `path`, or gave for another look. What it raises is not kept."""
        with self._lock:  # one reads, and whoever waits takes what it read
            known = self._known.get((path, what))
            if known is None or known[0] != stamp:
                known = self._known[path, what] = (stamp, reader(Path(path)))
            value: T = known[1]
            return value


@dataclass(frozen=True)
class Look(Store):
    """A store at one moment. Its records are shared by all who ask: nobody writes into them.

    kept: what looks before this one have read; by default nothing, and all of it is read from the files.
    """

    kept: Readings = field(default_factory=Readings, compare=False, repr=False)
    _stamps: dict[str, Stamp | None] = field(default_factory=dict, init=False, compare=False, repr=False)
    _seen: dict[tuple[str, str], Any] = field(default_factory=dict, init=False, compare=False, repr=False)

    def since(self, path: str) -> float | None:
        stamp = self._stamp(path)
        return None if stamp is None else stamp[2] / 1e9

    def once(self, path: str, what: str, reader: Callable[[Path], T]) -> T | None:
        if (path, what) not in self._seen:
            stamp = self._stamp(path)
            self._seen[path, what] = None if stamp is None else self.kept.get(path, what, stamp, reader)
        value: T | None = self._seen[path, what]
        return value

    def _stamp(self, path: str) -> Stamp | None:
        """Return the stamp, or None of a file that was not there when this look first asked for it."""
        if path not in self._stamps:
            self._stamps[path] = None
            with suppress(FileNotFoundError, NotADirectoryError):
                of = os.stat(path)  # noqa: PTH116  a text, thousands of times: a Path takes longer than the look
                self._stamps[path] = (of.st_ino, of.st_size, of.st_mtime_ns)
        return self._stamps[path]
