"""Logs of modded-nanogpt and the lists of losses in its READMEs."""

from __future__ import annotations

from pathlib import Path

from tests.logged import LISTS, MODDED, golf

from ablab.judging.logs import lists, modded
from ablab.judging.logs.arms import into_arms
from ablab.judging.logs.text import Text
from ablab.records.log import Level


def test_the_last_validation_counts_and_the_program_is_the_code() -> None:
    (run,) = modded.read(Text(Path("a.txt"), MODDED.encode()))
    assert run.stages == {"val": Level(3.2794, None, 4, 10)}
    assert (run.steps, run.seconds, run.seed, run.complete) == (1480, 231.289, None, True)
    (same,) = modded.read(Text(Path("b.txt"), MODDED.replace("3.2794", "3.2780").encode()))
    (other,) = modded.read(Text(Path("c.txt"), MODDED.replace("0.0\n", "0.1\n").encode()))
    assert [len(arm.runs) for arm in into_arms([run, same, other])] == [2, 1]


def test_a_run_that_stopped_early_is_not_complete() -> None:
    (run,) = modded.read(Text(Path("a.txt"), MODDED.partition("step:1480/1480")[0].encode()))
    assert (run.complete, run.steps) == (False, 1375)


def test_a_log_with_bits_per_byte_or_without_a_program_is_another_format() -> None:
    assert modded.read(Text(Path("a.txt"), (MODDED.partition("step:0")[0] + golf()).encode())) == []
    assert modded.read(Text(Path("a.txt"), MODDED.rpartition("=" * 100)[2].encode())) == []


def test_a_list_is_an_arm_and_a_number_in_it_is_a_run() -> None:
    runs = lists.read(Text(Path("README.md"), LISTS.encode()))
    assert [(run.arm, run.stages["val"].nats, run.line) for run in runs] == [
        ("Final validation losses over 3 runs", 3.2781, 6),
        ("Final validation losses over 3 runs", 3.2776, 6),
        ("Final validation losses over 3 runs", 3.2780, 6),
        ("H1: gate-split", 3.2771, 10),
        ("H1: gate-split", 3.2764, 10),
        ("H1: gate-split", 3.2797, 11),
    ]
    assert [len(arm.runs) for arm in into_arms(runs)] == [3, 3] and runs[2].stages["val"].digits == 4
