"""What a machine offers: precision by its flags, micro-batches by its memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests import tiny

from ablab.artifact import container
from ablab.core.fault import CheckFailed
from ablab.launch import local, work
from ablab.launch.board import Board
from ablab.records.run import Where
from ablab.runs.store import Store
from ablab.runtime import capacity, machine
from ablab.training import memory


@pytest.mark.parametrize(
    ("flags", "word"),
    [({"avx2", "fma"}, "fp32"), ({"avx2", "avx512f"}, "fp32"), ({"avx512_bf16"}, "bf16"), ({"amx_bf16"}, "bf16")],
)
def test_bf16_only_where_the_cpu_multiplies_it(monkeypatch: pytest.MonkeyPatch, flags: set[str], word: str) -> None:
    monkeypatch.setattr(capacity, "cpu_flags", lambda: frozenset(flags))
    assert capacity.precision("cpu") == word


def test_precisions() -> None:
    assert [machine.dtype_of(word) for word in ("fp32", "bf16", "fp64")] == [
        torch.float32,
        torch.float32,
        torch.float64,
    ]
    with pytest.raises(ValueError, match="no precision is called 'fp16'; choose fp32, bf16 or fp64"):
        machine.dtype_of("fp16")
    for word in ("fp32", "bf16"):
        with machine.autocast(word, "cpu"):
            assert torch.is_autocast_enabled("cpu") == (word == "bf16")


def big(seq_len: int = 512, rows: int = 64, **model: Any) -> dict[str, Any]:
    sizes = tiny.model(d_model=128, head_dim=32, seq_len=seq_len, layers="LGLG", **model)
    return tiny.settings(model=sizes, batch_tokens=rows * seq_len)


def fit(settings: list[dict[str, Any]], memory_bytes: int, vocab_size: int = 257) -> int:
    return memory.fit_micro_rows(settings, memory_bytes=memory_bytes, vocab_size=vocab_size)


def test_micro_rows_follow_memory_and_the_largest_arm() -> None:
    sizes = [fit([big()], held) for held in (1 << 20, 1 << 30, 4 << 30, 1 << 40)]
    assert sizes[0] == 1 and sizes == sorted(sizes) and sizes[1] < sizes[-1] == 64
    assert all(n & (n - 1) == 0 for n in sizes)
    assert fit([big()], 16 << 30, vocab_size=200_000) == 64, (
        "logits are made in pieces: a large vocabulary needs no more"
    )
    assert fit([big(), big(seq_len=4096, rows=8)], 2 << 30) <= fit([big()], 2 << 30)
    assert fit([big(), big(seq_len=4096, rows=8)], 2 << 30) == fit([big(seq_len=4096, rows=8), big()], 2 << 30)


def test_a_gpus_larger_pieces_of_logits_are_counted() -> None:
    """4 GiB instead of 768 MiB, of which none where all logits of a micro-batch are fewer."""

    def on(device: str, held: int, vocab_size: int) -> int:
        return memory.fit_micro_rows([big()], memory_bytes=held, vocab_size=vocab_size, device=device)

    assert on("cpu", 4 << 30, 200_000) == 64 > on("cuda:0", 4 << 30, 200_000) >= 1
    assert on("cuda", 7 << 30, 200_000) == 64
    assert on("cuda", 4 << 30, 257) == on("cpu", 4 << 30, 257) == 64


def test_the_estimate_covers_what_a_step_really_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes saved for backward, counted by autograd itself, stay below the estimate, and above half of it."""
    from ablab.model.decoder import build

    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    few = {"name": "moe", "n_experts": 32, "ratio": 0.5}
    wide = {"name": "moe", "n_experts": 32, "ratio": 4.0, "activation": "swiglu", "shared": 1.0}
    for softmax, position, mlp, top_k in (
        ("vanilla", "rope", "relu2", 0), ("sink", "fox", "swiglu", 0), ("vanilla", "rope", "moe", 2),
        ("vanilla", "rope", few, 8), ("vanilla", "rope", wide, 4),
    ):  # fmt: skip
        levers = {"softmax": softmax, "position": position, "mlp": mlp}
        if top_k:
            levers["router"] = {"name": "softmax_topk", "top_k": top_k}
        kinds = {name[0].upper(): tiny.kind(name, window, **levers)
                 for name, window in (("local", 16), ("global", None))}  # fmt: skip
        settings = big(kinds=kinds)
        model = build(settings["model"], vocab_size=257, seed=0)
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        tokens = torch.arange(1024).view(2, 512) % 257
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model.nll(tokens, tokens, torch.zeros_like(tokens))
        used = sum(size for place, size in kept.items() if place not in weights)
        estimate = 2 * (memory.activation_bytes(settings["model"], 257) + 4 * 3 * 512 * 257)
        assert estimate / 2 < used < estimate, f"{softmax} {position} {mlp}: {used:,} of {estimate:,}"
        del loss


