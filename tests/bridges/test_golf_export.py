"""A study's arm as a submission folder: numbers from the runs, claims from the checks, logs that golf's own readers read."""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest
from tests import finished_store as made

from ablab.bridges.golf import entry
from ablab.bridges.golf import export as golf
from ablab.cli import main as cli
from ablab.core.fault import CheckFailed, InvalidStudy
from ablab.judging import judge
from ablab.runs import planning

WHO = {"author": "A. Person", "github_id": "aperson", "today": "2026-11-20"}
# Line shapes, written from logs of openai/parameter-golf (naive baseline, #549, #1493, #1716).
SHAPES = {
    "train": r"^(\d+)/(\d+) train_loss: (\d+\.\d{4}) train_time: (\d+\.\d)m tok/s: (\d+)$",
    "valid": r"^(\d+)/(\d+) val_loss: (\d+\.\d{4}) val_bpb: (\d+\.\d{4})$",
    "pre": r"^(?:diagnostic )?pre-quantization post-ema val_loss:(\d+\.\d{8}) val_bpb:(\d+\.\d{8}) eval_time:(\d+)ms$",
    "quantized": r"^(?:diagnostic )?quantized val_loss:(\d+\.\d{8}) val_bpb:(\d+\.\d{8}) eval_time:(\d+)ms$",
    "sliding": r"^quantized_sliding_window val_loss:(\d+\.\d{8}) val_bpb:(\d+\.\d{8}) eval_time:(\d+)ms$",
    "ttt": r"^quantized_ttt val_loss:(\d+\.\d{8}) val_bpb:(\d+\.\d{8}) eval_time:(\d+)ms$",
    "model": r"^Serialized model quantized\+(\w+): (\d+) bytes$",
    "code": r"^Code size(?: \(\w+\))?: (\d+) bytes$",
    "total": r"^Total submission size quantized\+(\w+): (\d+) bytes$",
    "loops": r"^layer_loop:enabled step:(\d+) frac:(\d\.\d{3}) encoder:(\[[\d, ]+\]) decoder:(\[[\d, ]+\])$",
    "tokens": r"^val_tokens: (\d+)$",
    "seed": r"^  seed: (\d+)$",
}
# Lines of #1493, seed 42, that the same shapes must read.
THEIRS = """val_tokens: 40540160
0/20000 val_loss: 9.0090 val_bpb: 3.4877
layer_loop:enabled step:2018 frac:0.350 encoder:[0, 1, 2, 3, 4, 5, 3, 4] decoder:[5, 3, 4, 5, 6, 7, 8, 9, 10]
pre-quantization post-ema val_loss:2.80873254 val_bpb:1.08734790 eval_time:7440ms
Code size: 16630 bytes
Serialized model quantized+brotli: 15975300 bytes
Total submission size quantized+brotli: 15991930 bytes
quantized val_loss:2.84065044 val_bpb:1.09970431 eval_time:25515ms
quantized_sliding_window val_loss:2.79714850 val_bpb:1.08286335 eval_time:120961ms
quantized_ttt val_loss:2.79180191 val_bpb:1.08079352 eval_time:366525ms
"""


def read(text: str) -> dict[str, list[tuple[str, ...]]]:
    return {name: [m.groups() for m in re.finditer(shape, text, re.M)] for name, shape in SHAPES.items()}


def exported(folder: Path, arm: str = "int5", change: Any = None, text: str = made.STUDY) -> Path:
    plan = made.fill(made.plan(folder, text), change)
    golf.export(plan, arm, folder / "out", **WHO)
    return folder / "out"


def test_the_shapes_read_their_logs() -> None:
    found = read(THEIRS)
    assert all(len(found[name]) == 1 for name in SHAPES if name not in ("train", "seed")), found


def test_logs_are_read_by_the_same_shapes(tmp_path: Path) -> None:
    out = exported(tmp_path)
    assert sorted(p.name for p in (out / "logs").iterdir()) == [f"train_seed{s}.log" for s in range(3)]
    results = json.loads((out / "submission.json").read_text())["seed_results"]
    for seed in range(3):
        found = read((out / f"logs/train_seed{seed}.log").read_text())
        mine = results[str(seed)]
        assert found["seed"] == [(str(seed),)] and found["tokens"][0][0].isdigit()
        assert [row[0] for row in found["train"]] == [str(i) for i in range(1, 9)]
        assert found["train"][-1] == ("8", "8", "2.7000", "9.6", "7")
        assert [row[:2] for row in found["valid"]] == [("0", "8"), ("4", "8"), ("8", "8")]
        assert found["valid"][0][2:] == ("3.4965", "5.0444")
        assert found["loops"] == [("5", "0.500", "[0, 1, 2]", "[1, 2, 3]")]
        for name in ("pre", "quantized", "sliding", "ttt"):
            key = {"pre": "pre_quant"}.get(name, name)
            assert len(found[name]) == 1 and found[name][0][1] == f"{mine[f'{key}_val_bpb']:.8f}"
            assert found[name][0][2] == "10000"
        assert found["model"] == [("brotli", str(14_000 + seed))] and found["code"] == [(str(made.CODE),)]
        assert found["total"] == [("brotli", str(14_000 + seed + made.CODE))]
        assert mine["artifact_bytes"] == 14_000 + seed + made.CODE


