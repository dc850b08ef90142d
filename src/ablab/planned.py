"""A study made concrete: its runs, under which keys their steps lie, and how they are executed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablab.store import Store, Where
from ablab.verdict import Documents, RunScore

if TYPE_CHECKING:
    from ablab.data import Corpus
    from ablab.study import Arm, Study

BASELINE = "baseline"


@dataclass(frozen=True)
class Run:
    """One arm at one seed: its settings, the key of its training and the key of each of its stages, in file order."""

    arm: str
    seed: int
    settings: dict[str, Any]
    corpus: Path
    train_key: str
    score_keys: dict[str, str]
    study: str = ""  # with its scale; what dashboards show before arm and seed
    weights: str = ""  # sha256 of the file that they are taken from, where they were trained elsewhere

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

    @property
    def directory(self) -> Path:
        """Where the study's own files lie."""
        return self.store.study(self.study.name, self.study.scale)

    @property
    def seeds(self) -> list[int]:
        """Every seed that may be used, in the declared order."""
        return seeds(self.study)

    @property
    def stages(self) -> list[str]:
        """Stage names in file order."""
        return list(self.study.baseline.settings["stage"])

    def corpus(self, run: Run) -> Corpus:
        return self.corpora[run.corpus.name]

    def metric(self, run: RunScore) -> float:
        """The deciding metric of a finished run."""
        value = run.stages[self.study.decision["stage"]]
        return value.metric(self.study.decision["metric"]) if isinstance(value, Documents) else value


def seeds(study: Study) -> list[int]:
    """Every seed that the study may use: probe seeds first, then those of the looks."""
    declared = study.decision["seeds"]
    return [declared["first"] + i for i in range(declared["probe"] + declared["at_most"])]


def arms(study: Study) -> dict[str, Arm]:
    """The baseline and every arm, baseline first."""
    return {BASELINE: study.baseline, **study.arms}
