"""The thirty-six faults by number: what should come of each, the tests that hold it, and those that stood nowhere else."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tests import tiny

from ablab.core.fault import CheckFailed, InvalidStudy
from ablab.judging import versions
from ablab.runs.store import Store
from ablab.study import load
from ablab.training import checkpoint
from ablab.training.metrics import WALL

TESTS = Path(__file__).parents[1]
TRAIN, WHOLE, VECTORS = "training/test_train.py", "whole/test_study_to_verdict.py", "verdict/test_verdict_vectors.py"


@dataclass(frozen=True)
class Held:
    """outcome: what should come of it. tests: `file::test`, below tests/. waits: for what, where nothing can hold it yet."""

    outcome: str
    tests: tuple[str, ...] = ()
    waits: str = ""


def of(file: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{file}::test_{name}" for name in names)


HERE = "faults/test_f01_to_f36.py"
FAULTS = {
    1: Held(
        "killed at any step and resumed, rows and weights are byte for byte those of the undisturbed run",
        of(TRAIN, "stopped_at_any_step_equals_uninterrupted", "killed_in_the_middle_of_every_kind_of_write")
        + of(WHOLE, "disturbed_in_every_way_equals_undisturbed")
        + of("faults/test_faults_at_random.py", "killed_at_three_operations", "killed_at_fifty_operations"),
    ),
    2: Held(
        "killed while a checkpoint is written, the one before it is used and what was half-written is removed",
        of(TRAIN, "killed_in_the_middle_of_every_kind_of_write")
        + of("faults/test_faults_left_over.py", "f02_a_file_that_a_killed_process_left_is_removed_by_the_next"),
    ),
    3: Held(
        "a cut or flipped checkpoint is named and passed over for the generation before it",
        of(TRAIN, "a_damaged_checkpoint_falls_back_and_says_so")
        + of("faults/test_faults_json.py", "a_checkpoint_of_nested_json_falls_back_one_generation"),
    ),
    4: Held(
        "no pointer says which checkpoint is the newest: what lies there is looked through",
        of(HERE, "f04_what_lies_there_says_which_is_newest"),
    ),
    5: Held(
        "a full disk ends with exit 4, the file and the bytes needed; what was there is whole, and it goes on",
        of(
            "faults/test_faults_full_disk.py",
            "f05_a_full_disk_is_said_and_loses_nothing",
            "f05_the_earlier_state_is_what_is_read_afterwards",
            "f05_half_a_line_is_never_left",
            "f05_a_row_that_a_kill_has_torn_is_repaired_by_the_next",
        )
        + of("faults/test_faults_terminal.py", "f05_stdout_on_a_full_disk", "f05_stderr_on_a_full_disk")
        + of(WHOLE, "disturbed_in_every_way_equals_undisturbed")
        + of("faults/test_faults_at_random.py", "a_disk_that_is_full_early_and_late", "twenty_full_disks"),
    ),
    6: Held(
        "a folder that is read-only, gone or stale is said, nothing half-made is left, and a page can be had elsewhere",
        of(WHOLE, "a_directory_that_cannot_be_written_is_one_clear_error")
        + of("faults/test_faults_read_only.py", "f06_a_read_only_store_is_reported_from")
        + of("faults/test_faults_vanished.py", "a_training_ends_where_its_folder_goes", "a_stale_handle_is_said"),
    ),
    7: Held(
        "TERM, HUP, USR1, USR2 and the end of the time checkpoint and exit 75; the next start goes on",
        of("faults/test_faults_signals.py", "every_signal_that_asks_to_end_leaves_a_checkpoint")
        + of(WHOLE, "disturbed_in_every_way_equals_undisturbed", "until_stops_in_time_and_is_resumable"),
    ),
    8: Held(
        "a second process in one folder ends and names the first; the lock of a dead one is no lock",
        of(TRAIN, "a_directory_in_use_is_refused_with_its_holder")
        + of(WHOLE, "disturbed_in_every_way_equals_undisturbed"),
    ),
    9: Held(
        "of two that work on one study each run is made once",
        of(WHOLE, "disturbed_in_every_way_equals_undisturbed")
        + of(
            "faults/test_faults_memory.py",
            "a_run_that_another_process_makes_is_waited_for_and_taken_when_that_dies",
        )
        + of("faults/test_faults_two_studies.py", "two_schedulers_make_each_run_once"),
    ),
    10: Held(
        "a flipped byte, a cut, an exchange or a file too many in the data is named before the first step",
        of("data/test_data_prepare.py", "changed_files_are_named", "swapped_extra_and_edited_files_are_named")
        + of("data/test_data_verify.py", "a_changed_byte_is_found_by_its_hash", "files_missing_cut_or_too_many")
        + of("faults/test_faults_bit_rot.py", "other_bytes_under_the_same_size_and_time_are_found"),
    ),
    11: Held(
        "an id outside the vocabulary, an empty document or BOS alone is refused or has a defined score",
        of("data/test_data_prepare.py", "gates", "duplicates_and_empty_documents_are_dropped_and_counted")
        + of("conformance/test_evaluators.py", "gates_need_something_to_score")
        + of("conformance/test_ngram.py", "empty_documents_pass"),
    ),
    12: Held(
        "held-out text inside the training text is refused with its share",
        of("faults/test_faults_targets.py", "held_out_text_inside_training_is_refused", "no_bos_anywhere_is_refused")
        + of("data/test_data_prepare.py", "a_leak_stops_prepare"),
    ),
    13: Held(
        "bytes that are counted other than the text's are refused with the ratio",
        of("faults/test_faults_targets.py", "a_sidecar_that_lies_is_refused_with_the_ratio")
        + of("data/test_data_prepare.py", "a_tokenizer_that_miscounts_is_caught"),
    ),
    14: Held(
        "a loss or gradient that is not finite ends the run before its update: diverged, counted, the others go on",
        of(TRAIN, "divergence_ends_the_run_before_the_update")
        + of(VECTORS, "v9_unstable", "v9_baseline_diverged")
        + of("verdict/test_verdict_rules.py", "one_diverged_baseline_seed_does_not_end_a_study"),
    ),
    15: Held(
        "an arm without memory is given up with a hint, its batch is not changed, the others go on",
        of("faults/test_faults_memory.py", "an_arm_that_ran_out_of_memory_is_given_up_and_the_others_go_on")
        + of(TRAIN, "out_of_memory_is_said_with_a_hint"),
    ),
    16: Held(
        "nothing resumes under other settings, code, torch or machine without being asked to",
        of(TRAIN, "a_checkpoint_of_another_run_is_refused")
        + of(
            "faults/test_faults_changed_code.py",
            "a_run_is_not_resumed_by_other_code",
            "a_run_is_not_resumed_by_another_torch_or_on_another_machine",
        ),
    ),
    17: Held(
        "another number of processes takes the same global batch and the same hash of tokens, or is refused",
        waits="training one run in several processes; what is there scores the same batch in any micro-batches",
    ),
    18: Held(
        "no clock decides: the budget is tokens, and what is in the making is held by a lock",
        of("faults/test_faults_left_over.py", "f18_no_clock_removes_what_is_being_made")
        + of(HERE, "f18_a_clock_that_jumps_changes_no_result"),
    ),
    19: Held(
        "what an arm shares with the baseline starts the same, from the same tokens",
        of("conformance/test_levers.py", "what_is_shared_with_the_baseline_starts_the_same")
        + of("model/test_model.py", "same_seed_same_weights_and_a_part_more_moves_nothing_else")
        + of(WHOLE, "verdict_json_holds_what_is_promised"),
    ),
    20: Held("the same run twice is the same to the last bit", of(HERE, "f20_the_same_run_twice")),
    21: Held(
        "a score that a later token moves, or whose probabilities do not sum to one, is invalid, at every stage",
        of("conformance/test_cheats.py", "every_cheat_is_caught", "a_stage_with_a_cheat_is_invalid")
        + of(
            "faults/test_faults_kept.py",
            "a_look_ahead_under_a_condition_is_seen_in_what_is_kept",
            "every_second_pass_that_leaks_is_seen",
        ),
    ),
    22: Held(
        "learning before scoring and scoring twice are invalid; nothing learned is carried to another arm or seed",
        of("conformance/test_ttt.py", "learning_before_scoring_is_found")
        + of("conformance/test_ttt.py", "the_model_stays_as_it_was_and_the_seed_does_not_matter")
        + of("conformance/test_evaluators.py", "a_target_scored_257_times_is_scored_more_than_once"),
    ),
    23: Held(
        "windows score every target once and as brute force does; a window of W sees W tokens",
        of("conformance/test_sliding.py", "equals_one_window_at_a_time", "every_target_is_scored_once")
        + of("model/test_attend.py", "window_128_is_128_tokens_the_current_one_included"),
    ),
    24: Held(
        "a file scores as the weights in memory did, and its bytes are those of the file",
        of("scoring/test_stage.py", "a_file_scores_as_its_weights_did_in_memory", "code_counts_to_the_artifact"),
    ),
    25: Held(
        "a pickle that could run code is refused unrun",
        of("training/test_adopt.py", "a_pickle_that_could_run_code_is_refused_unrun")
        + of("scoring/test_stage.py", "scores_with_a_pickle_are_refused")
        + of("faults/test_faults_folder.py", "no_command_imports_from_the_folder_it_stands_in"),
    ),
    26: Held(
        "a study that is endless, deep, huge or no text is refused at once, with its line where it has one",
        of(HERE, "f26_a_study_that_is_a_trap")
        + of("faults/test_faults_no_files.py", "what_is_no_file_is_refused_at_once")
        + of("faults/test_faults_long_lines.py", "a_long_line_takes_linear_time")
        + of("faults/test_faults_fuzz.py", "changed_files_are_read_or_refused"),
    ),
    27: Held(
        "no name and no link leads outside; names that a disk cannot tell apart are refused",
        of(HERE, "f27_no_name_is_a_way_out", "f27_names_that_a_disk_takes_for_one")
        + of(
            "faults/test_faults_links.py",
            "f27_no_write_follows_a_link",
            "f27_a_run_writes_nothing_through_a_strangers_store",
        )
        + of("launch/test_bundle.py", "no_member_is_written_outside"),
    ),
    28: Held(
        "names and notes are text on a page and on a terminal",
        of("report/test_report.py", "hostile_names_and_notes_stay_text", "any_name_is_only_text")
        + of("faults/test_faults_terminal.py", "f28_what_commands_a_terminal_is_spelled_out"),
    ),
    29: Held(
        "a tracker that hangs, refuses or dies holds up nothing, and is sent what it missed",
        of(
            "faults/test_faults_trackers.py",
            "a_tracker_that_hangs_holds_up_neither_training_nor_a_stop",
            "the_next_sitting_sends_what_was_missed_and_nothing_twice",
        ),
    ),
    30: Held(
        "a result, a score or a row of metrics, ledger or decisions that was edited, taken out or moved is named in the page",
        of(WHOLE, "a_damaged_file_is_named")
        + of(
            "faults/test_faults_chains.py",
            "every_change_is_named",
            "scores_are_held_against_the_result",
            "the_page_names_file_and_line_until_the_records_are_back",
            "metrics_of_a_run_are_held_against_its_end",
        )
        + of("launch/test_bundle.py", "what_was_changed_is_found_though_every_hash_was_made_to_fit"),
    ),
    31: Held(
        "arms of other seeds are paired where both have them, and that is said",
        of(VECTORS, "v8_missing_pairs_and_early_looks"),
    ),
    32: Held(
        "no variance, one seed, ties and divergence have defined words, and none is better",
        of(VECTORS, "v8_no_variance", "v8_one_seed", "v9_unstable"),
    ),
    33: Held(
        "nulls are called better or worse no oftener than stated",
        of("verdict/test_verdict_simulations.py", "family_error_and_coverage_of_nulls"),
    ),
    34: Held(
        "planted effects are found as often as planned, and intervals cover what they say",
        of("verdict/test_verdict_simulations.py", "power_is_what_was_planned", "family_error_and_coverage_of_nulls"),
    ),
    35: Held(
        "a process that dies or hangs in a collective ends all of them, resumable, and none is left",
        waits="training one run in several processes; a worker of several runs does not outlive its parent today",
    ),
    36: Held(
        "Ctrl-C twice, a reader that leaves, a locale without a sign and a lost terminal end as documented",
        of(
            "faults/test_faults_signals.py",
            "the_first_ctrl_c_is_answered_at_once_and_the_second_says_what_it_cost",
            "a_reader_that_has_left_ends_a_command_with_a_documented_code",
            "under_nohup_a_lost_terminal_ends_nothing",
        )
        + of("faults/test_faults_terminal.py", "f36_an_output_that_nobody_reads", "f36_an_encoding_that_lacks_a_sign"),
    ),
}


@pytest.mark.parametrize("number", range(1, 37))
def test_every_fault_has_its_outcome_and_its_tests(number: int) -> None:
    held = FAULTS[number]
    assert held.outcome and bool(held.tests) != bool(held.waits)
    for name in held.tests:
        file, _, test = name.partition("::")
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        [found] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == test]
        marks = " ".join(map(ast.unparse, found.decorator_list))
        assert "skip" not in marks and "xfail" not in marks, f"{name} holds nothing where it is skipped"


def rows(out: Path) -> list[dict[str, object]]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in WALL} for line in lines]


def test_f04_what_lies_there_says_which_is_newest(tmp_path: Path) -> None:
    for step in (10, 20):
        checkpoint.save(tmp_path, step, {"w": torch.full((3,), float(step))}, {"identity": "i"})
    (tmp_path / "latest").symlink_to(tmp_path / "checkpoint-000000099.json")  # a pointer of another program, to nowhere
    said: list[str] = []
    header, tensors = checkpoint.newest(tmp_path, fit=lambda _: "", say=said.append) or ({}, {})
    assert header["step"] == 20 and tensors["w"][0] == 20 and not said
    (tmp_path / "checkpoint-000000020.json").unlink()
    header, _ = checkpoint.newest(tmp_path, fit=lambda _: "", say=said.append) or ({}, {})
    assert header["step"] == 10
    (tmp_path / "checkpoint-000000010.safetensors").unlink()
    assert checkpoint.newest(tmp_path, fit=lambda _: "", say=said.append) is None
    assert "going back one generation" in said[0] and "no checkpoint is whole; starting over" in said[1]


def test_f18_a_clock_that_jumps_changes_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    settings = tiny.settings(6)
    tiny.trained(tmp_path / "straight", settings)
    real, jumps = time.time, iter(range(1_000_000))
    monkeypatch.setattr(time, "time", lambda: real() + (-1) ** next(jumps) * 7_200)
    tiny.trained(tmp_path / "jumping", settings)
    assert rows(tmp_path / "straight") == rows(tmp_path / "jumping")


def test_f20_the_same_run_twice(tmp_path: Path) -> None:
    for name in ("one", "two"):
        tiny.trained(tmp_path / name, tiny.settings(6))
    one, two = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two and rows(tmp_path / "one") == rows(tmp_path / "two")


TRAPS = {
    "a tag of YAML": b"!!python/object/apply:os.system ['touch ran']\n",
    "an anchor bomb": b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "10 MB": b"# " + b"x" * 10_000_000,
    "a NUL": b'[study]\nname = "a\0b"\n',
    "nested deeply": b"a = " + b"[" * 5000 + b"]" * 5000,
    "tables in tables": b"[" + b".".join([b"a"] * 5000) + b"]\n",
    "no UTF-8": b'name = "\xff\xfe"\n',
}


@pytest.mark.parametrize("name", TRAPS)
def test_f26_a_study_that_is_a_trap(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.toml").write_bytes(TRAPS[name])
    with pytest.raises(InvalidStudy) as raised:
        load(tmp_path / "study.toml")
    assert len(str(raised.value)) < 2000 and not (tmp_path / "ran").exists()


STUDY = """
study = { name = "s", question = "q" }
decision = { metric = "nats_per_token", matters = 0.01, seeds = 2 }
budget = { tokens = 4096, batch_tokens = 512 }
data = { source = "mock" }
model = { layers = "G", d_model = 32, n_heads = 2, seq_len = 64, global = { position = "rope" } }
"""


def arms(*names: str) -> str:
    return STUDY + "".join(f"[arm.{json.dumps(name)}]\nmodel.d_model = {64 + 32 * i}\n" for i, name in enumerate(names))


@pytest.mark.parametrize(
    "name",
    ["../up", "/root", "a/b", "..", ".hidden", "-flag", "", "a" * 300, "caf\u00e9", "cafe\u0301", "\u0430rm", "a\u202eb",
     "CON", "nul", "Com1", "a.", "a ", "a\0b", "a\nb"],
)  # fmt: skip
def test_f27_no_name_is_a_way_out(name: str, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(arms(name, "sound"))
    with pytest.raises(InvalidStudy, match=r"cannot name|not TOML|a control character"):
        load(tmp_path / "study.toml")
    (tmp_path / "study.toml").write_text(arms("sound").replace('name = "s"', f"name = {json.dumps(name)}"))
    with pytest.raises(InvalidStudy, match=r"cannot name|not TOML|a control character"):
        load(tmp_path / "study.toml")


def test_f27_names_that_a_disk_takes_for_one(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(arms("wide", "Wide"))
    with pytest.raises(InvalidStudy, match="'Wide' and 'wide' differ by case alone"):
        load(tmp_path / "study.toml")
    (tmp_path / "study.toml").write_text(arms("wide", "wider"))
    study, store = load(tmp_path / "study.toml"), Store(tmp_path / "runs")
    store.study("S", None).mkdir(parents=True)
    with pytest.raises(CheckFailed, match="differs from the study's name by case alone"):
        versions.one_of_its_name(store.study(study.name, None))
    store.study("S", None).rmdir()
    versions.one_of_its_name(store.study(study.name, None))