def test_a_log_says_every_setting_of_its_arm(tmp_path: Path) -> None:
    """Those that golf has a name for under it, all others under their place in the study, and no path of this machine."""
    out = exported(tmp_path)
    text = (out / "logs/train_seed1.log").read_text()
    said = dict(line[2:].split(": ", 1) for line in text[: text.index("val_tokens")].splitlines()[1:])
    named = {"d_model": "model_dim", "layers": "layers", "seq_len": "train_seq_len"}
    settings = made.plan(tmp_path).runs["int5", 1].settings
    for key, value in settings["model"].items():
        assert said[named[key]] == str(value) if key in named else json.loads(said[f"model.{key}"]) == value
    for section in ("train", "stage"):
        assert json.loads(said[section]) == settings[section]
    assert json.loads(said["data"])["source"] == ["mock"] and said["budget.tokens"] == "4096"
    assert str(tmp_path) not in text


def test_submission_json_is_read_from_the_runs(tmp_path: Path) -> None:
    found = json.loads((exported(tmp_path) / "submission.json").read_text())
    own = [found["seed_results"][str(s)]["sliding_val_bpb"] for s in range(3)]
    assert found["val_bpb"] == pytest.approx(statistics.fmean(own), abs=1e-12)
    assert found["val_bpb_std"] == pytest.approx(statistics.stdev(own), abs=1e-12)  # of the sample, n - 1
    assert [found["seed_results"][str(s)]["val_bpb"] for s in range(3)] == own
    assert (found["author"], found["github_id"], found["date"]) == ("A. Person", "aperson", "2026-11-20")
    assert (found["bytes_total"], found["bytes_code"]) == (14_002 + made.CODE, made.CODE)
    assert (found["seeds"], found["hardware"], found["attribution"]) == ([0, 1, 2], "test bench, 2 cores", [])
    first = found["seed_results"]["0"]
    assert (first["train_time_s"], first["eval_time_s"], first["pack_time_s"], first["steps"]) == (576.0, 10.0, 2.0, 8)
    assert (
        found["verdict"]["word"] in ("worse", "inconclusive", "equivalent")
        and found["verdict"]["against"] == "baseline"
    )


def test_a_decision_made_after_the_results_is_carried_along(tmp_path: Path) -> None:
    said = "The decision was written or changed after results of what it judges existed."
    for name, before in (("first", True), ("late", False)):
        (tmp_path / name).mkdir()
        plan = made.plan(tmp_path / name)
        if before:
            judge.decisions(plan)
        made.fill(plan)
        golf.export(plan, "int5", tmp_path / name / "out", **WHO)
        found = json.loads((tmp_path / name / "out/submission.json").read_text())
        assert found["exploratory"] is not before
        assert (said in (tmp_path / name / "out/README.md").read_text()) is not before


RULES = (
    "C1_causal", "C2_normalised", "C3_score_before_update", "C4_single_pass", "bytes_equal_corpus", "artifact_under_16MB",
    "train_under_600s", "eval_under_600s",
)  # fmt: skip


def rules(folder: Path, arm: str = "int5", change: Any = None, text: str = made.STUDY) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((exported(folder, arm, change, text) / "submission.json").read_text())[
        "compliance"
    ]
    return found


def test_what_the_gates_saw_is_claimed_with_its_numbers(tmp_path: Path) -> None:
    found = rules(tmp_path)
    assert {rule: found[rule] for rule in RULES} == dict.fromkeys(RULES, True)
    measured = found["measured"]
    assert measured["C1_causal"]["replayed"] == 1e-7 and measured["C1_causal"]["stages_checked"] == 12
    assert measured["C3_score_before_update"]["updates"] == 36
    assert measured["bytes_equal_corpus"]["bytes"] == measured["bytes_equal_corpus"]["corpus_bytes"] > 0
    assert measured["artifact_under_16MB"]["margin"] == 16_000_000 - 14_002 - made.CODE


