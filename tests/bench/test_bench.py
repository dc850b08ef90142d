"""Benches of packing and evaluation run from end to end at toy size, and put what is asked beside what they measure."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests import tiny

from ablab.model.decoder import build

BENCH = Path(__file__).resolve().parents[2] / "bench"


def module(name: str, monkeypatch: pytest.MonkeyPatch, *argv: str) -> ModuleType:
    """bench/NAME.py, with these words on its command line."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    monkeypatch.setattr(sys, "argv", [name, *argv])
    return found


def run(found: ModuleType, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    """What main printed: the numbers, and the words behind them."""
    found.main()
    text = capsys.readouterr().out
    numbers, end = json.JSONDecoder().raw_decode(text)
    return numbers, text[end:]


def test_gptq_times_the_column_loop_on_the_whole_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = module("gptq", monkeypatch, "--whole", "--turns", "1", "--threads", "1")
    for name, value in {"ROWS": 4, "COLUMNS": 16, "INPUTS": 32, "VOCAB": tiny.VOCAB, "CALIBRATED": 64}.items():
        monkeypatch.setattr(bench, name, value)
    model = build(tiny.model(d_model=160, head_dim=40, seq_len=64), vocab_size=tiny.VOCAB, seed=0)
    monkeypatch.setattr(bench, "golf", lambda: model)
    numbers, words = run(bench, capsys)
    assert set(numbers["whole"]["ratios"]) == {"blocked", "column loop"}
    assert numbers["whole"]["target"] == numbers["matrix"]["target"] == {"column loop": 5.0}
    ratio = numbers["whole"]["ratios"]["column loop"]
    assert f"golf_11x512: the column loop takes {ratio:.1f} times as long as ours; asked: at least 5" in words


def test_sliding_says_what_is_asked_and_what_full_attention_spares(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "tests" not in (BENCH / "sliding.py").read_text()
    bench = module("sliding", monkeypatch, "--turns", "1", "--threads", "1")
    for name, value in {"LENGTH": 64, "STRIDE": 16, "VOCAB": 50}.items():
        monkeypatch.setattr(bench, name, value)
    monkeypatch.setitem(bench.KINDS, "L", 'local = { window = 4, position = "rope" }')
    for name, layers in {"windows of 128": "LL", "full attention": "GG"}.items():
        shape = {"layers": layers, "d_model": 32, "n_heads": 4, "n_kv_heads": 2}
        monkeypatch.setitem(bench.SHAPES, name, shape)
    numbers, words = run(bench, capsys)
    windowed, full = numbers["models"]["windows of 128"], numbers["models"]["full attention"]
    assert (windowed["way"], full["way"]) == ("one pass", "windows") and (windowed["target"], full["target"]) == (
        3.0,
        None,
    )
    assert max(windowed["largest_difference_nats"], full["largest_difference_nats"]) < 1e-4
    assert f"{windowed['ratio']:.2f} times as fast as window by window; asked: at least 3" in words
    assert f"nothing but the head is spared; {full['ratio']:.2f} times as fast" in words


def test_eval_only_puts_what_is_asked_beside_what_it_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bench = module("eval_only", monkeypatch)
    arm = {"cost": {"stages": {"packed": {"pack": 0.2, "seconds": 2.0}}}}
    files = {
        "train/a/done": {"seconds": 7.0, "validate_seconds": 1.0},
        "score/b/result": {"seconds": 2.0, "timing": {"pack": 0.2}},
        "studies/eval-only/verdict": {"arms": [arm]},
    }
    for place, row in files.items():
        path = tmp_path / "runs" / f"{place}.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(row))
    monkeypatch.setattr(bench, "timed", lambda *command: (11.0, ""))
    measured = bench.measure(tmp_path)
    monkeypatch.setattr(bench, "measure", lambda folder: measured)
    numbers, words = run(bench, capsys)
    assert numbers["ratio"] == pytest.approx(1.1) and numbers["target"]["ratio"] == "at most 1.2"
    assert "run / (one training + its evaluations): 1.100; asked: at most 1.2" in words
    assert "packing's largest share of a run: 0.020; asked: less than 0.05" in words


def test_a_price_is_held_against_what_the_study_took(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    bench = module("price", monkeypatch, "--only", "tutorial", "--json", str(tmp_path / "found.json"))
    small = bench.tutorial()
    for before, after in (
        ("100_352", "2_560"),
        ('"python"', '"mock"'),
        ("start = 3, at_most = 8", "start = 1, at_most = 1"),
    ):
        assert before in small, "the tutorial's study"
        small = small.replace(before, after)
    monkeypatch.setattr(bench, "tutorial", lambda: small)
    numbers, words = run(bench, capsys)
    found = numbers["tutorial"]
    assert (found["runs"], found["evaluations"]) == (2, 2), "the baseline and one arm at one seed"
    assert found["left_when_done"] == {"runs": 0, "evaluations": 0, "seconds": 0.0}
    for clock in ("wall", "cpu"):
        assert found["truth_to_price"][clock] == pytest.approx(found["truth"][clock] / found["price"][clock])
        assert found["price"][clock] > 0
    assert "truth / price of tutorial: wall " in words and "asked: 0.77 to 1.3" in words
    assert json.loads((tmp_path / "found.json").read_text()) == numbers


def test_ttt_is_held_against_its_own_passes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = module("ttt", monkeypatch, "--turns", "1", "--tokens", "1200", "--threads", "1")
    for name, value in {"SEQ_LEN": 64, "WIDTH": 16, "VOCAB": 64, "RANK": 2}.items():
        monkeypatch.setattr(bench, name, value)
    numbers, _ = run(bench, capsys)
    assert set(numbers["ratios"]) == {"sgd", "lora"} and all(ratio > 0 for ratio in numbers["ratios"].values())
    assert numbers["target"] == 1.3 and numbers["held_out_tokens"] > 1000


def test_judge_reads_every_log_that_it_wrote(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = module("judge", monkeypatch, "--megabytes", "0.3")
    monkeypatch.setattr(bench, "BYTES", 12_000)
    numbers, words = run(bench, capsys)
    assert numbers["runs"] >= 10 and numbers["faults"] == 0
    assert numbers["arms"] == -(-numbers["runs"] // bench.SEEDS)
    assert f"{numbers['megabytes_per_second']:.1f} MB/s; asked: at least 6.7" in words