def test_provenance_names_the_machine_type() -> None:
    found = machine.describe()
    assert found["torch"] in found["machine"] and found["cores"] >= 1 and capacity.memory_bytes("cpu") > 1 << 26
    assert machine.lines(Path("/nowhere")) == []


@pytest.mark.parametrize(
    ("asked", "jobs", "each"),
    [(None, 1, 8), (None, 3, 2), (None, 16, 1), ("3", 1, 3), ("3", 4, 2), ("64", 2, 4), ("1", 1, 1), (" 5,2 ", 1, 5)],
)
def test_omp_num_threads_bounds_what_jobs_divide(
    asked: str | None, jobs: int, each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 8 cores every worker gets its share, and no more than OMP_NUM_THREADS; workers are started with that number."""
    monkeypatch.setattr(capacity, "cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    given = []

    def hand_out(wanted: Any, workers: Any, jobs: int, board: Any) -> None:
        given.append(workers._own().threads)

    monkeypatch.setattr(local, "_hand_out", hand_out)
    monkeypatch.setattr(local, "_wanted", lambda board: [])
    with tempfile.TemporaryDirectory() as folder:
        plan = SimpleNamespace(directory=Path(folder), store=Store(Path(folder)), where=None)
        local.execute(Board(plan, print), jobs=jobs)  # type: ignore[arg-type]
    assert given == [capacity.threads(jobs)] == [each]
    assert machine.describe()["omp_num_threads"] == (int(asked.split(",")[0]) if asked else None)


@pytest.mark.parametrize("asked", ["0", "-1", "two", "1.5", ","])
def test_an_omp_num_threads_that_is_no_number_is_refused(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    with pytest.raises(CheckFailed) as refused:
        capacity.threads(1)
    said = f"OMP_NUM_THREADS: '{asked}' is no number of threads; set a whole number from 1 on, or unset it"
    assert str(refused.value) == said


def test_a_worker_computes_with_the_threads_that_it_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its training says so in done.json; packing takes as many threads, and not every core of the machine."""
    before, seen = torch.get_num_threads(), []

    def do(run: Any, **how: Any) -> str:
        seen.append(torch.get_num_threads())
        return "done"

    monkeypatch.setattr(work, "do", do)
    monkeypatch.setattr(container, "ThreadPoolExecutor", lambda max_workers: seen.append(max_workers) or Inline())
    terms = work.Terms(Store(tmp_path), Where("cpu", "fp32", "reference", 1), 3, (), False)
    try:
        do_one = work.begin(terms, lambda: False)
        assert do_one(SimpleNamespace(study="", arm="a", seed=1, train_key="a", score_keys={}), print) == ("done", "")  # type: ignore[arg-type]
        assert container._side_by_side(lambda plain: plain, [b"a"] * 8) == [b"a"] * 8
    finally:
        torch.set_num_threads(before)
    assert seen == [3, 3]


class Inline:
    """A pool that works where it is called."""

    def map(self, do: Any, items: Any) -> Any:
        return map(do, items)

    def shutdown(self, **how: Any) -> None: ...
