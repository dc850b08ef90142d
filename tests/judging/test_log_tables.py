"""Tables of others: which columns and rows are runs, and which are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.logged import TABLE

from ablab.judging.logs import table
from ablab.judging.logs.arms import into_arms
from ablab.judging.logs.text import Text
from ablab.records.log import LoggedRun


def read(name: str, text: str) -> tuple[list[LoggedRun], list[str]]:
    held = Text(Path(name), text.encode())
    return table.read(held), [str(fault) for fault in held.faults]


def plain(runs: list[LoggedRun]) -> list[tuple[object, ...]]:
    return [
        (run.arm, run.seed, label, level.nats, level.bpb, level.value)
        for run in runs
        for label, level in run.stages.items()
    ]


THREE = [("base", 1, "val_bpb", None, 1.0811, None), ("base", 2, "val_bpb", None, 1.0808, None),
         ("wide", 1, "val_bpb", None, 1.0790, None)]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", TABLE),
        ("a.tsv", TABLE.replace('"two, of three"', "two").replace(",", "\t")),
        ("a.csv", TABLE.replace('"two, of three"', "two").replace(",", ";")),
        ("a.jsonl", '{"arm": "base", "seed": 1, "val_bpb": 1.0811}\n{"arm": "base", "seed": 2, "val_bpb": 1.0808}\n\n'
                    '{"arm": "wide", "seed": 1, "val_bpb": 1.0790}\n{"arm": "wide", "seed": 2, "val_bpb": null}\n'),
        ("a.md", "| Arm | Seed | val_bpb |\n|---|:-:|---:|\n| base | 1 | **1.0811** |\n"
                 "| base | 2 | 1.0808 |\n| `wide` | 1 | 1.0790 |\n"),
    ],
)  # fmt: skip
def test_one_table_in_five_ways_is_one(name: str, text: str) -> None:
    runs = read(name, text)[0]
    assert [row[:2] + row[3:] for row in plain(runs)] == [row[:2] + row[3:] for row in THREE]


def test_digits_steps_and_lines_are_kept() -> None:
    runs, _ = read("a.csv", TABLE)
    assert [(run.line, run.steps, run.stages["val_bpb"].digits, run.reader) for run in runs] == [
        (2, 4550, 4, "table"), (3, 4557, 4, "table"), (4, 4400, 4, "table")
    ]  # fmt: skip


def test_rows_that_sum_up_others_are_no_runs() -> None:
    runs, faults = read(
        "README.md",
        "| Seed | Steps | **TTT BPB** | Artifact |\n|---|---|---|---|\n| 42 | 6,530 | **1.0808** | 15,991,930 bytes |\n"
        "| 314 | 6,520 | 1.0810 | 15,992,919 |\n| **Mean** | **6,527** | **1.0809** | |\n| **Std** | 5 | **0.0001** | |\n"
        "\n| Seed | val_bpb |\n|---|---|\n| 7 | 1.0812 ± 0.0002 |\n",
    )
    assert [(run.seed, run.bytes, run.steps) for run in runs] == [(42, 15991930, 6530), (314, 15992919, 6520)]
    assert faults == [
        "README.md:5: `Mean` sums up other rows; it is no run",
        "README.md:6: `Std` sums up other rows; it is no run",
        "README.md:10: val_bpb '1.0812 ± 0.0002' is a mean with its error; it is no run",
    ]


def test_a_column_for_every_seed_is_a_run_for_every_cell() -> None:
    runs, _ = read(
        "a.md",
        "| config | seed 42 | seed 1337 | Mean |\n|---|---|---|---|\n| base | 1.1 | 1.2 | 1.15 |\n| wide | 1.0 | | 1.0 |\n",
    )
    assert plain(runs) == [
        ("base", 42, "value", None, None, 1.1), ("base", 1337, "value", None, None, 1.2), ("wide", 42, "value", None, None, 1.0)
    ]  # fmt: skip


def test_the_unit_is_that_of_the_head_and_losses_of_training_are_no_result() -> None:
    runs, _ = read("a.csv", "arm,seed,train_loss,val_loss,val_bpb,score,gap,val_loss_std\na,1,3.0,2.5,1.1,7,0.1,0.01\n")
    assert plain(runs) == [
        ("a", 1, "val_loss", 2.5, None, None), ("a", 1, "val_bpb", None, 1.1, None), ("a", 1, "score", None, None, 7.0)
    ]  # fmt: skip


def test_without_a_column_of_arms_the_settings_in_a_row_tell_them_apart() -> None:
    runs, _ = read(
        "a.csv", "seed,lr,train_loss,val_loss,note\n1,0.1,3.0,2.5,fine\n2,0.1,3.1,2.6,late\n1,0.2,3.0,2.4,fine\n"
    )
    assert [run.facts for run in runs] == [{"lr": "0.1"}, {"lr": "0.1"}, {"lr": "0.2"}]
    assert [[run.seed for run in arm.runs] for arm in into_arms(runs)] == [[1, 2], [1]]


def test_what_is_odd_is_named_by_line() -> None:
    runs, faults = read("a.csv", "# a comment\narm,seed,val_bpb\na,1,1.1\na,2,0.000000\na,3\na,x,1.2\n")
    assert [(run.seed, run.line) for run in runs] == [(1, 3), (None, 6)]
    assert faults == [
        "a.csv:5: has 2 cells under 3 heads; the row is left out",
        "a.csv:4: val_bpb '0.000000' is no finite number above 0",
        "a.csv:6: seed 'x' is no whole number; the run has none",
    ]
    assert read("a.jsonl", '{"arm": "a"\n[1]\n')[1][0].startswith("a.jsonl:1: is no JSON")


def test_a_table_without_an_arm_and_a_seed_or_without_a_metric_holds_no_runs() -> None:
    assert read("a.csv", "step,val_loss\n1,2.5\n")[0] == []
    assert read("a.csv", "arm,seed,lr\na,1,0.5\n")[0] == []
