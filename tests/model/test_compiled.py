"""The compiled step: same numbers and names as the eager one; decided once per study; devices that are not there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from tests import tiny
from tests.conformance.test_levers import CASES, called, settings

from ablab.core.fault import CheckFailed
from ablab.model import compiled
from ablab.model.decoder import build
from ablab.records.run import Where
from ablab.runs.planning import resolve_where
from ablab.runtime import capacity
from ablab.training.learner import Learner


def inputs():
    tokens = torch.arange(96).view(3, 32) * 7 % tiny.VOCAB
    ids = torch.zeros_like(tokens)
    ids[1, 11:] = 1
    return tokens, tokens.roll(-1, 1), ids


def graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def test_a_compiled_model_has_the_numbers_and_names_of_the_eager_one_and_layers_of_a_kind_share_their_code():
    """By dynamo's tracing and autograd's, without code generation: what a GPU adds is the generated kernels alone."""
    kinds = {"L": tiny.kind("local", 8, softmax="sink", position="fox")}
    sizes = tiny.model(layers="LL", kinds=kinds)
    plain, traced = (build(sizes, vocab_size=tiny.VOCAB, seed=1) for _ in range(2))
    before = graphs()
    compiled.compile_layers(traced, backend="aot_eager")
    assert list(plain.state_dict()) == list(traced.state_dict())
    wanted, found = plain.nll(*inputs()), traced.nll(*inputs())
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)
    wanted.sum().backward(), found.sum().backward()
    for (name, a), (_, b) in zip(traced.named_parameters(), plain.named_parameters()):
        torch.testing.assert_close(a.grad, b.grad, atol=2e-5, rtol=2e-5, msg=name)
    assert (after := graphs()) > before, "something was compiled"
    deep = build(tiny.model(layers="LLLL", kinds=kinds), vocab_size=tiny.VOCAB, seed=1)
    compiled.compile_layers(deep, backend="aot_eager")
    deep.nll(*inputs())
    assert graphs() == after, "compile time does not grow with depth"


WARM = 10  # batches in which every kind of batch (rows of one document, rows of several) has been seen


def packed(draw: torch.Generator, batch: int, rows: int = 2, length: int = 32):
    """A batch of random documents; the first is of whole rows."""
    ids = torch.zeros(rows, length, dtype=torch.long)
    for row in ids if batch else ():
        cuts = torch.randperm(length - 1, generator=draw)[: int(torch.randint(0, 7, (), generator=draw))] + 1
        row[cuts] = 1
        row.cumsum_(0)
    tokens = torch.randint(0, tiny.VOCAB, (rows, length), generator=draw)
    return tokens, tokens.roll(-1, 1), ids


def compiled_over(sizes, batches: int) -> tuple[int, int, list[str]]:
    """Graphs after the first WARM batches, graphs at the end, and why a graph was broken."""
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    model, draw = build(sizes, vocab_size=tiny.VOCAB, seed=1), torch.Generator().manual_seed(0)
    compiled.compile_layers(model, backend="aot_eager")
    for batch in range(batches):
        model.nll(*packed(draw, batch)).sum().backward()
        if batch + 1 == WARM:
            warm = graphs()
    return warm, graphs(), list(counters["graph_break"])


BREAKS = (
    "Skip calling `torch.compiler.disable()`d function"  # attention and experts, where a graph is broken on purpose
)


def constant(sizes, batches: int) -> None:
    warm, end, broken = compiled_over(sizes, batches)
    assert warm == end > 0, f"{warm} graphs after {WARM} batches, {end} after {batches}"
    assert all(why.startswith(BREAKS) for why in broken), broken


def hybrid():
    kinds = {
        "L": tiny.kind("local", 8, position="grape_m", softmax="sink", projection="tpa"),
        "R": tiny.kind("local", 8, position="rope", mlp={"name": "moe", "n_experts": 4}, router="deepseek_v3"),
        "G": tiny.kind("global", None, position="grape_a"),
    }
    return tiny.model(layers="LRG", kinds=kinds)


def test_documents_of_any_length_make_no_new_graph():
    constant(hybrid(), 300)


@pytest.mark.minutes
@pytest.mark.parametrize("case", CASES, ids=called)
def test_no_lever_makes_graphs_over_300_batches(case):
    constant(settings(case), 300)


def test_no_function_ends_in_a_cast_that_may_change_nothing():
    """torch 2.11 gives such a Function, compiled, wrong gradients in silence: they end in `in_type`."""
    checked = 0
    for path in Path(compiled.__file__).parents[1].rglob("*.py"):
        for made in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(made, ast.ClassDef) and any("autograd.Function" in ast.unparse(b) for b in made.bases)):
                continue
            forward = next(f for f in made.body if isinstance(f, ast.FunctionDef) and f.name == "forward")
            for leaves in (n for n in ast.walk(forward) if isinstance(n, ast.Return)):
                checked += 1
                ends = leaves.value.elts if isinstance(leaves.value, ast.Tuple) else [leaves.value]
                for end in ends:
                    cast = isinstance(end, ast.Call) and isinstance(end.func, ast.Attribute) and end.func.attr == "to"
                    assert not cast, f"{path}:{leaves.lineno}: {made.name} ends in .to(...); return in_type(y, dtype)"
    assert checked > 10


def test_a_learner_compiles_where_it_is_told_to(monkeypatch):
    seen = []
    monkeypatch.setattr("ablab.training.learner.compile_layers", seen.append)
    how = {"seed": 0, "precision": "fp32", "micro_rows": 2, "executor": "lift", "device": "cpu"}
    for told in (False, True):
        learner = Learner(tiny.settings(), tiny.corpus(), compiled=told, **how)
        assert seen == ([learner.model] if told else [])


def test_only_gpus_compile():
    assert not compiled.compiles("cpu") and compiled.compiles("cuda") and compiled.compiles("cuda:1")


def test_compilation_is_part_of_where_and_of_the_training_key(tmp_path):
    ask = {"device": "cuda", "precision": "bf16", "executor": "lift", "micro_rows": 4}
    where = resolve_where(tmp_path / "where.json", compiled=True, **ask)
    assert where.compiled and where.as_json()["compiled"] is True
    assert resolve_where(tmp_path / "where.json", compiled=True, **ask) == where
    assert Where(*ask.values()).as_json() != where.as_json()


@pytest.mark.parametrize("value", ["0", '"x"', "true", "4.0"])
def test_a_number_of_rows_that_nobody_wrote_is_refused(tmp_path, value):
    path = tmp_path / "where.json"
    ask = {"device": "cpu", "precision": "fp32", "executor": "lift", "micro_rows": 4}
    resolve_where(path, compiled=False, **ask)
    path.write_text(path.read_text().replace('"micro_rows": 4', f'"micro_rows": {value}'))
    with pytest.raises(CheckFailed, match=r"where\.json: holds .*micro_rows.*; delete it"):
        resolve_where(path, compiled=False, **ask)


def test_a_device_that_is_not_there_is_refused():
    capacity.require("cpu")
    with pytest.raises(CheckFailed, match="--device: 'gpu' names no device; choose cpu or cuda"):
        capacity.require("gpu")
    with pytest.raises(CheckFailed, match="--device: runs are not made on 'meta'; choose cpu or cuda"):
        capacity.require("meta")


def test_without_cuda_the_refusal_says_why(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for version, why in ((None, "was built without CUDA"), ("13.0", "sees no GPU")):
        monkeypatch.setattr(torch.version, "cuda", version)
        with pytest.raises(CheckFailed, match=f"--device cuda: torch .* {why}; run where there is one") as refused:
            capacity.require("cuda")
        assert refused.value.exit_code == 4
