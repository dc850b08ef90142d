"""Mixtures: equal to a plain loop, blind to how batches are cut, counted, balanced, kept over a stop, and reported."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests import tiny
from torch import Tensor, nn

from ablab.check.miniature import splits
from ablab.core.fault import Interrupted, InvalidStudy
from ablab.core.rng import Draw
from ablab.judging.judge import said_by_levers
from ablab.model import mlps
from ablab.model.decoder import build, skeleton
from ablab.model.mlps.activations import GATED, PLAIN
from ablab.model.mlps.moe import Moe
from ablab.model.parts import grouped
from ablab.model.parts.grouped import Stacked
from ablab.model.parts.routing import MixtureTally, balance, squared_mass
from ablab.model.routers.deepseek_v3 import DeepseekV3
from ablab.model.routers.softmax_topk import SoftmaxTopk
from ablab.model.shape import Shape
from ablab.report import html, markdown
from ablab.training.learner import Learner
from ablab.training.metrics import WALL

SIZES: dict[str, Any] = {"n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "seq_len": 32, "vocab_size": 9, "n_layers": 2}
SEQUENCE = {"name": "moe", "n_experts": 4, "ratio": 0.5, "balance": "sequence", "balance_weight": 0.3, "z_loss": 0.05}


def made(
    dtype: torch.dtype = torch.float64, *, bias: bool = True, router: Any = DeepseekV3, d: int = 32, **own: Any
) -> Moe:
    """A mixture with its router, drawn; biases are drawn too, so that a lost one is seen."""
    shape = Shape(d_model=d, bias=bias, n_experts=own.get("n_experts", 8), **SIZES)
    moe = Moe(shape, **own)
    moe.router = router(shape)
    for path, part in moe.named_modules():
        if hasattr(part, "init"):
            part.init(Draw(0, path))
    for name, p in moe.named_parameters():
        if name.endswith("bias"):
            Draw(0).normal_(p, name, 0.1)
        else:
            p.data *= 10
    return moe.to(dtype)


def inputs(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def loop(moe: Moe, x_ND: Tensor) -> Tensor:
    """One token, one expert at a time."""
    routed = moe.router(x_ND)

    def times(stack: Stacked, e: int, x_D: Tensor) -> Tensor:
        y = stack.weight[e] @ x_D
        return y if stack.bias is None else y + stack.bias[e]

    out = []
    for n, x_D in enumerate(x_ND):
        total = torch.zeros_like(x_D)
        for e, weight in zip(routed.experts_NK[n].tolist(), routed.weights_NK[n]):
            h = times(moe.experts.up_proj, e, x_D)
            kind = moe.experts.activation
            h = GATED[kind](times(moe.experts.gate_proj, e, x_D), h) if kind in GATED else PLAIN[kind](h)
            total = total + weight * times(moe.experts.down_proj, e, h)
        out.append(total if moe.shared is None else total + moe.shared(x_D))
    return torch.stack(out)


@pytest.mark.parametrize("activation", [*PLAIN, *GATED])
@pytest.mark.parametrize(("bias", "shared"), [(True, 0.5), (False, 0.0)])
def test_equal_to_a_plain_loop(activation: Any, bias: bool, shared: float) -> None:
    moe = made(bias=bias, shared=shared, activation=activation, n_experts=6, ratio=0.7)
    x = inputs(2, 9, 32).requires_grad_()
    names, values = zip(("x", x), *moe.named_parameters())
    ours, wanted = moe(x), loop(moe, x.flatten(0, 1)).view_as(x)
    torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-12)
    g = inputs(2, 9, 32)
    for name, a, b in zip(names, torch.autograd.grad(ours, values, g), torch.autograd.grad(wanted, values, g)):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")
        assert a.abs().sum() > 0, name


@pytest.mark.parametrize("widths", [(16, 8), (6, 5)])  # of whole 16 bytes, and not: two ways to the same numbers
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_grouped_product(widths: tuple[int, int], dtype: torch.dtype) -> None:
    """Against the loop in fp64 on the same rounded numbers; bf16 results are off by one rounding, 2^-8, at most."""
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 2**-7}[dtype]
    for counts in ([3, 0, 1, 17, 2], [0, 0, 5], [4], [0, 0]):
        ends, e = torch.tensor(counts).cumsum(0).to(torch.int32), len(counts)
        x = inputs(sum(counts), widths[0], dtype=dtype).requires_grad_()
        own = torch.float32 if dtype == torch.bfloat16 else dtype  # the parameters' own type, as under autocast
        w, b = (inputs(*s, dtype=own).requires_grad_() for s in ((e, widths[1], widths[0]), (e, widths[1])))
        y = grouped.product(x, w, b, ends)
        exact = [t.detach().to(dtype).double().requires_grad_() for t in (x, w, b)]
        wanted = torch.cat([p @ exact[1][i].T + exact[2][i] for i, p in enumerate(exact[0].split(counts))])
        g = inputs(sum(counts), widths[1], dtype=dtype)
        found = (y, *torch.autograd.grad(y, (x, w, b), g))
        right = (wanted, *torch.autograd.grad(wanted, exact, g.double()))
        assert [t.dtype for t in found] == [dtype, dtype, own, own]
        for a, c in zip(found, right):
            torch.testing.assert_close(a.double(), c, rtol=tolerance, atol=tolerance)
    with pytest.raises(ValueError, match=r"rows \(3, 4\) with 2 ends do not fit weights \(2, 5, 6\)"):
        grouped.product(torch.zeros(3, 4), torch.zeros(2, 5, 6), None, torch.tensor([1, 3]))


def test_gradients_by_finite_differences() -> None:
    moe, x = made(n_experts=4, ratio=0.25, activation="gelu", d=6), inputs(4, 6).requires_grad_()
    names = [n for n, _ in moe.named_parameters()]

    def by_parameters(x: Tensor, *values: Tensor) -> Tensor:
        y: Tensor = torch.func.functional_call(moe, dict(zip(names, values)), x)
        return y

    assert torch.autograd.gradcheck(by_parameters, (x, *moe.parameters()))


def test_each_token_stands_alone_and_one_at_a_time_is_equal() -> None:
    moe, x = made(shared=0.5), inputs(2, 12, 32)
    y = moe(x)
    one_by_one = torch.cat([moe(x[:, t : t + 1], None) for t in range(12)], dim=1)
    torch.testing.assert_close(one_by_one, y, rtol=1e-13, atol=1e-13)
    changed = x.clone()
    changed[1, 3] += 1
    moved = ((moe(changed) - y).abs() > 1e-12).any(-1)
    assert moved[1, 3] and int(moved.sum()) == 1
    assert moe(x[:0]).shape == (0, 12, 32)


def test_bf16_under_autocast() -> None:
    moe, x = made(torch.float32, shared=0.5, activation="swiglu"), inputs(2, 40, 32, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = moe(x)
        z = moe(x.bfloat16())
    assert y.dtype == z.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in moe.parameters())
    exact = made(shared=0.5, activation="swiglu")(x.double()).detach()
    assert float((y.detach() - exact).norm() / exact.norm()) < 0.02


def test_parameters_of_the_published_mixture() -> None:
    """The 256 experts of width 128 at d_model 1024, one shared expert of width 512, with biases."""
    shape = Shape(d_model=1024, bias=True, n_experts=256, **SIZES)
    with torch.device("meta"):
        moe = Moe(shape, n_experts=256, ratio=0.125, shared=0.5)
        moe.router = DeepseekV3(shape, top_k=4, n_groups=8, group_top_k=4)

    def size(part: nn.Module) -> int:
        return sum(p.numel() for p in part.parameters())

    assert size(moe.experts) == 256 * 263_296 and size(moe.router) == 262_400
    assert moe.shared is not None and size(moe.shared) == 1_050_112
    assert moe.experts.up_proj.used == moe.experts.down_proj.used == 4 / 256
    names = [name for name, _ in moe.named_parameters() if not name.startswith("shared")]
    assert names == [
        "experts.up_proj.weight",
        "experts.up_proj.bias",
        "experts.down_proj.weight",
        "experts.down_proj.bias",
        "router.weight",
        "router.bias",
    ]


def test_what_it_tells() -> None:
    """Counts are of the routing as it was; losses are sums over rows and tokens, and nothing is told when nobody asks."""
    moe = made(balance="sequence", balance_weight=0.5, z_loss=0.25)
    moe.router.expert_bias += torch.tensor([9.0, 9, 0, 0, 0, 0, 0, 0])  # everybody goes to the first two
    x, aux = inputs(3, 10, 32), MixtureTally()
    assert torch.equal(moe(x, aux), moe(x))
    assert aux.counts[moe.router].tolist() == [30, 30, 0, 0, 0, 0, 0, 0]
    routed = moe.router(x.flatten(0, 1))
    by_row, mass = balance(routed.shares_NE.view(3, 10, 8), 2).sum(), squared_mass(routed.logits_NE)
    taken = aux.take(rows=6, tokens=60)
    torch.testing.assert_close(taken, 0.5 * by_row / 6 + 0.25 * mass / 60)
    assert aux.take(rows=6, tokens=60) is None
    moe(x, aux)
    assert aux.counts[moe.router].tolist() == [60, 60, 0, 0, 0, 0, 0, 0]
    aux.after_step()
    assert moe.router.expert_bias.tolist() == pytest.approx([8.999, 8.999, *[0.001] * 6])
    health = aux.health(nn.ModuleDict({"mlp": moe}))
    assert health["dead"] == 6 and health["max_load_pct"] == 50 and health["bias_range"] == pytest.approx(8.998)
    assert [row["layer"] for row in health["layers"]] == ["mlp"]
    whole, aux = made(balance="switch"), MixtureTally()
    whole(x, aux)
    shares = whole.router(x.flatten(0, 1)).shares_NE
    torch.testing.assert_close(aux.take(rows=3, tokens=30), 1e-2 * balance(shares[None], 2)[0])
    plain = made(router=SoftmaxTopk)
    plain(x, aux)
    aux.after_step()  # a router without a bias is counted and left alone
    assert aux.health(plain)["bias_range"] is None and aux.take(rows=1, tokens=1) is None


def model(mlp: Any = SEQUENCE, router: Any = "deepseek_v3") -> dict[str, Any]:
    """Two layers, the second one a mixture."""
    return tiny.model(kinds={"L": tiny.kind("local", 8), "G": tiny.kind("global", None, mlp=mlp, router=router)})


def learner(**how: Any) -> Learner:
    given = {"seed": 0, "precision": "fp64", "micro_rows": 4, "executor": "lift", "device": "cpu"} | how
    return Learner(tiny.settings(model=given.pop("model", model())), tiny.corpus(), **given)


def test_how_a_batch_is_cut_changes_no_gradient_and_no_bias() -> None:
    found = {}
    for micro_rows in (4, 2, 1, 3):
        one = learner(micro_rows=micro_rows)
        loss = one.step(one.stream.batch(0), 1, 0.0)[0]
        gradients = {name: p.grad.clone() for name, p in one.parameters.items() if p.grad is not None}
        found[micro_rows] = (loss, gradients, one.model.layers[1].mlp.router.expert_bias.clone(), one.health)
    loss, gradients, bias, health = found.pop(4)
    assert bias.abs().sum() > 0 and health["layers"][0]["layer"] == "layers.1.mlp"
    for other in found.values():
        assert other[0] == pytest.approx(loss, abs=1e-12) and torch.equal(other[2], bias) and other[3] == health
        for name, g in gradients.items():
            torch.testing.assert_close(other[1][name], g, rtol=1e-10, atol=1e-13)


def test_balance_is_in_the_gradient_and_not_in_the_loss() -> None:
    plain, weighed = (learner(model=model(mlp)) for mlp in ({"name": "moe", "n_experts": 4, "ratio": 0.5}, SEQUENCE))
    batch = plain.stream.batch(0)
    assert plain.gradients(batch) == weighed.gradients(batch)
    gaps = {
        name: float((p.grad - weighed.parameters[name].grad).abs().max())  # type: ignore[operator]
        for name, p in plain.parameters.items()
    }
    assert gaps["layers.1.mlp.router.weight"] > 1e-6 and gaps["layers.1.mlp.experts.up_proj.weight"] < 1e-15


def test_a_balance_over_the_batch_forbids_to_split_it() -> None:
    switch = model({**SEQUENCE, "balance": "switch"})
    learner(model=switch, micro_rows=4)
    with pytest.raises(InvalidStudy) as raised:
        learner(model=switch, micro_rows=2)
    assert str(raised.value) == (
        'model.layers.1.mlp: balance = "switch" is no sum over parts of a batch, but its 4 rows go through 2 at a time; '
        'use balance = "sequence", or a batch that fits into memory at once'
    )


def test_packing_changes_nothing() -> None:
    decoder = build(model(), vocab_size=tiny.VOCAB, seed=0, dtype=torch.float64)
    text = tiny.corpus(2)
    rows = [torch.from_numpy(text.tokens[at : at + n].astype("int64")) for at, n in zip(text.documents, (13, 19))]
    packed, ids = torch.cat(rows)[None], torch.tensor([[0] * 13 + [1] * 19])
    together = decoder.nll(packed, packed.roll(-1, 1), ids)[0]
    alone = [decoder.nll(r[None], r.roll(-1)[None], torch.zeros(1, len(r), dtype=torch.long))[0] for r in rows]
    for a, b in zip(together.split([13, 19]), alone):
        torch.testing.assert_close(a[:-1], b[:-1], rtol=1e-11, atol=1e-11)


def test_shared_parameters_start_alike_and_experts_do_not_move_when_one_is_added() -> None:
    four, six = (build(model({**SEQUENCE, "n_experts": n}), vocab_size=tiny.VOCAB, seed=0) for n in (4, 6))
    dense = build(tiny.model(), vocab_size=tiny.VOCAB, seed=0)
    state, more = four.state_dict(), six.state_dict()
    for name, tensor in dense.state_dict().items():
        if "layers.1.mlp" not in name:
            assert torch.equal(tensor, state[name]), name
    name = "layers.1.mlp.experts.up_proj.weight"
    assert torch.equal(state[name], more[name][:4])
    assert four.roles()[name] == "matrix" and four.roles()["layers.1.mlp.router.weight"] == "matrix"


def test_training_resumes_bit_for_bit_with_its_bias_and_reports(tmp_path: Path) -> None:
    settings = tiny.settings(steps=8, model=model())
    where = dataclasses.replace(tiny.WHERE, micro_rows=2)
    done = tiny.trained(tmp_path / "whole", settings, where=where)
    asked = iter([False] * 5 + [True] * 9)
    with pytest.raises(Interrupted):
        tiny.trained(tmp_path / "cut", settings, where=where, stop=lambda: next(asked))
    tiny.trained(tmp_path / "cut", settings, where=where)
    files = [tmp_path / part / "weights.safetensors" for part in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()
    rows = [
        [{k: v for k, v in json.loads(line).items() if k not in WALL} for line in path.open()]
        for path in (tmp_path / "whole" / "metrics.jsonl", tmp_path / "cut" / "metrics.jsonl")
    ]
    assert rows[0] == rows[1]
    last = rows[0][-2]
    assert {"moe.cv_pct", "moe.entropy", "moe.max_load_pct", "moe.dead", "moe.bias_range"} <= last.keys()
    assert rows[0][-1]["moe.layers"] == done["routing"]["layers"]
    assert done["routing"]["bias_range"] == last["moe.bias_range"] > 0


def test_the_report_shows_health_where_there_is_a_mixture() -> None:
    path = Path(__file__).parents[1] / "golden" / "verdict_example.json"
    verdict = json.loads(path.read_text(encoding="utf-8"))
    assert "Routing health" not in markdown.page(verdict) + html.page(verdict)
    mixed = copy.deepcopy(verdict)
    arm = mixed["arms"][1]["name"]
    health = {"cv_pct": 42.5, "entropy": 1.25, "max_load_pct": 37.5, "dead": 3, "bias_range": 0.004, "layers": [{}, {}]}
    for run in mixed["runs"]:
        if run["arm"] == arm:
            run["routing"] = health
    lines = markdown.page(mixed).splitlines()
    table = lines[lines.index("## Routing health") :]
    assert [cell.strip() for cell in table[4].split("|")[2:-1]] == ["2", "42.5%", "1.250", "37.5%", "3", "0.004"]
    assert table[5] == "" and table[4].startswith(f"| `{arm}` |")
    assert html.page(mixed).count("Routing health") == 2  # the heading and the list of contents


def test_impossible_settings_are_refused() -> None:
    for settings, text in (
        ({"n_experts": 0}, "n_experts = 0 is no mixture; choose 1 or more"),
        ({"ratio": 0.001}, "ratio = 0.001 leaves no hidden unit; choose a ratio above 0.03125"),
        ({"shared": -1.0}, "shared = -1.0 leaves no hidden unit; choose a shared above 0.03125"),
        ({"z_loss": -0.1}, "z_loss = -0.1 is negative; choose 0 or more"),
        ({"balance": "switch", "balance_weight": -1.0}, "balance_weight = -1.0 is negative; choose 0 or more"),
        (
            {"balance_weight": 0.1},
            'balance_weight = 0.1 weighs nothing while balance = "none"; choose "sequence" or "switch"',
        ),
    ):
        choice, faults = mlps.slot.coerce({"name": "moe", **settings}, "mlp")
        assert not faults
        with pytest.raises(ValueError) as raised:
            mlps.slot.build(choice, Shape(d_model=32, **SIZES))
        assert str(raised.value) == text
    with pytest.raises(RuntimeError, match="a mixture needs a router before it is called; the model sets it"):
        Moe(Shape(d_model=32, **SIZES))(torch.zeros(1, 2, 32))


RANK = """
import sys, torch
from ablab.model.routers.deepseek_v3 import DeepseekV3
from ablab.model.parts.routing import MixtureTally
from ablab.model.shape import Shape
rank, where = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method="file://" + where, rank=rank, world_size=2)
shape = Shape(d_model=8, n_heads=1, n_kv_heads=1, head_dim=8, seq_len=8, vocab_size=9, n_layers=1, n_experts=4)
router, aux = DeepseekV3(shape), MixtureTally()  # its bias is built as zeros
aux.count(router, torch.tensor([[9, 0, 4, 0], [1, 2, 0, 0]][rank]))  # together 10, 2, 4, 0
aux.after_step()
print([round(1000 * b) for b in router.expert_bias.tolist()])
torch.distributed.destroy_process_group()
"""


def test_counts_are_added_up_over_processes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RANK]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src"), "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "meet")], env=environment, stdout=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=600)[0].strip() for process in both]
    assert said == ["[-1, 1, 0, 1]"] * 2  # alone, rank 0 would say [-1, 1, -1, 1]


def test_check_says_what_the_parts_have_to_say_and_refuses_a_split() -> None:
    group = {"name": "deepseek_v3", "n_groups": 2, "group_top_k": 2}
    switch = model({**SEQUENCE, "balance": "switch"})
    arms = {name: model(router=group) for name in ("one", "two")} | {"cut": switch, "dense": tiny.model()}
    corpus, run = tiny.corpus(), SimpleNamespace()
    made = {name: SimpleNamespace(settings=tiny.settings(model=m)) for name, m in arms.items()}
    plan: Any = SimpleNamespace(
        study=SimpleNamespace(with_baseline={"baseline": made["dense"], **made}, path=Path("mix.toml")),
        seeds=[0],
        runs={(name, 0): run for name in (*made, "baseline")},
        corpus=lambda _: corpus,
        decoder=lambda name: skeleton(made.get(name, made["dense"]).settings["model"], vocab_size=corpus.vocab_size),
        where=SimpleNamespace(micro_rows=2),
        per_run=1,
    )
    assert said_by_levers(plan) == [
        "warning: router deepseek_v3: n_groups = 2, group_top_k = 2 limits nothing: every group stays open (one, two)"
    ]
    (fault,) = splits(plan)
    assert fault.place == "mix.toml: cut: model.layers.1.mlp"
    plan.where.micro_rows = 4
    assert splits(plan) == []
