"""bench/gpu.py runs from end to end at toy size on a CPU, and refuses what it cannot do."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

from ablab.model.attention.documents import Documents

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def run(monkeypatch):
    """bench/gpu.py's main with these flags, in this process."""
    monkeypatch.syspath_prepend(BENCH)

    def run(*flags):
        monkeypatch.setattr(sys, "argv", ["gpu.py", *flags])
        importlib.import_module("gpu").main()

    return run


def test_every_row_runs_at_toy_size_and_is_written_with_machine_and_date(run, tmp_path):
    run("--device", "cpu", "--toy", "--out", str(tmp_path))
    found = {path.stem.removeprefix("gpu_"): json.loads(path.read_text()) for path in tmp_path.glob("gpu_*.json")}
    assert set(found) == {"step", "window", "choice", "normuon", "loss", "decode"}
    for name, result in found.items():
        assert result["environment"]["machine"] and result["environment"]["date"] and result["environment"]["toy"]
        assert result[name]
        assert result["environment"]["torch"] == torch.__version__ and result["seconds"] > 0
    step = found["step"]["step"]
    assert step["ratio"]["hybrid / rope, full causal"] > 0 and step["mfu"] is None, "no such peak is stated for a CPU"
    assert step["normuon"]["share"] > 0 and step["first_steps"]["graphs_after"] == 0
    assert all(count > 100 for count in step["operators"].values())
    assert len(found["normuon"]["normuon"]["operators"]) == 2
    assert found["decode"]["decode"]["tokens_per_second"]["hybrid"] > 0
    assert set(found["window"]["window"]["ms_by_length"]) == {"32", "64"}


@pytest.mark.parametrize(
    ("flags", "text"),
    [(["--device", "cpu", "--toy"], "--toy needs --out"), (["--device", "cpu"], "--device cpu goes with --toy")],
)
def test_toy_numbers_do_not_land_among_results_nor_real_ones_come_from_a_cpu(run, capsys, flags, text):
    with pytest.raises(SystemExit) as refused:
        run(*flags)
    assert refused.value.code == 2 and text in capsys.readouterr().err


def test_a_row_that_would_begin_too_late_is_left_out_and_named(run, tmp_path):
    with pytest.raises(SystemExit, match="0 minutes were over before loss, window; run again with --only loss window"):
        run("--device", "cpu", "--toy", "--out", str(tmp_path), "--minutes", "0", "--only", "window", "loss")
    assert not list(tmp_path.iterdir())


def test_documents_are_as_long_as_web_texts_and_attention_counts_what_they_show(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    gpu = importlib.import_module("gpu")
    corpus = gpu.web(1 << 20, 257)
    lengths = torch.from_numpy(corpus.documents).diff().double()
    assert 900 < lengths.mean() < 1080 and lengths.min() >= 20 and lengths.unique().numel() > 500
    assert (corpus.tokens[corpus.documents] == corpus.bos_id).all()
    size = dataclasses.replace(gpu.TOY, length=1024)
    packed, hybrid = (gpu.Training(size, "cpu", hybrid=hybrid) for hybrid in (False, True))
    tokens = size.rows * size.length
    whole = tokens * gpu.flops_per_token(packed.learner.model, packed.settings["model"])
    assert 0.5 * whole < packed.flops() < whole
    monkeypatch.setattr(gpu, "Documents", lambda ids: Documents(torch.zeros_like(ids)))  # one document a row
    for one in (packed, hybrid):
        counted = tokens * gpu.flops_per_token(one.learner.model, one.settings["model"])
        assert one.flops() == pytest.approx(counted, rel=1e-9)


def test_without_cuda_it_says_so(run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="error: torch sees no CUDA device; run on a machine with a GPU"):
        run()


def test_the_roofline_counts_products_exactly_and_finds_generated_kernels_to_move_less(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    roofline = importlib.import_module("roofline")
    monkeypatch.setattr(roofline.cross_entropy, "AT_ONCE", 1 << 10)
    plain, fused = (roofline.loss(64, 128, 16, device="cpu", fused=fused) for fused in (False, True))
    with roofline.counted(False) as count:
        leaves = [torch.empty(n, 16, device="meta", requires_grad=True) for n in (64, 128)]
        targets = torch.empty(64, device="meta", dtype=torch.long)
        out = roofline.cross_entropy._Nll.apply(*leaves, targets, 0.0, 8, torch.bfloat16)
        out.backward(torch.empty_like(out))
    assert count.flops == 4 * 2 * 64 * 128 * 16 and count.launches == plain["launches"]
    assert plain["chunks"] == fused["chunks"] == 8 and 0 < fused["launches"] < plain["launches"] / 2
    assert fused["ms"] < plain["ms"]
