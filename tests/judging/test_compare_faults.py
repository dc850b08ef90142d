"""Every kind of fault: what brings it out, and the nearest thing that does not."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from ablab.judging.compare import exports
from ablab.judging.compare.side import metric_of
from ablab.judging.compare.words import UnknownPreset, compare
from ablab.records.comparison import Comparison, Flag, Paired, Ruled, Welch
from ablab.records.log import Level, LoggedRun
from ablab.verdict import BySeed, Record, Unpaired

SP8192, SP1024 = exports.EXPORTS["sp8192"], exports.EXPORTS["sp1024"]
TOKENS = 40_540_160


def level(bpb: float, ratio: float = SP8192, digits: int = 8) -> Level:
    return Level(round(bpb / ratio, digits), round(bpb, digits), digits, 7)


def run(
    bpb: float, seed: int | None, *, ratio: float = SP8192, digits: int = 8, label: str = "quantized_ttt", **more: Any
) -> LoggedRun:
    base: dict[str, Any] = {
        "settings": {"lr": "0.1", "depth": "11"}, "seed": seed, "val_tokens": TOKENS, "shards": 80, "steps": 4500,
        "seconds": 588.0, "code_bytes": 20_000, "bytes": 15_990_000, "reader": "golf",
    }  # fmt: skip
    name, line = more.pop("source", f"run_{seed}_{bpb}.log"), more.pop("line", 1)
    return LoggedRun(Path(name), line, {label: level(bpb, ratio, digits)}, **(base | more))


def group(mean: float, seeds: tuple[int, ...] = (1, 2, 3), **more: Any) -> list[LoggedRun]:
    steps = (0.0, 0.0004, -0.0006, 0.0009, 0.0002)
    return [run(mean + step, seed, **more) for seed, step in zip(seeds, steps)]


def other(runs: list[LoggedRun], name: str = "lr", value: str = "0.2") -> list[LoggedRun]:
    """The same runs with another setting."""
    return [dataclasses.replace(one, settings={**(one.settings or {}), name: value}) for one in runs]


X, Y = other(group(1.0800)), group(1.0830)


def kinds(answer: Comparison, side: str | None = None) -> set[str]:
    return {flag["kind"] for flag in answer["flags"] if side in (None, flag["side"])}


def of_kind(answer: Comparison, kind: str) -> Flag:
    [found] = [flag for flag in answer["flags"] if flag["kind"] == kind]
    return found


def test_a_clean_pair_of_one_lever_has_its_word_and_one_note() -> None:
    answer = compare(X, Y)
    assert answer["word"] == "better" and answer["levers"] is not None
    assert answer["levers"]["said"] == "one lever: lr 0.1 -> 0.2" and answer["levers"]["code"] == "equal"
    assert kinds(answer) == {"levers_in_block", "same_seeds_and_steps"}
    assert answer["sentence"].startswith("better, by at least 0.00") and "(3 against 3 runs)" in answer["sentence"]
    json.dumps(answer, allow_nan=False)


def test_same_settings_come_before_any_word() -> None:
    answer = compare(group(1.0800), Y)
    assert (answer["word"], of_kind(answer, "same_settings")["said"]) == ("same settings", "0 of 2 settings differ")
    assert answer["unpaired"] is not None and answer["unpaired"]["word"] == "better"
    moved = group(1.0800, code_bytes=20_100)  # a default that was edited shows in no setting
    answer = compare(moved, Y)
    assert answer["word"] == "better" and of_kind(answer, "levers_in_block")["said"].endswith("but the code does")


def test_same_settings_of_logs_that_do_not_tell_the_code_leave_a_lever_in_it_open() -> None:
    answer = compare(group(1.0800, code_bytes=None), group(1.0830, code_bytes=None))
    assert (
        answer["word"] == "same settings"
        and "the logs do not tell the code" in of_kind(answer, "same_settings")["said"]
    )
    assert "or of a lever in the code" in answer["sentence"]
    assert compare(group(1.0800), Y)["sentence"].endswith("no claim about a lever")


def test_places_seeds_and_ranks_are_no_levers_and_a_lora_rank_is_one() -> None:
    x = group(1.08)
    for name in ("logfile", "data_dir", "train_files", "run_id", "rank", "local_rank", "seed", "tokenizer_path"):
        x = other(x, name, "elsewhere")
    assert compare(x, Y)["word"] == "same settings"
    assert of_kind(compare(other(x, "lora_rank", "8"), Y), "levers_in_block")["said"].startswith("one lever: lora_rank")


def test_a_list_that_was_cut_short_in_one_run_moves_no_side() -> None:
    x = [dataclasses.replace(X[0], settings={"lr": "0.2"}), *X[1:]]
    answer = compare(x, Y)
    assert answer["levers"] is not None and answer["levers"]["names"] == ["lr"]
    assert of_kind(answer, "settings_differ_between_seeds")["side"] == "x"


@pytest.mark.parametrize("sides", [(None, {}), ({}, None), (None, None)])
def test_without_lists_of_settings_levers_are_unknown(sides: tuple[Any, Any]) -> None:
    x, y = ([dataclasses.replace(one, settings=s) if s is None else one for one in g] for g, s in zip((X, Y), sides))
    answer = compare(x, y)
    assert "levers_unknown" in kinds(answer) and answer["word"] == "better"
    assert answer["levers"] is not None and answer["levers"]["count"] is None
    assert "one program" not in of_kind(answer, "levers_unknown")["said"]
    same = [[dataclasses.replace(one, code="abc") for one in g] for g in (x, y)]
    assert of_kind(compare(*same), "levers_unknown")["said"].endswith("all ran one program, byte by byte")


def test_another_tokenizer_is_judged_in_bits_per_byte_alone() -> None:
    y = group(1.0830, ratio=SP1024, val_tokens=62_021_632)
    assert of_kind(compare(X, y), "tokens_per_byte_differ")["grade"] == "warns"
    answer = compare(X, y, metric="nats")
    assert (answer["word"], of_kind(answer, "tokens_per_byte_differ")["grade"]) == ("invalid", "stops")


def test_tokens_per_byte_of_no_known_export_stop_unless_the_bytes_are_shown_to_be_the_same() -> None:
    odd, tokens = 0.41, 42_935_000
    assert tokens / (math.log(2) * odd) == pytest.approx(exports.GOLF_BYTES, rel=1e-3)
    answer = compare(other(group(1.08, ratio=odd, val_tokens=tokens)), Y)
    assert answer["word"] == "better" and of_kind(answer, "unknown_export")["side"] == "x"
    silent = compare(other(group(1.08, ratio=odd, val_tokens=None)), Y)
    assert silent["word"] == "invalid" and of_kind(silent, "tokens_per_byte_differ")["grade"] == "stops"
    both = compare(other(group(1.08, ratio=odd, val_tokens=None)), group(1.083, ratio=odd, val_tokens=None))
    assert both["word"] == "better" and "tokens_per_byte_differ" not in kinds(both)


def test_another_export_of_a_tokenizer_is_told_only_by_enough_digits() -> None:
    assert of_kind(compare(other(group(1.08, ratio=SP8192 * 1.00007)), Y), "other_export")["grade"] == "notes"
    coarse = compare(other(group(1.08, ratio=SP8192 * 1.00007, digits=4)), group(1.083, digits=4))
    assert not kinds(coarse) & {"other_export", "tokens_per_byte_differ", "unknown_export"}
    assert coarse["x"]["export"] == "sp8192"


def test_bytes_that_differ_stop_and_a_part_of_the_set_is_named() -> None:
    part = other(group(1.08, val_tokens=TOKENS // 10))
    answer = compare(part, Y)
    assert answer["word"] == "invalid" and "part of the validation set" in of_kind(answer, "part_of_set")["said"]
    assert of_kind(answer, "bytes_differ")["grade"] == "stops"
    longer = compare(other(group(1.08, val_tokens=int(TOKENS * 1.003))), Y)
    assert longer["word"] == "better" and of_kind(longer, "bytes_differ")["grade"] == "warns"
    more = compare(other(group(1.08, val_tokens=int(TOKENS * 1.06))), group(1.083, val_tokens=int(TOKENS * 1.06)))
    assert [flag["side"] for flag in more["flags"] if flag["kind"] == "bytes_not_golfs"] == ["x", "y"]
    elsewhere = [dataclasses.replace(one, reader="nanochat") for one in group(1.08, ratio=0.31, val_tokens=1000)]
    assert not kinds(compare(elsewhere, None)) & {"part_of_set", "bytes_not_golfs", "many_shards"}


def test_units_that_no_side_shares_stop() -> None:
    nats = [dataclasses.replace(one, stages={"val": Level(2.8, None, 4, 3)}) for one in Y]
    answer = compare(X, nats, metric="bpb")
    assert answer["word"] == "invalid" and of_kind(answer, "units_differ")["grade"] == "stops"
    assert metric_of([X, nats]) == "nats" and metric_of([X, Y]) == "bpb"


def test_the_limits_of_golf() -> None:
    answer = compare(other(group(1.08, bytes=16_000_001, shards=1400)), Y)
    assert {"artifact_too_large", "many_shards", "shards_differ"} <= kinds(answer)
    exact = compare(other(group(1.08, bytes=16_000_000, shards=1399)), Y)
    assert not kinds(exact) & {"artifact_too_large", "many_shards"}
    elsewhere = [dataclasses.replace(one, reader="table") for one in group(1.08, ratio=0.3, bytes=99_000_000)]
    assert "artifact_too_large" not in kinds(compare(elsewhere, None))


def test_a_score_that_no_such_model_reaches_asks_for_a_proof() -> None:
    assert "proof" in of_kind(compare(other(group(0.85)), Y), "very_low")["said"]
    assert "very_low" not in kinds(compare(other(group(0.92)), Y))
    elsewhere = [dataclasses.replace(one, reader="nanochat") for one in group(0.81, ratio=0.31)]
    assert kinds(compare(elsewhere, None)) == {"unknown_export"}


def test_of_scores_whose_labels_say_no_procedure_one_is_chosen_and_said() -> None:
    scores = {"eval/c4/bpb": level(1.08, digits=4), "eval/pile/bpb": level(0.99, digits=4)}
    x = [dataclasses.replace(one, stages=scores) for one in X]
    assert of_kind(compare(x, None), "stage_chosen")["said"].endswith("--stage asks for another: eval/pile/bpb")
    asked = compare(x, None, stage="eval/pile/bpb")
    assert asked["x"]["mean"] == pytest.approx(0.99) and "stage_chosen" not in kinds(asked)
    assert "stage_chosen" not in kinds(compare(X, Y))


def test_an_adaptive_stage_is_taken_only_when_it_is_asked_for() -> None:
    x = [
        dataclasses.replace(one, stages={**one.stages, "ngram_two_pass_exact": level(0.17 + i / 1000)})
        for i, one in enumerate(X)
    ]
    assert compare(x, Y)["x"]["stage"] == "ttt"
    answer = compare(x, x[:0], stage="adaptive")
    assert answer["x"]["stage"] == "adaptive" and answer["x"]["mean"] == pytest.approx(0.171)


def test_one_seed_several_times_counts_once() -> None:
    x = other([run(1.080, 5), run(1.081, 5), run(1.082, 5, source="seed7.log", seed_in_name=7)])
    answer = compare(x, Y)
    assert answer["x"]["n"] == 1 and answer["x"]["mean"] == pytest.approx(1.081) and answer["word"] == "inconclusive"
    assert {"same_seed_repeats", "seed_label"} <= kinds(answer, "x")
    assert answer["bank"] is not None and answer["bank"]["said"].startswith("a screen and no word")


def test_the_seed_of_the_name_stands_in_for_one_that_no_line_tells() -> None:
    x = other([run(1.080, None, source="a.log", seed_in_name=1), run(1.081, None, source="b.log", seed_in_name=1)])
    assert compare(x, Y)["x"]["n"] == 1
    unknown = compare(other([run(1.080, None, source="a.log"), run(1.081, None, source="b.log")]), Y)
    assert unknown["x"]["n"] == 2 and of_kind(unknown, "no_seed")["grade"] == "notes"


def test_equal_scores_are_one_run_only_where_the_digits_tell() -> None:
    x = other([run(1.08, 1), run(1.08, 2), run(1.081, 3)])
    answer = compare(x, Y)
    assert answer["x"]["n"] == 2 and of_kind(answer, "identical_scores")["grade"] == "warns"
    coarse = compare(
        other([run(1.08, 1, digits=4), run(1.08, 2, digits=4), run(1.081, 3, digits=4)]), group(1.083, digits=4)
    )
    assert coarse["x"]["n"] == 3 and of_kind(coarse, "equal_as_printed")["grade"] == "notes"
    assert of_kind(coarse, "coarse_digits")["said"].endswith("differences below 0.0001 are not seen")


def test_a_run_on_both_sides_stops() -> None:
    assert of_kind(compare(other([*X, Y[0]]), Y), "shared_run")["grade"] == "stops"
    again = dataclasses.replace(Y[0], stages={"quantized_ttt": level(1.0831, digits=4)})
    coarse = [dataclasses.replace(one, stages={"quantized_ttt": level(1.0831, digits=4)}) for one in Y]
    assert "shared_run" in kinds(compare(other([*X, again]), coarse)), "one place of one file, whatever its digits"
    table = [[run(1.08 + i / 999, i, source="runs.csv", line=k + i) for i in (1, 2, 3)] for k in (0, 3)]
    rounded = [[dataclasses.replace(one, stages={"v": level(1.08 + one.line / 999)}) for one in rows] for rows in table]
    assert "shared_run" not in kinds(compare(other(rounded[0]), rounded[1]))


def test_of_several_runs_in_a_file_the_last_complete_one_counts() -> None:
    first = run(1.2, 1, source="x.log", number=1, of=3)
    second = run(1.0801, 1, source="x.log", number=2, of=3)
    smoke = run(1.3, 1, source="x.log", number=3, of=3, complete=False)
    answer = compare(other([first, second, smoke, *X[1:]]), Y)
    assert [one["value"] for one in answer["x"]["runs"] if one["counted"]] == [1.0801, 1.0804, 1.0794]
    assert "x: 2 earlier runs" in of_kind(answer, "several_runs_in_file")["said"]
    smoked = [
        dataclasses.replace(smoke, stages={"quantized": level(1.1)}),
        dataclasses.replace(first, number=4),
        *X[1:],
    ]
    assert compare(other(smoked), Y)["x"]["stage"] == "ttt", (
        "the smoke test has no such stage, and is no run of its own"
    )
    loop = [run(1.08 + seed / 1000, seed, source="loop.log", number=seed, of=3) for seed in (1, 2, 3)]
    assert compare(other(loop), Y)["x"]["n"] == 3
    table = [run(1.08 + i / 1000, None, source="runs.csv", line=i) for i in (1, 2, 3)]
    assert compare(other(table), Y)["x"]["n"] == 3


def test_runs_that_stop_early_or_do_not_end_are_named() -> None:
    x = other([run(1.080, 1, steps=4400), run(1.081, 2), run(1.0795, 3, complete=False)])
    answer = compare(x, Y)
    assert "seed 1 stopped at step 4,400, 100 before" in of_kind(answer, "stopped_early")["said"]
    assert of_kind(answer, "incomplete")["said"].endswith("did not come to an end")
    assert "stopped_early" not in kinds(compare(other([run(1.080, 1, steps=4420), run(1.081, 2), run(1.0795, 3)]), Y))


def test_stages_that_differ_are_said_and_one_that_is_asked_for_is_taken() -> None:
    both = [dataclasses.replace(one, stages={"quantized_sliding_window": level(1.09), **one.stages}) for one in X]
    slid = [
        dataclasses.replace(one, stages={"final_sliding_exact": level(1.083 + i / 1000)}) for i, one in enumerate(Y)
    ]
    assert of_kind(compare(both, slid), "stages_differ")["said"].startswith("stages differ: ttt against sliding")
    answer = compare(both, slid, stage="sliding")
    assert answer["x"]["stage"] == "sliding" and "stages_differ" not in kinds(answer)
    assert compare(both, slid, stage="quantized_sliding_window")["x"]["runs"][0]["label"] == "quantized_sliding_window"


def test_runs_without_the_stage_do_not_count_and_are_said() -> None:
    x = [*X, run(1.0, 9, label="pre-quantization post-ema")]
    answer = compare(x, Y)
    assert answer["x"]["n"] == 3 and of_kind(answer, "no_score")["said"].startswith("x: 1 of 4 runs")


def test_nothing_read_is_no_comparison() -> None:
    for x, y in (([], Y), (X, []), ([], [])):
        answer = compare(x, y)
        assert answer["word"] == "no logs" and answer["sentence"].startswith("nothing to judge")


def test_one_side_alone_has_its_faults_and_a_rule_with_a_target() -> None:
    x = [dataclasses.replace(one, stages={"val": Level(3.27 + i / 1000, None, 4, 3)}) for i, one in enumerate(X)]
    answer = compare(x, None, presets=("speedrun:3.30", "track3", "golf-strict"))
    assert answer["word"] == "nothing to compare with" and answer["y"] is None
    fast, close, strict = answer["rules"]
    assert fast["record"] and fast["target"] == 3.3 and close["target"] == 3.28
    assert not strict["record"] and strict["notes"] == [
        "the rule compares two sides: give the reference's runs with --against"
    ]
    assert compare(x, None, presets=("speedrun:3.25",))["rules"][0]["record"] is False


@pytest.mark.parametrize("preset", ["speed", "speedrun:fast", "speedrun:-1", "golf-strict:3", "track3:inf"])
def test_presets_that_are_none_are_refused(preset: str) -> None:
    with pytest.raises(UnknownPreset):
        compare(X, Y, presets=(preset,))


def test_what_would_settle_it_is_priced_by_the_clock_of_the_logs() -> None:
    x = other(group(1.0826))
    answer = compare(x, Y)["settle"]
    assert answer is not None and answer["n"] is not None and answer["sd"] == 0.00065
    assert answer["seconds"] == pytest.approx(2 * (answer["n"] - 3) * 588.0)
    silent = compare([dataclasses.replace(one, seconds=None) for one in x], Y)["settle"]
    assert silent is not None and silent["seconds"] is None and silent["said"].endswith("the logs tell no time")
    gpus = compare(other(x, "world_size", "8"), other(Y, "world_size", "8"))["settle"]
    assert gpus is not None and "on 8 GPUs each" in gpus["said"]
    foreign = compare(other(group(1.08, ratio=0.3)), group(1.083, ratio=0.3))["settle"]
    assert foreign is not None and foreign["sd_of"] == "these runs"


def test_a_number_without_a_unit_is_judged_by_a_thousandth_of_the_reference() -> None:
    x, y = (
        [
            dataclasses.replace(one, stages={"score": Level(None, None, 3, 2, value=base + i / 100)})
            for i, one in enumerate(g)
        ]
        for base, g in ((48.0, X), (50.0, Y))
    )
    answer = compare(x, y)
    assert (answer["word"], answer["metric"]) == ("better", "value")
    assert answer["matters"] == pytest.approx(0.05, rel=1e-3)


def test_the_records_of_the_answer_have_the_fields_of_the_verdict() -> None:
    for form, source in ((Welch, Unpaired), (Ruled, Record), (Paired, BySeed)):
        assert list(form.__annotations__) == [field.name for field in dataclasses.fields(source)]
