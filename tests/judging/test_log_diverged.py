"""A run that diverged has no score from before it did: in every format, and in the word."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

import pytest
from tests import logged
from tests.judging.test_compare_faults import X, Y, kinds, of_kind

from ablab.judging.compare.words import compare
from ablab.judging.logs.formats import read
from ablab.records.log import LoggedRun

GOLF = logged.SAMPLES["golf"].data.decode()
TEXTS = {
    "nanogpt": ("a.log", logged.NANOGPT + "step 9999: train loss nan, val loss nan\n"),
    "nanogpt, in training": ("a.log", logged.NANOGPT + "iter 9999: loss nan, time 8.00ms, mfu 1%\n"),
    "nanogpt, from the first": ("a.log", "step 0: train loss nan, val loss nan\n"),
    "golf": ("a.log", "0/20 val_loss: 9.0 val_bpb: 3.4\n20/20 val_loss: nan val_bpb: nan\n"),
    "golf, in training": ("a.log", "9/20 val_loss: 3.0 val_bpb: 1.4\n12/20 train_loss: nan train_time: 0.0m\n"),
    "golf, from the first": ("a.log", "20/20 val_loss: nan val_bpb: nan\nquantized val_loss:nan val_bpb:nan\n"),
    "modded": ("a.log", f"import torch\n{'=' * 100}\nstep:0/9 val_loss:9.1\nstep:9/9 val_loss:nan train_time:8ms\n"),
    "modded, from the first": ("a.log", f"import torch\n{'=' * 100}\nstep:9/9 val_loss:nan train_time:8ms\n"),
    "llmc": ("main.log", "s:0 tel:9.5\ns:1 trl:9.4\ns:2 trl:-nan\n"),
    "torchtitan": ("a.log", "validate step:  1  loss: 8.1\nstep:  2  loss: 7.0\nstep:  3  loss: nan\n"),
    "megatron": ("a.log", " validation loss at iteration 5 | lm loss value: 3.1E+00 | lm loss PPL: 22 |\n"
                          " iteration 6/ 10 | lm loss: NAN |\n"),
    "megatron-golden": ("a.json", '{"lm loss": {"start_step": 1, "end_step": 2, "values": {"1": 3.5, "2": NaN}}}'),
    "nanochat": ("report.md", "## Base model training\n- Validation bpb: nan\n"),
    "lists": ("README.md", "losses = [nan, 3.2776, 3.2780]\n"),
    "wandb": ("a.csv", "_step,eval/loss\n1,3.5\n2,NaN\n"),
    "wandb-chart": ("a.csv", '"Step","one - eval/loss"\n1,3.5\n2,NaN\n'),
    "wandb-history": ("a.jsonl", '{"_step": 1, "eval/loss": 3.5}\n{"_step": 2, "eval/loss": "NaN"}\n'),
    "table": ("a.csv", "arm,seed,loss\na,1,inf\n"),
    "table, wide": ("a.csv", "arm,seed 1\na,nan\n"),
    "marin": ("speedrun_results.json", '{"runs": [{"run_info": {"eval/paloma/c4_en/bpb": NaN}}]}'),
    "trainer": ("trainer_state.json", '{"log_history": [{"eval_loss": 3.5, "step": 1}, {"eval_loss": NaN, "step": 2}]}'),
    "verdict": ("verdict.json", '{"metric": "nats_per_token", "decided_by": "x", "runs": [{"arm": "a", "seed": 1, '
                                '"status": "diverged", "metrics": {"plain": null}}]}'),
    "olmo": ("metrics_step5.json", '{"eval/lm/c4/CE loss": NaN}'),
    "submission": ("submission.json", '{"author": "x", "seed_results": {"1": {"val_bpb": NaN}}}'),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_a_score_from_before_is_none(name: str, tmp_path: Path) -> None:
    file, text = TEXTS[name]
    (path := tmp_path / file).write_text(text)
    reading = read(path)
    assert reading.reader == name.partition(",")[0]
    run = reading.runs[0]
    assert (
        run.lost and not run.stages and any(one.place == f"{path}:{max(run.lost.values())}" for one in reading.faults)
    )


def test_tensorboard_has_none_either(tmp_path: Path) -> None:
    sample = logged.SAMPLES["tensorboard"]
    (path := tmp_path / sample.name).write_bytes(sample.data)
    [run] = read(path).runs
    level = next(iter(run.stages.values()))
    value = level.nats or level.bpb or level.value or 0.0
    path.write_bytes(sample.data.replace(struct.pack("<f", value), struct.pack("<f", float("nan"))))
    assert all(one.lost for one in read(path).runs)


def test_a_run_that_has_recovered_has_its_score(tmp_path: Path) -> None:
    (path := tmp_path / "a.log").write_text(
        "step 1: train loss nan, val loss nan\nstep 2: train loss 3.1, val loss 3.2\n"
    )
    [run] = read(path).runs
    assert not run.lost and run.stages["val"].nats == 3.2


def diverged(runs: list[LoggedRun], count: int, first: int = 90) -> list[LoggedRun]:
    return [*runs, *(dataclasses.replace(runs[0], source=Path(f"d{n}.log"), seed=n, stages={}, lost={"val": 12})
                     for n in range(first, first + count))]  # fmt: skip


def test_one_divergence_takes_better_away_and_two_are_unstable() -> None:
    once = compare(diverged(X, 1), Y, presets=["golf-frontier"])
    assert (
        once["word"] == "inconclusive"
        and "diverged" in kinds(once, "x")
        and "takes the word better away" in once["sentence"]
    )
    assert "1 of 4 runs (25%" in of_kind(once, "diverged")["said"] and "d90.log:12" in of_kind(once, "diverged")["said"]
    assert not once["rules"][0]["record"] and "diverged" in once["rules"][0]["notes"][-1]
    assert compare(diverged(X, 2), Y)["word"] == "unstable"
    assert compare(diverged(X, 1), diverged(Y, 1))["word"] == "better"  # chance, taken from both alike
    reference = compare(X, diverged(Y, 2))
    assert reference["word"] == "better" and "diverged" in kinds(reference, "y")
    assert compare(diverged(Y, 1), X)["word"] == "worse"


def test_a_side_that_diverged_whole_is_named() -> None:
    none = [one for one in diverged(X, 3) if one.lost]
    answer = compare(none, Y)
    assert answer["word"] == "unstable" and of_kind(answer, "diverged")["said"].startswith("x: 3 of 3 runs")
