"""A source of very unequal documents: only short ones are held out, and the held-out text is never mostly one of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.tiny import settings

from ablab.core.fault import InvalidStudy
from ablab.core.inputs import Inputs
from ablab.data import prepare
from ablab.data.corpus.build import prepare_sources
from ablab.data.corpus.split import HELD, TRAIN, scan
from ablab.data.sources.find import Sources
from ablab.data.sources.sources import HoldOut, PythonLibrary, Source
from ablab.runs.corpora import few_documents
from ablab.verdict.documents import FEWEST, effective


def quiet(_: str) -> None:
    pass


@dataclass(frozen=True)
class Made(Source):
    """Documents of given lengths."""

    lengths: tuple[int, ...]
    name: str = "made"

    def describe(self, inputs: Inputs) -> dict[str, Any]:
        return {"source": self.name, "sha256": hashlib.sha256(str(self.lengths).encode()).hexdigest()}

    def documents(self) -> Iterator[tuple[str, str | None]]:
        for number, length in enumerate(self.lengths):
            yield f"{self.name}:{number}", f"{number:06d}".ljust(length, "x")


RULE = HoldOut(longest=100, readier=10)


@dataclass(frozen=True)
class MadeShort(Made):
    held: HoldOut = RULE


SETTINGS = {
    "source": ["made"], "text_field": "text", "valid_source": None, "valid_text_bytes": None, "valid_fraction": 0.01,
    "valid_bytes": 1_000_000, "tokenizer": {"name": "bytes"},
}  # fmt: skip
UNEVEN = tuple(int(x) for x in np.random.default_rng(3).lognormal(4.5, 1.2, 4000) + 7)


def test_long_documents_are_never_held_out_and_short_ones_ten_times_as_readily() -> None:
    roles = scan([MadeShort(UNEVEN)], 0.01, 0, quiet).roles
    long = np.array(UNEVEN) > 100
    assert set(roles[long]) == {TRAIN}
    assert 0.08 < (roles[~long] == HELD).mean() < 0.12
    plain = scan([Made(UNEVEN)], 0.01, 0, quiet).roles
    assert 0.005 < (plain == HELD).mean() < 0.015 and (plain[long] == HELD).any()


def test_membership_hangs_on_the_content_alone() -> None:
    some, more = (scan([MadeShort(x)], 0.01, 0, quiet).roles for x in (UNEVEN[:900], UNEVEN))
    assert (some == more[:900]).all()


def test_a_document_takes_at_most_a_twentieth_of_the_text_asked_for(tmp_path: Path) -> None:
    lengths = []
    for source in (MadeShort(UNEVEN), Made(UNEVEN)):
        made = prepare_sources(Sources(texts=[source]), SETTINGS | {"valid_bytes": 1000}, tmp_path, quiet)
        lengths.append(np.diff(made.valid.starts) - 1)
        assert ("held" in made.manifest["identity"]) == isinstance(source, MadeShort)
    assert lengths[0].max() <= 50 < lengths[1].max()
    assert effective(lengths[0].astype(float)) >= FEWEST > effective(lengths[1].astype(float))


def test_the_default_corpus_is_held_out_in_many_documents() -> None:
    """It was 18, of which one was 57% of the text: an interval over these covered .66, and they count as 2.8."""
    sizes = np.array([len(text.encode()) for _, text in PythonLibrary().documents() if text])
    roles = scan([PythonLibrary()], 0.01, 0, quiet).roles
    held = sizes[roles == HELD].astype(float)
    assert held.max() / held.sum() <= 0.05
    assert effective(held) >= 2 * FEWEST
    assert 0.003 < held.sum() / sizes.sum() < 0.03


def test_few_held_out_documents_are_warned_of(tmp_path: Path) -> None:
    few = prepare_sources(Sources(texts=[Made((40,) * 800)]), SETTINGS, tmp_path, quiet)
    count = len(few.valid)
    assert 2 <= count < FEWEST
    assert few_documents(few).startswith(
        f"warning: the held-out text is {count} documents that count as {count}.0 (the largest is {1 / count:.0%} of it; "
    )
    many = prepare_sources(Sources(texts=[Made((40,) * 4000)]), SETTINGS, tmp_path, quiet)
    assert len(many.valid) >= FEWEST and few_documents(many) == ""


@pytest.mark.parametrize("fraction", [0.1001, 0.3, 0.9])
def test_a_fraction_that_could_hold_out_no_more_is_refused(tmp_path: Path, fraction: float) -> None:
    with pytest.raises(InvalidStudy, match=rf"{fraction:g} holds out no more than 0\.1: .*; set it to 0\.1 or less"):
        prepare(settings("python", valid_fraction=fraction), tmp_path, print)
