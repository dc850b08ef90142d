"""Logs of parameter-golf scripts: what is read, and the traps that public logs hold."""

from __future__ import annotations

from pathlib import Path

from tests.logged import golf

from ablab.judging.logs import golf as reader
from ablab.judging.logs.stages import labels, stage_of
from ablab.judging.logs.text import Text
from ablab.records.log import Level, LoggedRun


def runs(text: str, name: str = "train_seed42.log") -> list[LoggedRun]:
    return reader.read(Text(Path(name), text.encode()))


def test_all_that_a_log_says_is_read() -> None:
    (run,) = runs(golf())
    assert run.stages == {
        "val": Level(2.8129, 1.0889, 4, 18),
        "pre-quantization post-ema": Level(2.80977929, 1.08775313, 8, 20),
        "quantized": Level(2.84004242, 1.09946892, 8, 24),
        "quantized_sliding_window": Level(2.79676256, 1.08271394, 8, 25),
        "quantized_ttt": Level(2.79241542, 1.08103103, 8, 27),
    }
    assert run.settings == {"adam_wd": "0.02", "muon_wd": "0.095", "train_batch_tokens": "1000", "world_size": "8"}
    assert (run.seed, run.seed_in_name, run.code_bytes, run.bytes) == (42, 42, 16594, 15992919)
    assert (run.val_tokens, run.shards, run.steps, run.tokens) == (40540160, 128, 4557, 4557000)
    assert (run.seconds, run.complete, run.number, run.of, run.notes) == (588.119, True, 1, 1, [])


def test_stages_are_known_by_words_inside_their_labels_and_the_rest_keep_their_names() -> None:
    assert labels(runs(golf())[0]) == {
        "val": "val",
        "pre_quant": "pre-quantization post-ema",
        "quant": "quantized",
        "sliding": "quantized_sliding_window",
        "ttt": "quantized_ttt",
    }
    told = {
        "final_int8_zlib_roundtrip_exact": "quant",
        "final_int6_sliding_window_s64": "sliding",
        "diagnostic pre-quantization post-ema": "pre_quant",
        "diagnostic quantized": "quant",
        "DIAGNOSTIC post_ema": "pre_quant",
        "ttt_sliding:done": "ttt",
        "legal_ttt_exact": "ttt",
        "final_ngram_exact": "adaptive",
        "final_slot_ttt": "adaptive",
        "final_research_export_exact": "final_research_export_exact",
    }
    assert {label: stage_of(label) for label in told} == told


def test_of_two_labels_of_a_stage_the_exact_one_speaks_and_none_that_repeats_another_stage() -> None:
    run = runs(
        "seed:1\nfinal_int6_roundtrip val_loss:1.9336 val_bpb:1.1452 eval_time:1ms\n"
        "final_int6_roundtrip_exact val_loss:1.93358885 val_bpb:1.14518023\n"
        "final_int6_sliding_window_exact val_loss:1.89385556 val_bpb:1.12165091\n"
        "final_int8_zlib_roundtrip_exact val_loss:1.89385556 val_bpb:1.12165091\n"
    )[0]
    assert labels(run) == {"quant": "final_int6_roundtrip_exact", "sliding": "final_int6_sliding_window_exact"}
    assert len(run.stages) == 4


def test_what_launchers_put_before_a_line_is_no_part_of_it() -> None:
    for prefix in (
        "[default0]:",
        "[rank0]: ",
        "1776142348.094 ",
        "0: ",
        "2026-04-09 06:13:15,360 | INFO | ",
        "[12:13:14] ",
        "| ",
    ):
        text = "".join(prefix + line + "\n" for line in golf().splitlines())
        (run,) = runs(text)
        assert run == runs(golf())[0], prefix


def test_lines_of_other_ranks_do_not_end_the_list_of_settings() -> None:
    noise = "[default2]:job:249 [2] NCCL INFO Bootstrap: Using eth0\n" * 300
    text = golf().replace("  muon_wd", noise + "  muon_wd")
    (run,) = runs(text)
    assert run.settings == runs(golf())[0].settings


def test_the_source_of_a_script_inside_a_log_is_no_result_and_no_setting() -> None:
    source = """
    seed: int = 1337
    val_loss = 0.0
    BLOCK_SIZE: tl.constexpr
    log0(f"final_int8 val_loss:{q_val_loss:.4f} val_bpb:{q_val_bpb:.4f}")
    # val_loss: 3.28 was the target
    print0("step:0/10 val_loss:" + str(val_loss))
"""
    text = golf()
    assert runs(source) == []
    after = text.replace("train_shards: 128", f"{'=' * 40}\n{source}\n{'=' * 40}\ntrain_shards: 128")
    assert runs(after)[0].settings == runs(text)[0].settings
    assert list(runs(source + text)[0].stages) == list(runs(text)[0].stages)


