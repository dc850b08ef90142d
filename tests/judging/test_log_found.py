"""The score of a run in what its program left, whichever way it is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests import logged

from ablab.judging.logs import golf, nanogpt
from ablab.judging.logs.found import NoScore, Score, score
from ablab.judging.logs.text import Text
from ablab.records.settings import LogSettings

NOTHING: LogSettings = {"reader": None, "stage": None, "regex": None, "last": True, "field": None, "file": None}
LOSSES = "step 1: val loss 3.10\nother\nstep 2: val loss 2,050.5 ok\nstep 3: val loss 1.9e-1\n"


def by(tmp_path: Path, text: str, metric: str = "val_loss", **how: object) -> Score:
    file = tmp_path / "stdout.txt"
    file.write_text(text)
    readers = {"nanogpt": nanogpt.read, "golf": golf.read}
    log = LogSettings(**{**NOTHING, **how})  # type: ignore[typeddict-item]
    return score(log, metric, file, readers.get(str(how.get("reader"))))


WAYS: tuple[dict[str, object], ...] = ({"reader": "nanogpt"}, {"regex": r"val loss ([\d.]+)"}, {"field": "val_loss"})
SAID = ("step 1: train loss 1.5000, val loss 1.2345\n", '{"val_loss": 1.2345}\n')


def of_bytes(tmp_path: Path, data: bytes, how: dict[str, object]) -> Score:
    file = tmp_path / "stdout.txt"
    file.write_bytes(data)
    log = LogSettings(**{**NOTHING, **how})  # type: ignore[typeddict-item]
    return score(log, "val_loss", file, nanogpt.read if "reader" in how else None)


@pytest.mark.parametrize("how", WAYS, ids=lambda how: next(iter(how)))
@pytest.mark.parametrize(
    "turn",
    [
        lambda text: b"\xff\xfe" + text.encode("utf-16-le"),
        lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
        lambda text: text.encode("utf-16-le"),
        lambda text: text.encode("utf-16-be"),
        lambda text: text.encode("utf-32"),
        lambda text: b"\xff\xfe" + text.encode("utf-16-le") + b"x",
        lambda text: b"\xff\xfe" + ("\ud800\n" + text).encode("utf-16-le", "surrogatepass"),
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: ("\ud800\n" + text).encode("utf-8", "surrogatepass"),
        lambda text: b"\0\0\n" + text.encode() + b"\0",
        lambda text: "\u00e9\n".encode("latin-1") + text.encode(),
    ],
)
def test_a_score_is_read_in_whatever_writing_the_log_is(
    tmp_path: Path, how: dict[str, object], turn: Callable[[str], bytes]
) -> None:
    assert of_bytes(tmp_path, turn(SAID["field" in how]), how).value == 1.2345


@pytest.mark.parametrize("how", WAYS, ids=lambda how: next(iter(how)))
def test_what_is_no_text_is_named_as_that(tmp_path: Path, how: dict[str, object]) -> None:
    with pytest.raises(NoScore, match="holds zeros, as no text in UTF-8 or UTF-16 does, and no score"):
        of_bytes(tmp_path, bytes(range(256)) * 40, how)


def test_of_lines_that_match_the_last_or_the_first_counts(tmp_path: Path) -> None:
    last = by(tmp_path, LOSSES, regex=r"val loss ([\d.e,-]+)")
    assert (last.value, last.line, last.text, last.digits) == (0.19, 4, "1.9e-1", 2)
    first = by(tmp_path, LOSSES, regex=r"val loss ([\d.e,-]+)", last=False)
    assert (first.value, first.line, first.digits, first.echo_digits) == (3.10, 1, 2, 3)
    assert by(tmp_path, LOSSES.split("step 3")[0], regex=r"val loss ([\d.,]+)").value == 2050.5


@pytest.mark.parametrize("word", ["nan", "NaN", "inf", "-inf", "Infinity"])
def test_a_number_that_is_none_is_found_where_a_number_would_be(tmp_path: Path, word: str) -> None:
    for regex in (r"val loss ([\d.]+)", r"val loss (\S+)"):
        found = by(tmp_path, f"val loss 3.1\nval loss {word}\n", regex=regex)
        assert found.value is None and found.line == 2
    healthy = f"val loss 3.1, gradient {word}\n"  # elsewhere in the line it says nothing of the score
    assert by(tmp_path, healthy, regex=r"val loss ([\d.]+)").value == 3.1
    assert by(tmp_path, f'{{"loss": "{word}"}}', field="loss").value is None


def test_a_reader_gives_the_stage_by_its_label_or_its_meaning(tmp_path: Path) -> None:
    assert by(tmp_path, logged.NANOGPT, reader="nanogpt").value == 1.7270
    text = logged.SAMPLES["golf"].data.decode()
    with pytest.raises(
        NoScore, match=r"holds scores of 'val', .*; choose one: runner.log = \{ reader = \"golf\", stage = "
    ):
        by(tmp_path, text, reader="golf")
    (run,) = golf.read(Text(tmp_path / "log.txt", text.encode()))
    label = next(reversed(run.stages))
    level = run.stages[label]
    assert by(tmp_path, text, "val_bpb", reader="golf", stage=label).value == level.bpb
    assert by(tmp_path, text, "val_loss", reader="golf", stage=label).value == level.nats


def test_a_reader_that_finds_nan_after_its_last_score_has_a_run_that_diverged(tmp_path: Path) -> None:
    late = logged.NANOGPT + "step 750: train loss nan, val loss nan\n"
    assert by(tmp_path, late, reader="nanogpt").value is None
    assert by(tmp_path, "step 0: train loss nan, val loss nan\n", reader="nanogpt").value is None


def test_a_field_of_a_document_or_of_the_last_line_that_has_it(tmp_path: Path) -> None:
    assert by(tmp_path, '{"eval": {"loss": 3.5}, "other": 1}', field="eval.loss").value == 3.5
    lines = '{"loss": 3.5}\n{"loss": 3.25}\n{"step": 3}\nno JSON\n{"loss": true}\n'
    found = by(tmp_path, lines, field="loss")
    assert (found.value, found.line) == (3.25, 2)


@pytest.mark.parametrize(
    ("text", "how", "told"),
    [
        ("nothing", {"regex": "loss (.)"}, "has no line that 'loss \\(.\\)' matches; mend runner.log.regex"),
        ("loss good", {"regex": r"loss (\w+)"}, r"stdout.txt:1: holds 'good' for a score, which is no number"),
        ("nothing", {"reader": "nanogpt"}, "holds no score that the reader nanogpt knows"),
        ("{}", {"field": "loss"}, "has no number under 'loss'"),
        (logged.NANOGPT, {"reader": "nanogpt", "stage": "test"}, "holds scores of 'val'"),
    ],
)
def test_what_holds_no_score_is_refused_with_its_place(
    tmp_path: Path, text: str, how: dict[str, object], told: str
) -> None:
    with pytest.raises(NoScore, match=told):
        by(tmp_path, text, **how)


def test_runs_that_print_alike_have_one_echo(tmp_path: Path) -> None:
    one, same = (by(tmp_path, f"time {t}\n{LOSSES}", regex=r"val loss ([\d.e,-]+)") for t in (1, 2))
    other = by(tmp_path, LOSSES.replace("3.10", "3.11"), regex=r"val loss ([\d.e,-]+)")
    assert one.echo == same.echo != other.echo


@pytest.mark.parametrize(
    "clock",
    [
        "train_time:{}ms",
        "time {}ms",
        "elapsed: {}",
        "({} s)",
        "mfu {}%",
        "tok/s: {}",
        "2026-01-01 10:00:{}",
        '"seconds_per_step_ms": {}',
    ],
)
def test_a_clock_in_the_line_is_no_part_of_what_tells_two_runs_apart(clock: str, tmp_path: Path) -> None:
    one, two, other = (
        by(
            tmp_path,
            f"step 1 val loss 4.1234 {clock.format(time)}\nstep 2 val loss {loss} {clock.format(time + 1)}\n",
            regex=r"val loss ([\d.]+)",
        )
        for loss, time in (("3.1234", 11), ("3.1234", 27), ("3.1235", 11))
    )
    assert one.echo == two.echo != other.echo and one.echo_digits == 8


def test_the_scores_on_the_way_tell_runs_apart_in_json_and_by_a_reader_too(tmp_path: Path) -> None:
    for text, how in (
        ('{"loss": 4.1234, "ms": 11}\n{"loss": 3.1234, "ms": 12}\n', {"field": "loss"}),
        ("step 1: train loss 4.1, val loss 4.1234\nstep 2: train loss 3.1, val loss 3.1234\n", {"reader": "nanogpt"}),
    ):
        one, same, other = (
            by(tmp_path, text.replace(*new), **how) for new in (("", ""), ("11", "17"), ("4.12", "4.13"))
        )
        assert one.echo == same.echo != other.echo and one.echo_digits == 8
