"""gptq: equal to the textbook, better than rounding to nearest, and open about every matrix it could not treat as usual."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests import tiny

from ablab.artifact import compressors
from ablab.artifact.arrays import Packed
from ablab.artifact.compressors.calibration import Calibration
from ablab.artifact.compressors.gptq import Gptq
from ablab.artifact.compressors.quantised import matrices
from ablab.artifact.compressors.solve import How, solve
from ablab.core.rng import stream
from ablab.model import embeddings
from ablab.model.decoder import build
from ablab.model.parts.rounding import codes, most, rounded, scales

MIXED = {"L": tiny.kind("l", 8, mlp={"name": "moe", "n_experts": 4}), "G": tiny.kind("g", None)}
SMALL: dict[str, Any] = {"small": 300, "tokens": 2000}
gptq = functools.partial(tiny.lever, compressors.slot, "gptq")


def drawn(name: str, *size: int) -> torch.Tensor:
    return torch.from_numpy(stream(0, "test", "gptq", name).standard_normal(size))


def every(value: float) -> dict[str, float]:
    """The same for all families: the embedding has its own unless told."""
    return {"default": value, "embedding": value}


def textbook(
    w: torch.Tensor, h: torch.Tensor, scale: torch.Tensor, bits: int, damp: float, act_order: bool
) -> torch.Tensor:
    """Frantar et al. 2022, algorithm 1, in fp64, one column at a time, with the inverse written out."""
    w, h, columns = w.double().clone(), h.double().clone(), w.shape[1]
    dead = h.diagonal() == 0
    mean = h.diagonal()[~dead].mean()
    h[dead, dead], w[:, dead] = 1.0, 0.0
    order = torch.argsort(h.diagonal(), descending=True, stable=True) if act_order else torch.arange(columns)
    damped = h + damp * mean * torch.eye(columns, dtype=torch.float64)
    w, inverse = w[:, order], torch.linalg.inv(damped[order][:, order])
    upper, found = torch.linalg.cholesky(inverse, upper=True), torch.zeros_like(w)
    for j in range(columns):
        found[:, j] = torch.round(w[:, j] / scale[:, 0]).clamp(-most(bits), most(bits))
        wrong = (w[:, j] - found[:, j] * scale[:, 0]) / upper[j, j]
        w[:, j:] -= wrong[:, None] * upper[j, j:]
    return found[:, torch.argsort(order)]


def problem(rows: int = 24, columns: int = 40, inputs: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights, and the Hessian of inputs that hang together."""
    x = drawn("x", inputs, columns) @ drawn("mix", columns, columns) * torch.linspace(0.1, 2, columns)
    return drawn("w", rows, columns) * 0.02, x.mT @ x / inputs