def test_a_smoke_run_first_is_a_run_of_its_own_and_the_last_complete_one_counts() -> None:
    from ablab.judging.logs.arms import chosen

    smoke = golf(1337).split("stopping_early")[0].replace("4557/20000", "30/20000").replace("4000/20000", "20/20000")
    found = runs(smoke + golf(42))
    assert [(run.seed, run.steps, run.complete, run.number, run.of) for run in found] == [
        (1337, 30, False, 1, 2),
        (42, 4557, True, 2, 2),
    ]
    assert chosen(found) == ([found[1]], [found[0]])
    found = runs(golf(42) + smoke)
    assert chosen(found) == ([found[0]], [found[1]])


def test_a_run_that_was_written_twice_is_one() -> None:
    (run,) = runs(golf() + golf())
    assert run.notes == ["stands in the file once more, from line 28"]


def test_a_score_that_is_none_is_named_by_its_line() -> None:
    text = Text(Path("a.log"), golf(ttt="nan # ").encode())
    (run,) = reader.read(text)
    assert "quantized_ttt" not in run.stages and run.notes == ["quantized_ttt has no score in line 27"]
    assert [str(fault) for fault in text.faults] == [
        "a.log:27: the score of 'quantized_ttt' is no finite number above 0"
    ]


def test_a_fragment_of_an_evaluation_alone_is_a_run_without_a_training() -> None:
    (run,) = runs("ttt_lora:warming up\nquantized_ttt_phased val_loss:2.32318624 val_bpb:1.06160000 eval_time:1ms\n")
    assert (run.steps, run.seed, run.settings, list(run.stages)) == (None, None, None, ["quantized_ttt_phased"])


def test_the_file_may_be_in_the_encoding_of_a_shell_and_hold_lines_without_end() -> None:
    (run,) = reader.read(Text(Path("train_seed42.log"), golf().encode("utf-16")))
    assert run == runs(golf())[0]
    (run,) = runs(golf().replace("\n", "\r\n"))
    assert run == runs(golf())[0]
    (run,) = runs("x" * 5_000_000 + " val_loss:1.0 val_bpb:1.0\n" + golf())
    assert len(run.stages) == 5


def test_a_word_may_be_joined_to_the_score_that_it_names() -> None:
    (run,) = runs(
        "step:9/9 val_loss:2.5 val_bpb:1.25\nppm_submission_val_bpb: 0.992908\nstep:9/9 best_val_bpb:1.2\nx_val_loss:1.0\n"
    )
    assert run.stages == {
        "val": Level(2.5, 1.25, 1, 1),
        "ppm_submission": Level(None, 0.992908, 6, 2),
        "step:9/9 best": Level(None, 1.2, 1, 3),
    }
    (run,) = runs(
        "Step 9/9 | Val Loss: 2.50 | Val BPB: 1.25\nEMA BPB (no XSA): 1.21\ns:9/9 vl:2.4 bpb:1.22 tt:5ms\nA 1/9 | BPB: 1.5\n"
    )
    assert run.stages == {"EMA (no XSA)": Level(None, 1.21, 2, 2), "val": Level(2.4, 1.22, 1, 3)}


def test_a_seed_may_stand_among_other_settings_of_a_line() -> None:
    end = "\nfinal_int6_roundtrip_exact val_loss:2.07 val_bpb:1.22\n"
    for line in ("lr:embed=0.6 batch:8 seed:7", "Seed: 7, Steps: 500", "SEED=7", "Starting a run. Seed: 7"):
        assert runs(line + end, "a.log")[0].seed == 7
    for line in ('log(f"seed:7")', "# seed: 7", "manual_seed=7", "seed: int = 7", "seed=7.5"):
        assert runs(line + end, "a.log")[0].seed is None
    assert runs("seed:1\nbigram:2 seed:7" + end)[0].seed == 1


def test_settings_that_single_lines_tell_are_facts_and_no_list() -> None:
    (run,) = runs(
        "train_batch_tokens:524288 train_seq_len:1024 iterations:20000 warmup_steps:20 max_wallclock_seconds:600.000\n"
        "seed:1337\nstep:0/20000 val_loss:6.9 val_bpb:4.1\n"
        "step:13780/20000 val_loss:2.0606 val_bpb:1.2172 train_time:600038ms\n"
        "final_int8_zlib_roundtrip_exact val_loss:2.07269931 val_bpb:1.22436570\n"
    )
    assert run.settings is None and run.facts["train_seq_len"] == "1024" and run.tokens == 13780 * 524288
    assert (run.seconds, run.stages["final_int8_zlib_roundtrip_exact"].digits) == (600.038, 8)