@pytest.mark.parametrize(
    ("rule", "lost"),
    [("C1_causal", "replayed"), ("C1_causal", "causal"), ("C2_normalised", "mass"), ("C4_single_pass", "replayed")],
)
def test_a_gate_that_did_not_run_claims_nothing(tmp_path: Path, rule: str, lost: str) -> None:
    def change(arm: str, seed: int, stage: str, result: dict[str, Any], scores: Any) -> None:
        if stage == "ttt" and seed == 1:
            del result["checked"][lost]

    found = rules(tmp_path, change=change)
    assert found[rule] is False and found["measured"][rule]["stages_checked"] == 11
    assert found["bytes_equal_corpus"] is True


def test_a_sample_of_the_text_is_not_the_corpus(tmp_path: Path) -> None:
    def change(arm: str, seed: int, stage: str, result: dict[str, Any], scores: Any) -> None:
        if stage == "sliding":
            scores.nats, scores.tokens, scores.bytes = scores.nats[:4], scores.tokens[:4], scores.bytes[:4]
            result["metrics"] = scores.metrics

    found = rules(tmp_path, change=change)
    measured = found["measured"]["bytes_equal_corpus"]
    assert found["bytes_equal_corpus"] is False and measured["bytes"] < measured["corpus_bytes"]


def test_times_and_sizes_beyond_the_track_are_not_claimed(tmp_path: Path) -> None:
    def change(arm: str, seed: int, stage: str, result: dict[str, Any], scores: Any) -> None:
        if stage == "sliding" and seed == 2:
            result["timing"]["evaluate"], result["bytes"] = 600.5, 16_000_001

    found = rules(tmp_path, "wide", change)
    assert not (found["train_under_600s"] or found["eval_under_600s"] or found["artifact_under_16MB"])
    assert found["measured"]["artifact_under_16MB"]["margin"] == -1
    assert found["measured"]["train_under_600s"]["seconds"] == 640.0


