"""What files of weights that were trained elsewhere hold, by sha256; of files that are gone, what they have held."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ablab.core.fault import CheckFailed, Refused
from ablab.core.files import read_json, write_json
from ablab.core.forms import fits
from ablab.core.inputs import Inputs
from ablab.records.run import Where
from ablab.records.settings import Settings
from ablab.runs.store import Store, train_key
from ablab.training.adopt.strange import weights_at


class Contents:
    """Contents by file, remembered in the store: results lie under them, and outlive the files.

    recall: says so where a file cannot be read and what it held before is taken; without it that is refused.
    """

    def __init__(self, store: Store, recall: Callable[[str], None] | None = None) -> None:
        self.store, self.recall = store, recall
        self._inputs, self._path = Inputs(store.data / "inputs.json"), store.data / "weights.json"
        self._known = _load(self._path)
        self._read: dict[str, str] = {}
        self._gone: dict[str, list[str]] = {}

    def of(self, file: str) -> list[str]:
        """Hash the file (sha256); of an unreadable one, where `recall`, all that it held in this store, the last first."""
        if file in self._gone:
            return self._gone[file]
        try:
            if file not in self._read:  # arms share files
                self._read[file] = self._inputs.sha256(weights_at(Path(file)))
            return [self._read[file]]
        except Refused as refused:
            held = self._known.get(file, [])
            if self.recall is None or not held:
                raise
            self.recall(f"note: weights cannot be read ({refused.faults[0]}); what the store has of them stands")
            self._gone[file] = held[::-1]
            return self._gone[file]

    def key(self, settings: Settings, *, corpus: str, seed: int, where: Where) -> tuple[str, str]:
        """Return the key of a training, and the sha256 of the file whose weights it takes ("" where it takes none).

        Of several contents that a file had, the one of a finished training, else the last.
        """
        files = settings["train"]["weights"]
        if not files:
            return train_key(settings, corpus=corpus, seed=seed, where=where), ""
        [file] = files
        keyed = [
            (train_key(settings, corpus=corpus, seed=seed, where=where, weights=one), one) for one in self.of(file)
        ]
        return next((one for one in keyed if (self.store.train(one[0]) / "done.json").is_file()), keyed[0])

    def save(self) -> None:
        """Remember what was read, unless this only recalls: who reads makes nothing of it."""
        self._inputs.save()
        if self.recall is not None:
            return
        known = _load(self._path)
        new = {file: one for file, one in self._read.items() if known.get(file, [])[-1:] != [one]}
        if new:
            told = {file: [*(old for old in known.get(file, []) if old != one), one] for file, one in new.items()}
            write_json(self._path, known | told)


def _load(path: Path) -> dict[str, list[str]]:
    """Load the memo; nothing where it is lost or damaged, and then files that are gone cannot be recalled."""
    try:
        memo = read_json(path)
    except CheckFailed:
        return {}
    return memo if fits(memo, dict[str, list[str]]) else {}