def loss(w: torch.Tensor, q: torch.Tensor, h: torch.Tensor) -> float:
    """tr(E H E^T)."""
    return float((((w - q).double() @ h.double()) * (w - q).double()).sum())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny model with a mixture in one layer, after 30 steps; its weights and what its matrices see."""
    out: Path = tmp_path_factory.mktemp("trained")
    settings = tiny.settings(30, model=tiny.model(kinds=MIXED, tied=False), validate_every=30 * 128)
    tiny.trained(out, settings)
    weights = load_file(out / "weights.safetensors")

    def model() -> Any:
        made = build(settings["model"], vocab_size=tiny.VOCAB, seed=0)
        made.load_state_dict(weights)
        return made

    calibration = Calibration(model, tiny.corpus(), 32, seed=0)
    return {"weights": weights, "calibration": calibration, "hessians": calibration.hessians(2000)}


def quantised(trained: dict[str, Any], **settings: Any) -> tuple[Packed, dict[str, torch.Tensor]]:
    """The parts under `settings`, and the weights that come back."""
    packed = gptq(**SMALL | settings).quantise(trained["weights"], trained["calibration"])
    return packed, Gptq.restore(packed.parts, packed.meta)


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("block", [1, 7, 40, 128])
@pytest.mark.parametrize(("rows", "columns"), [(24, 40), (1, 3), (5, 1)])
def test_codes_are_the_textbooks(rows: int, columns: int, act_order: bool, block: int) -> None:
    w, h = problem(rows, columns)
    scale = scales(w, 4, sigmas=4.0)
    solved = solve(w[None], h[None], scale[None], 4, How(0.01, act_order, block))
    assert torch.equal(solved.codes_nRC[0].double(), textbook(w, h, scale, 4, 0.01, act_order)) and solved.damps == [
        0.01
    ]


@pytest.mark.parametrize("sigmas", [1.0, 12.85])
def test_a_trained_models_codes_are_the_textbooks(trained: dict[str, Any], sigmas: float) -> None:
    packed, _ = quantised(trained, sigmas=every(sigmas), bits=every(6))
    made = {part.name: torch.from_numpy(part.array) for part in packed.parts}
    seen = 0
    for name in matrices(trained["weights"], SMALL["small"]):
        if name not in trained["hessians"]:
            continue
        w, h = (t.view(-1, *t.shape[-2:]) for t in (trained["weights"][name], trained["hessians"][name]))
        for i, (w_RC, h_CC) in enumerate(zip(w, h)):
            wanted = textbook(w_RC, h_CC, scales(w_RC, 6, sigmas=sigmas).double(), 6, 0.01, True)
            assert torch.equal(made[name].view(w.shape)[i].double(), wanted), name
            seen += 1
    assert seen == 19  # 4 and 8 in the mixture's layer, 6 in the other, the head


@pytest.mark.parametrize("bits", [3, 6])
def test_beats_rounding_to_nearest_on_every_matrix(trained: dict[str, Any], bits: int) -> None:
    sigmas = 12.85 if bits == 6 else 3.0
    _, back = quantised(trained, bits=every(bits), sigmas=every(sigmas), small=0)
    seen = 0
    for name in matrices(trained["weights"], 0):
        if name not in trained["hessians"]:
            continue
        triple = (trained["weights"][name], back[name], trained["hessians"][name])
        for w, q, h in zip(*(t.view(-1, *t.shape[-2:]) for t in triple)):
            scale = scales(w, bits, sigmas=sigmas)
            assert loss(w, q, h) < loss(w, codes(w, scale, bits) * scale, h), name
            seen += 1
    assert seen == 19


def test_what_it_says_of_each_tensor(trained: dict[str, Any]) -> None:
    packed, back = quantised(trained)
    weights = trained["weights"]
    assert {k: (v.shape, v.dtype) for k, v in back.items()} == {k: (v.shape, v.dtype) for k, v in weights.items()}
    table = packed.report["schemes"]
    assert {k: v["tensors"] for k, v in table.items()} == {
        "as is": 2, "fp16": 9, "gptq int6": 12, "gptq int8": 1, "rtn int8 row maximum: no inputs": 1,
    }  # fmt: skip
    assert sum(row["numbers"] for row in table.values()) == sum(t.numel() for t in weights.values())
    assert sum(row["bytes"] for row in table.values()) == sum(part.array.nbytes for part in packed.parts)
    assert "no inputs are known of: embed.weight; rounded to nearest by row maximum" in packed.report["notes"]
    groups = {part.name: part.group for part in packed.parts}
    assert groups["layers.0.attn.projection.q_proj.weight"] == "attn_q"
    assert groups["layers.0.mlp.experts.down_proj.weight"] == "mlp_out"
    assert groups["lm_head.weight"] == "embedding" and groups["lm_head.weight:scale"] == "scale"
    assert groups["final_norm.weight"] == "control"


def test_families_have_their_own_bits_and_sigmas(trained: dict[str, Any]) -> None:
    packed, _ = quantised(trained, bits={"attn": 5, "mlp": 4, "embedding": 7}, sigmas={"attn": 3.0})
    bits = {part.name: part.bits for part in packed.parts}
    assert bits["layers.0.attn.o_proj.weight"] == 5 and bits["layers.1.mlp.up_proj.weight"] == 4
    assert bits["lm_head.weight"] == bits["embed.weight"] == 7
    w = trained["weights"]["layers.0.attn.o_proj.weight"]
    stored = {part.name: part.array for part in packed.parts}["layers.0.attn.o_proj.weight:scale"]
    assert torch.equal(torch.from_numpy(stored).float(), scales(w, 5, sigmas=3.0)[:, 0])


def test_the_tied_embedding_is_rounded_against_the_final_norm() -> None:
    model = build(tiny.model(), vocab_size=tiny.VOCAB, seed=0)
    calibration = Calibration(lambda: model, tiny.corpus(), 32)
    packed = gptq(**SMALL).quantise(dict(model.state_dict()), calibration)
    assert packed.report["schemes"]["gptq int8"]["tensors"] == 1 and not packed.report["notes"]


def test_a_dead_column_becomes_zero_and_is_said() -> None:
    w, h = problem()
    h[3], h[:, 3] = 0, 0
    scale = scales(w, 6, sigmas=12.85)
    solved = solve(w[None], h[None], scale[None], 6, How())
    assert (
        torch.equal(solved.codes_nRC[0].double(), textbook(w, h, scale, 6, 0.01, True))
        and not solved.codes_nRC[0, :, 3].any()
    )
    model = build(tiny.model(), vocab_size=tiny.VOCAB, seed=0)
    with torch.no_grad():
        model.layers[0].mlp.up_proj.weight[5] = 0  # a hidden unit that is always 0
    packed = gptq(**SMALL).quantise(dict(model.state_dict()), Calibration(lambda: model, tiny.corpus(), 32))
    assert packed.report["notes"] == [
        "columns whose input was always 0 became 0 in: layers.0.mlp.down_proj.weight (1 of 128)"
    ]
    found = {part.name: part.array for part in packed.parts}["layers.0.mlp.down_proj.weight"]
    assert not found[:, 5].any() and found.any(0).sum() == 127


def test_few_tokens_and_unreached_experts_are_said() -> None:
    kinds = {"L": tiny.kind("l", 8, mlp={"name": "moe", "n_experts": 32}), "G": tiny.kind("g", None)}
    model = build(tiny.model(kinds=kinds), vocab_size=tiny.VOCAB, seed=0)
    weights = dict(model.state_dict())
    calibration = Calibration(lambda: model, tiny.corpus(), 32)
    packed = gptq(small=300, tokens=32).quantise(weights, calibration)
    rows = calibration.rows["layers.0.mlp.experts.up_proj.weight"]
    assert sum(rows) == 64 and 0 in rows and calibration.read == 32  # two experts of each token
    few, reached = rows.index(next(n for n in rows if n)), rows.index(0)
    notes = {text.split(":")[0]: text for text in packed.report["notes"]}
    assert (
        f"up_proj.weight[{few}] ({rows[few]} of 32)"
        in notes["fewer calibration rows than columns, so only damping decides between some"]
    )
    assert f"up_proj.weight[{reached}]" in notes["nothing but 0 reached"]
    name = "layers.0.mlp.experts.up_proj.weight"
    made = torch.from_numpy({part.name: part.array for part in packed.parts}[name])[reached]
    assert torch.equal(made, codes(weights[name][reached], scales(weights[name][reached], 6), 6))
    assert packed.report["schemes"]["rtn int6 row maximum: no inputs"]["numbers"] == 2 * rows.count(0) * 32 * 32


def test_a_table_is_rounded_by_row_maximum_and_predicted_by_its_codes() -> None:
    asked = tiny.model(embedding=tiny.choice(embeddings.slot, {"name": "bigram_hash", "size": 64, "dim": 24}))
    model = build(asked, vocab_size=tiny.VOCAB, seed=0)
    name = next(n for n, _ in model.named_parameters() if n.endswith("table.weight"))
    with torch.no_grad():
        model.get_parameter(name).copy_(0.02 * drawn("table", 64, 24))
    weights = dict(model.state_dict())
    calibration = Calibration(lambda: model, tiny.corpus(), 32)
    for turn in (False, True):
        packed = gptq(**SMALL, hadamard=turn).quantise(weights, calibration)
        back = Gptq.restore(packed.parts, packed.meta)[name]
        assert float((back - weights[name]).norm() / weights[name].norm()) < 0.03  # 0.11 under 12.85 sigmas
    packed = gptq(**SMALL).quantise(weights, calibration)
    assert torch.equal(Gptq.restore(packed.parts, packed.meta)[name], rounded(weights[name], 6))
    scheme = "rtn int6 row maximum: no inputs"
    assert packed.report["schemes"][scheme] == {"tensors": 1, "numbers": 64 * 24, "bytes": 64 * 24 + 2 * 64}
    one = {name: weights[name]}
    _, counts = np.unique({p.name: p.array for p in packed.parts}[name], return_counts=True)
    wanted = float((counts * np.log2(counts.sum() / counts)).sum()) / 8 + 2 * 64
    assert gptq(**SMALL).quantise(one, calibration).report["predicted_bytes"] == pytest.approx(wanted)
    rest = gptq(**SMALL).quantise({n: w for n, w in weights.items() if n != name}, calibration)
    both = packed.report["predicted_bytes"]
    assert both == pytest.approx(rest.report["predicted_bytes"] + wanted)


def test_a_singular_hessian_is_damped_until_it_factors() -> None:
    w, h = problem(inputs=8)  # rank 8 of 40
    h = h - 0.2 * h.diagonal().mean() * torch.eye(40)  # and a broken one: negative directions
    scale = scales(w, 6, sigmas=12.85)
    solved = solve(w[None], h[None], scale[None], 6, How())
    assert solved.damps == [1.0] and torch.equal(solved.codes_nRC[0].double(), textbook(w, h, scale, 6, 1.0, True))


def test_raised_damping_is_said(trained: dict[str, Any]) -> None:
    class Broken(Calibration):
        def hessians(self, tokens: int) -> dict[str, torch.Tensor]:
            found = super().hessians(tokens)
            h = found["layers.1.attn.o_proj.weight"]
            h -= 0.2 * h.diagonal().mean() * torch.eye(len(h))
            return found

    broken = Broken(trained["calibration"].model, tiny.corpus(), 32)
    packed = gptq(**SMALL).quantise(trained["weights"], broken)
    assert packed.report["notes"][-1] == "damping raised until a factor existed: layers.1.attn.o_proj.weight (1)"


def test_same_parts_in_any_order_of_the_weights(trained: dict[str, Any]) -> None:
    def parts(weights: dict[str, torch.Tensor]) -> list[tuple[str, bytes]]:
        settings: dict[str, Any] = {**SMALL, "lqer": 2, "hadamard": True}
        packed = gptq(**settings).quantise(weights, trained["calibration"])
        return [(part.name, part.array.tobytes()) for part in packed.parts]

    weights = trained["weights"]
    assert parts(weights) == parts({name: weights[name].clone() for name in reversed(weights)})


def test_batches_of_matrices_round_like_one(trained: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from ablab.artifact.compressors import against, solve

    together, _ = quantised(trained)
    monkeypatch.setattr(against, "AT_ONCE", 1)
    monkeypatch.setattr(solve, "ROWS_AT_ONCE", 100)
    alone, _ = quantised(trained)
    assert all((a.array == b.array).all() for a, b in zip(together.parts, alone.parts))


BAD = [
    ({"bits": 0}, "bits = 0 cannot hold a signed code; choose 2 to 16"),
    ({"bits": 17}, "bits = 17 cannot hold a signed code; choose 2 to 16"),
    ({"bits": {"mlp": 1}}, "bits.mlp = 1 cannot hold a signed code; choose 2 to 16"),
    ({"sigmas": 0.0}, "sigmas = 0.0 clips everything away; choose a positive number, 12.85 for 6 bits"),
    ({"sigmas": {"attn": -1.0}}, "sigmas.attn = -1.0 clips everything away; choose a positive number"),
    ({"sigmas": {"embedding": 0.0}}, "sigmas.embedding = 0.0 clips everything away; choose a positive number"),
    ({"sigmas": {"mlp": 1e-9}}, "sigmas.mlp = 1e-09 clips nearly everything away; choose 0.1 or more, 12.85 as usual"),
    ({"solver": {"damp": 0.0}}, "solver.damp = 0.0 leaves a singular Hessian as it is; choose a positive number, 0.01"),
    ({"solver": {"block": 0}}, "solver.block = 0 holds no column; choose 1 or more, 128 as usual"),
    ({"tokens": 0}, "tokens = 0 calibrate nothing; choose 1 or more, at least as many as columns"),
    ({"lqer": -1}, "lqer = -1 is negative; choose 0 or more"),
    ({"small": -1}, "small = -1 is negative; choose 0 or more"),
    ({"lqer": {"tensors": 2, "rank": 0}}, "lqer.rank = 0 holds nothing; choose 1 or more, or leave it out"),
    (
        {"lqer": {"rank": 3}},
        "lqer.rank = 3 acts on nothing without lqer.tensors; give lqer.tensors = 1 or more, or leave it out",
    ),
]


@pytest.mark.parametrize(("settings", "text"), BAD, ids=[" ".join(f"{k}={v}" for k, v in s.items()) for s, _ in BAD])
def test_bad_numbers_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError) as caught:
        gptq(**settings)
    assert str(caught.value).startswith(text)


def test_bad_weights_and_calibrations_are_refused(trained: dict[str, Any]) -> None:
    weights, calibration = trained["weights"], trained["calibration"]
    with pytest.raises(
        ValueError, match=r"^gptq rounds against inputs and has no calibration; pack within a study, or"
    ):
        gptq().quantise(weights)
    name = "layers.1.mlp.up_proj.weight"
    for number in (float("nan"), float("-inf")):
        broken = weights[name].clone()
        broken[3, 2] = number
        with pytest.raises(ValueError, match=f"^{name} holds a number that is not finite; pack weights of a run that"):
            gptq().quantise({**weights, name: broken}, calibration)
    with pytest.raises(
        ValueError, match=r"has shape \(128, 16\) and inputs of \(32, 32\); calibrate with the model that"
    ):
        gptq(**SMALL).quantise({**weights, name: weights[name][:, :16]}, calibration)
    with pytest.raises(
        ValueError, match=r"^a Hessian is not finite; calibrate with weights that compute finite numbers"
    ):
        solve(torch.ones(1, 2, 2), torch.full((1, 2, 2), torch.nan), torch.ones(1, 2, 1), 6, How())
    with pytest.raises(
        ValueError,
        match=r"^a Hessian is not positive, and damping up to 1000 of its mean diagonal does not make it so;",
    ):
        solve(torch.ones(1, 2, 2), -torch.eye(2)[None], torch.ones(1, 2, 1), 6, How())


def test_rows_that_the_clip_takes_most_of_are_said(trained: dict[str, Any]) -> None:
    name = "layers.1.mlp.up_proj.weight"
    flat = {**trained["weights"], name: torch.full_like(trained["weights"][name], 0.7)}
    rows = len(flat[name])
    packed, _ = quantised({**trained, "weights": flat})
    [note] = [note for note in packed.report["notes"] if "takes most of rows" in note]
    assert f": {name} ({rows} of {rows});" in note
    assert not [note for note in quantised(trained)[0].report["notes"] if "takes most of rows" in note]


def test_the_miniature_rounds_the_same_tensors() -> None:
    choice = tiny.choice(compressors.slot, "gptq")
    small = Gptq.miniature(choice, {"d_model": 512}, {"d_model": 64})
    assert small == {"small": 1024, "tokens": 512}
    kept, cut = 128 * 512, 256 * 512  # the largest that passes through, the smallest that does not
    assert kept <= choice["small"] < cut and kept // 64 <= small["small"] < cut // 64