def test_readme_has_every_arm_with_mean_sd_units_and_verdict(tmp_path: Path) -> None:
    text = (exported(tmp_path) / "README.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    head = rows[0]
    assert head == ["Arm", "Pre-quant", "Post-quant", "Sliding", "Post-TTT", "Artifact (bytes)", "Delta", "Verdict"]
    by_name = {row[0].strip("*`"): row for row in rows[2:5]}
    assert set(by_name) == {"baseline", "int5", "wide"}
    assert all(re.fullmatch(r"\d\.\d{5} \+/- \d\.\d{5}", cell) for row in by_name.values() for cell in row[1:5])
    assert by_name["int5"][0] == "**`int5`**" and by_name["int5"][5] == "14,115"
    assert re.fullmatch(r"\+0\.\d{5} \[[+-]\d\.\d{5}, [+-]\d\.\d{5}\]", by_name["int5"][6])
    assert "same weights" in by_name["int5"][7] and "cannot win" in by_name["wide"][7]
    for part in (
        "bits per byte",
        "sample standard deviation",
        "bytes (decimal)",
        "test bench, 2 cores",
        "C1",
        "3 seeds",
    ):
        assert part in text, part
    assert "\n- stage.post_quant.compress.bits.default: 6 -> 5\n" in text
    assert str(tmp_path) not in text


def test_a_delta_to_another_arm_names_it(tmp_path: Path) -> None:
    text = made.STUDY.replace("[arm.wide]\n", '[arm.wide]\non = "int5"\n')
    rows = (exported(tmp_path, text=text) / "README.md").read_text().splitlines()
    deltas = {row.split("|")[1].strip(" *`"): row.split("|")[7].strip() for row in rows if row.count("|") > 8}
    assert deltas["wide"].endswith("] to `int5`") and deltas["int5"].endswith("]") and deltas["baseline"] == "-"


def test_two_seeds_have_no_sd_in_the_table() -> None:
    assert entry.spread([1.0, 1.2]) == "1.10000 (n = 2)"
    assert entry.spread([1.0, 1.1, 1.2]) == "1.10000 +/- 0.10000"
    assert entry.spread([]) == "-"


def test_roles_follow_what_a_stage_does(tmp_path: Path) -> None:
    stages = made.plan(tmp_path).study.baseline.settings["stage"]
    roles = entry.named(stages)
    assert roles == {"pre_quant": "pre_quant", "post_quant": "quantized", "sliding": "sliding", "ttt": "ttt"}
    again = entry.named({**stages, "narrow": {**stages["sliding"]}})
    assert again["narrow"] == "narrow"
    raw = {**stages["sliding"], "after": "pre_quant"}  # of unpacked weights: no sliding of the game's
    again = entry.named({"pre_quant": stages["pre_quant"], "raw": raw, "ttt": raw, **stages})
    assert (again["raw"], again["sliding"]) == ("raw", "sliding") and again["ttt"] == "ttt"
    again = entry.named({**stages, "ttt": raw, "late": stages["ttt"]})
    assert (again["ttt"], again["late"]) == ("ttt_stage", "ttt")


def refused(folder: Path, fault: type[Exception], arm: str = "int5", **how: Any) -> str:
    with pytest.raises(fault) as error:
        exported(folder, arm, **how)
    assert not (folder / "out").exists()
    return str(error.value)


@pytest.mark.parametrize("rows", [None, '{"step": "a", "loss": null}\n', '{"step": 3, "loss": 2.0, "seconds": 1.0}\n'])
def test_a_log_that_lacks_steps_is_no_log(tmp_path: Path, rows: str | None) -> None:
    plan = made.fill(made.plan(tmp_path), None)
    path = plan.store.train(plan.runs["int5", 1].train_key) / "metrics.jsonl"
    path.unlink()
    if rows is not None:
        path.write_text(rows)
    lost = 8 if rows is None or "a" in rows[:12] else 7
    with pytest.raises(
        CheckFailed, match=f"metrics.jsonl: lacks {lost} of 8 steps of a finished run; delete .* made again"
    ):
        golf.export(plan, "int5", tmp_path / "out", **WHO)
    assert not (tmp_path / "out").exists()


def test_refusals(tmp_path: Path) -> None:
    for name in "abcde":
        (tmp_path / name).mkdir()
    nats = made.STUDY.replace('metric = "bits_per_byte"', 'metric = "nats_per_token"')
    said = refused(tmp_path / "a", InvalidStudy, text=nats)
    assert 'nats_per_token is not what parameter-golf compares; set metric = "bits_per_byte"' in said
    assert "no arm is called 'int4'; did you mean 'int5'?" in refused(tmp_path / "b", InvalidStudy, "int4")

    def violated(arm: str, seed: int, stage: str, result: dict[str, Any], scores: Any) -> None:
        if arm == "int5" and stage == "sliding":
            result["violations"] = ["C3 score before update: 3 targets were learned from before they were scored"]

    assert "arm int5: is invalid (rule violated by int5" in refused(tmp_path / "c", CheckFailed, change=violated)

    def diverged(arm: str, seed: int, stage: str, result: dict[str, Any], scores: Any) -> None:
        if arm == "int5" and stage == "sliding":
            scores.nats[:] = float("nan")
            result["metrics"] = {"nats_per_token": None, "bits_per_byte": None}
            result["diverged"] = "the loss is not finite"

    said = refused(tmp_path / "d", CheckFailed, change=diverged)
    assert "diverged at stage 'sliding' (the loss is not finite); decide at a stage that it reaches" in said
    plan = made.plan(tmp_path / "e")
    with pytest.raises(
        CheckFailed, match=r"9 runs are not finished \(baseline seed 0, .* and 5 more\); let `ablab run`"
    ):
        golf.export(plan, "int5", tmp_path / "e/out", **WHO)
    made.fill(plan)
    (tmp_path / "e/out").mkdir()
    (tmp_path / "e/out/README.md").write_text("mine")
    with pytest.raises(CheckFailed, match=r"out: is there already; name a folder that is not"):
        golf.export(plan, "int5", tmp_path / "e/out", **WHO)
    assert (tmp_path / "e/out/README.md").read_text() == "mine"


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[Any, str, str]:
    monkeypatch.setattr(sys, "argv", ["ablab", *words])
    code: Any = 0
    try:
        cli.main()
    except SystemExit as ended:
        code = ended.code
    out, err = capsys.readouterr()
    return code or 0, out, err


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    plan = made.fill(made.plan(tmp_path))
    monkeypatch.setattr(planning, "make", lambda *_, **__: plan)
    file, out = str(tmp_path / "study.toml"), tmp_path / "submitted"
    who = ("--author", "A. Person", "--github-id", "aperson")
    code, said, err = command(
        monkeypatch, capsys, "export", file, "--to", "golf", "--arm", "int5", "--out", str(out), *who
    )
    assert code == 0, err
    assert [Path(line).name for line in said.splitlines()][:2] == ["README.md", "submission.json"]
    assert json.loads((out / "submission.json").read_text())["name"] == "stages: int5"
    for words, said in (
        (("--to", "golf", "--arm", "int5", "--out", str(out)), "a submission needs --author, --github-id"),
        (("--to", "golf", "--out", str(out), *who), "no arm; name one, or baseline"),
        (("int5", "--to", "golf", "--arm", "wide"), "are two arms; name one"),
        (("int5", "--to", "megatron", "--author", "x"), "belongs to --to golf"),
        (("int5", "--to", "megatron", "--runs", "runs"), "--runs belongs to --to golf"),
        (("int5", "--to", "megatron", "--device", "cuda", "--title", "x"), "--device, --title belongs to --to golf"),
    ):
        code, _, err = command(monkeypatch, capsys, "export", file, *words)
        assert code == 2 and said in " ".join(err.replace("\u2502", " ").split()), err
