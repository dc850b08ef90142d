"""Formats that are one document, one table of steps, or one binary file: what is read of each, to the digit."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import logged
from tests.logged import SAMPLES, events

from ablab.judging.logs.arms import sort
from ablab.judging.logs.formats import from_text
from ablab.judging.logs.text import Text
from ablab.records.log import Level, LoggedRun


def runs(name: str, data: str | bytes | None = None) -> list[LoggedRun]:
    sample = SAMPLES[name]
    raw = sample.data if data is None else data.encode() if isinstance(data, str) else data
    reading = from_text(Text(Path(sample.name), raw))
    assert reading.reader in (name, "")
    return reading.runs


def test_nanochat_tells_the_base_models_training_and_its_commit_is_the_code() -> None:
    (run,) = runs("nanochat")
    assert run.stages == {
        "Minimum validation bpb": Level(None, 0.8120, 4, 23),
        "Final validation bpb": Level(None, 0.8121, 4, 24),
        "val bpb": Level(None, 0.8125, 4, 29),
        "Midtraining: Minimum validation bpb": Level(None, 0.3953, 4, 32),
    }
    assert run.settings == {"depth": "20", "matrix_lr": "0.0200"} and (run.code or "").startswith(
        "d575940 and changes ("
    )
    assert (run.steps, run.tokens, run.seconds) == (21400, 11219763200, pytest.approx(171.99 * 60))
    assert run.notes == ["the checkout had changes that were not committed"]


def test_of_a_trainers_history_the_last_evaluation_counts() -> None:
    (run,) = runs("trainer")
    assert run.stages == {"eval_loss": Level(2.2310, None, 4, 7)}
    assert (run.steps, run.seconds, run.complete, run.notes) == (45, 472.0904, True, [])
    (run,) = runs("trainer", logged.TRAINER.replace("eval_", "x_").replace('"global_step": 45', '"global_step": 30'))
    assert run.stages == {"loss": Level(1.2565, None, 4, 6)} and not run.complete
    assert run.notes == ["nothing was evaluated: the loss is the last of training"]


def test_of_nanogpts_evaluations_the_last_counts() -> None:
    (run,) = runs("nanogpt")
    assert run.stages == {"val": Level(1.7270, None, 4, 11)} and run.facts == {"max_iters": "500", "n_embd": "512"}
    assert (run.seed, run.seed_in_name, run.steps, run.tokens, run.complete) == (7, 7, 500, 500 * 16384, True)
    (run,) = runs("nanogpt", logged.NANOGPT.rpartition("step 500")[0])
    assert run.stages["val"].nats == 2.0690 and not run.complete


def test_of_llm_cs_validations_the_last_counts_and_else_the_last_loss_of_training() -> None:
    (run,) = runs("llmc")
    assert run.stages == {"val": Level(5.8723, None, 4, 6)} and run.steps == 500 and run.seed is None
    (run,) = runs("llmc", "s:1 trl:10.9 lr:0.1 norm:1.0\ns:2 trl:9.5 lr:0.1 norm:1.0\n")
    assert run.stages == {"loss": Level(9.5, None, 1, 2)} and "nothing was evaluated" in run.notes[0]
    (run,) = runs("llmc", "s:1 tl:10.9\ns:2 tl:9.5\n")
    assert run.stages == {"loss": Level(9.5, None, 1, 2)}


def test_a_history_of_lines_has_the_last_number_of_every_metric() -> None:
    (run,) = runs("wandb-history")
    assert run.stages == {"val/loss": Level(3.4103, None, 4, 3), "val/bpb": Level(None, 1.1398, 4, 3)}
    assert run.steps == 310 and run.facts == {"learning_rate_peak": "0.003"}
    assert runs("wandb-history", '{"step": 1, "val/loss": 3}\n{"a": {"_step": 1}}\n') == []


def test_megatrons_last_validation_on_every_set_counts() -> None:
    (run,) = runs("megatron")
    assert run.stages == {"validation set": Level(5.712345, None, 6, 11), "test set": Level(5.8, None, 6, 12)}
    assert run.settings == {"hidden_size": "64", "seq_length": "128"} and run.seed == 1234
    assert (run.steps, run.tokens, run.seconds, run.complete, run.notes) == (20, 160 * 128, 4.0, True, [])
    (run,) = runs("megatron", logged.MEGATRON.partition(" validation loss")[0])
    assert run.stages == {"lm loss": Level(6.912345, None, 6, 8)} and not run.complete and run.notes


@pytest.mark.parametrize(
    "values", ['{"1": 10.81248, "25": 10.79056, "50": 10.24013}', "[10.81248, 10.79056, 10.24013]"]
)
def test_golden_values_are_the_last_of_training(values: str) -> None:
    (run,) = runs("megatron-golden", f'{{"lm loss": {{"start_step": 1, "end_step": 50, "values": {values}}}}}')
    assert run.stages == {"lm loss": Level(10.24013, None, 5, 1)} and run.steps == 50


def test_torchtitan_has_two_forms() -> None:
    (run,) = runs("torchtitan")
    assert run.stages["loss"].nats == 4.052482604980469 and run.facts == {"config": "llama3_debugmodel", "ngpu": "8"}
    text = (
        "[rank0]:[titan] 2026-01-01 10:00:00,000 - root - INFO - \x1b[31mstep: 10  \x1b[32mloss:  4.0525  x: 1.8\x1b[39m\n"
        "[rank0]:[titan] 2026-01-01 10:00:01,000 - root - INFO - validate step: 10  loss:  4.1100  memory: 1GiB\n"
        "[rank0]:[titan] 2026-01-01 10:00:02,000 - root - INFO - step: 20  loss:  3.9000  grad_norm: 1.8\n"
    )
    (run,) = runs("torchtitan", text)
    assert run.stages == {"val": Level(4.11, None, 4, 2)} and run.steps == 20


def test_marins_runs_have_settings_below_their_parts() -> None:
    (run,) = runs("marin")
    assert run.stages == {
        "eval/paloma/c4_en/bpb": Level(None, 0.9557313919067384, 16, 2),
        "eval/paloma/c4_en/loss": Level(3.1, None, 4, 2),
    }
    assert run.settings == {
        "train_config.num_train_steps": "4959", "train_config.learning_rate": "0.003", "train_config.weight_decay": "0.1",
        "model_config.hidden_dim": "512", "model_config.num_layers": "6",
    }  # fmt: skip
    assert (run.seed, run.steps, run.tokens, run.seconds) == (42, 4959, 2599944192, 15009.1)


def test_a_history_has_cells_that_are_empty_and_a_chart_columns_that_end_early() -> None:
    (run,) = runs("wandb")
    assert run.stages == {
        "eval/c4_en-validation/CrossEntropyLoss": Level(4.6075, None, 4, 4),
        "eval/downstream_bpb/arc_easy_bpb": Level(None, 1.9024, 4, 4),
    }
    assert (run.steps, run.tokens) == (800, 800 * 524288)
    chart = runs("wandb-chart")
    assert [(run.arm, run.seed_in_name, run.steps, run.stages) for run in chart] == [
        ("base-seed1", 1, 200, {"eval/loss": Level(3.251, None, 4, 3)}),
        ("wide-seed1", 1, 100, {"eval/loss": Level(3.45, None, 2, 2)}),
    ]


def test_of_olmo_cores_checkpoints_in_a_folder_the_last_one_is_the_run(tmp_path: Path) -> None:
    for step in (1000, 200, 90):
        (tmp_path / f"metrics_step{step}.json").write_text(logged.OLMO.replace("3.4521", f"3.{step}"), encoding="utf-8")
    found = sort(tmp_path)
    assert [[run.steps for run in arm.runs] for arm in found.arms] == [[1000]]
    assert sorted(run.steps or 0 for run in found.aside) == [90, 200]
    assert list(found.arms[0].runs[0].stages) == [
        "eval/lm/c4_en-validation/CE loss", "eval/lm/c4_en-validation/PPL", "eval/downstream/arc_easy (BPB v2)"
    ]  # fmt: skip


def test_a_submission_tells_its_seeds_or_its_experiments_or_one_number() -> None:
    found = runs("submission")
    assert [(run.seed, run.bytes, run.line) for run in found] == [(42, 15991930, 4), (314, 15992919, 5)]
    assert found[1].stages == {"val_bpb": Level(None, 1.081, 5, 5), "val_loss": Level(2.79241, None, 5, 5)}
    text = '{"author": "x", "seed_bytes": {"42": 159919}, "seed_bpb": {"42": 1.0811}, "per_seed": [{"seed": 7, "bpb": 1.5}, 3]}'
    assert [(run.seed, run.stages) for run in runs("submission", text)] == [
        (42, {"val_bpb": Level(None, 1.0811, 4, 1)}), (7, {"bpb": Level(None, 1.5, 1, 1)})
    ]  # fmt: skip
    (run,) = runs("submission", '{"author": "x", "val_bpb": "1.1194", "bytes_total": "15990006"}')
    assert run.stages == {"val_bpb": Level(None, 1.1194, 4, 1)} and run.bytes == 15990006, "numbers in quotes"
    assert runs("submission", '{"author": "x", "val_bpb": "about 1.1", "val_loss": null}') == []
    (run,) = runs("submission", '{"author": "x", "val_bpb": 1.1194, "bytes_total": 15990006}')
    assert run.stages == {"val_bpb": Level(None, 1.1194, 4, 1)} and run.bytes == 15990006
    assert run.notes == ["a submission's number: it may be the mean of runs, or one of them"]
    text = (
        '{"author": "x", "experiments": {"base": {"val_bpb": 1.0674, "change": "none"}, "rope": {"val_bpb": 1.0706}}}'
    )
    assert [(run.arm, run.stages["val_bpb"].bpb) for run in runs("submission", text)] == [
        ("base", 1.0674),
        ("rope", 1.0706),
    ]


def test_ablabs_own_verdict_gives_its_ledger() -> None:
    first, second = runs("verdict")
    assert first.stages == {"pre_quant": Level(3.225579, None, 6, 5), "post_quant": Level(3.255184, None, 6, 5)}
    assert (second.arm, second.seed, second.tokens, second.facts) == ("wide", 0, 1000, {"model.d_model": "512"})
    (run,) = runs("verdict", logged.VERDICT.replace("nats_per_token", "bits_per_byte").replace("wide", "base"))[:1]
    assert run.stages["pre_quant"] == Level(None, 3.225579, 6, 5)


def test_a_document_that_is_cut_off_is_told_and_gives_nothing() -> None:
    reading = from_text(Text(Path("trainer_state.json"), logged.TRAINER[:-20].encode()))
    assert reading.runs == [] and str(reading.faults[0]).startswith("trainer_state.json:1: is no JSON (")


def test_events_are_read_by_hand_and_floats_have_no_more_digits_than_they_hold() -> None:
    (run,) = runs("tensorboard")
    assert run.stages == {"eval/loss": Level(3.2794, None, 4, 4)} and (run.steps, run.seconds) == (200, 5.5)
    (run,) = runs("tensorboard", events(("loss", 5, 1.0, 2.5), ("lr", 6, 1.0, 0.1)))
    assert run.stages == {"loss": Level(2.5, None, 1, 2)} and run.notes


def test_events_of_tensorboards_own_writer_are_read(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    for new_style in (False, True):
        folder = tmp_path / f"new_{new_style}" / "seed_3"
        with SummaryWriter(str(folder)) as writer:
            writer.add_scalar("val/loss", 3.5, 10, new_style=new_style)
            writer.add_scalar("val/loss", 3.25, 20, new_style=new_style)
            writer.add_text("notes", "x" * 500, 20)
        (arm,) = sort(folder).arms
        assert [(run.stages["val/loss"].nats, run.steps, run.seed_in_name) for run in arm.runs] == [(3.25, 20, 3)]


def test_two_checkouts_with_changes_are_not_one_program() -> None:
    (run,) = runs("nanochat", logged.NANOCHAT.replace("(dirty)", "(clean)"))
    assert run.code == "d575940" and not run.notes
    (run,) = runs("nanochat")
    assert run.code == "d575940 and changes (report.md)" and "not committed" in run.notes[0]
