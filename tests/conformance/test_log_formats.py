"""Every format that is read: its own sample gives its runs, and no change of it makes a reader raise."""

from __future__ import annotations

import math
import random
import re
from pathlib import Path

import pytest
from tests.faults.fuzz import bytes_changed
from tests.logged import SAMPLES

from ablab.judging.logs.formats import FORMATS, Format, from_text, read
from ablab.judging.logs.text import Text
from ablab.records.log import LoggedRun

BY_NAME = {one.name: one for one in FORMATS}


def test_every_format_has_a_name_of_its_own_and_a_sample() -> None:
    assert len(BY_NAME) == len(FORMATS) and SAMPLES.keys() == BY_NAME.keys()


def test_every_format_stands_on_its_page() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "file_formats.md").read_text(encoding="utf-8")
    rows = page.partition("## Runs of other programs")[2].splitlines()
    listed = [name for row in rows if row.startswith("| `") for name in re.findall(r"`([^`]+)`", row.split("|")[1])]
    assert sorted(listed) == sorted(BY_NAME)


@pytest.mark.parametrize("name", SAMPLES)
def test_its_sample_is_read_by_itself(name: str, tmp_path: Path) -> None:
    """Through the file's name, before every other format, with every run and no number that is none."""
    sample = SAMPLES[name]
    (path := tmp_path / sample.name).parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(sample.data)
    reading = read(path)
    assert (reading.reader, len(reading.runs)) == (name, sample.runs)
    for run in reading.runs:
        sound(run)


@pytest.mark.parametrize("name", SAMPLES)
def test_no_cut_and_no_change_of_it_raises(name: str) -> None:
    """By its own reader and by those of all formats: what is left of a file may look like anything."""
    sample, draw = SAMPLES[name], random.Random(name)
    cuts = [sample.data[: draw.randrange(len(sample.data) + 1)] for _ in range(60)]
    changed = [bytes_changed(sample.data, draw) for _ in range(120)]
    lines = sample.data.split(b"\n")
    shuffled = [b"\n".join(draw.sample(lines, len(lines))) for _ in range(20)]
    for data in [b"", b"\n", *cuts, *changed, *shuffled]:
        text = Text(Path(sample.name), data)
        for run in BY_NAME[name].read(text):
            sound(run)
        for run in from_text(Text(Path(sample.name), data)).runs:
            sound(run)


@pytest.mark.parametrize("one", FORMATS, ids=lambda one: one.name)
def test_it_takes_the_samples_of_others_for_what_they_are(one: Format) -> None:
    """A reader that is handed another format's file may find nothing in it or something, and does not raise."""
    for sample in SAMPLES.values():
        for run in one.read(Text(Path(sample.name), sample.data)):
            sound(run)


def sound(run: LoggedRun) -> None:
    """What holds of every run, whatever was in the file."""
    assert (run.stages or run.lost) and run.line >= 1 and 1 <= run.number <= run.of and run.reader in BY_NAME
    for label, level in run.stages.items():
        told = [one for one in (level.nats, level.bpb, level.value) if one is not None]
        assert label and told and all(math.isfinite(one) for one in told)
        assert all(loss > 0 for loss in (level.nats, level.bpb) if loss is not None)
        assert level.digits >= 0 and level.line >= 1
    counts = (run.seed, run.seed_in_name, run.code_bytes, run.bytes, run.val_tokens, run.shards, run.steps, run.tokens)
    assert all(one is None or one >= 0 for one in counts)
