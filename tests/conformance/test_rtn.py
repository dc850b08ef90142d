"""rtn, and what it shares with gptq: rules, passthrough, types, the account, the way back."""

from __future__ import annotations

import functools
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import tiny

from ablab.artifact import compressors
from ablab.artifact import pack as artifact
from ablab.artifact.arrays import Packed
from ablab.artifact.compressors import passthrough, quantised
from ablab.artifact.compressors.rtn import Rtn
from ablab.core.rng import stream
from ablab.model.decoder import build
from ablab.model.parts.rounding import rounded

rtn = functools.partial(tiny.lever, compressors.slot, "rtn")
gptq = functools.partial(tiny.lever, compressors.slot, "gptq")
NAME = "layers.0.mlp.up_proj.weight"


def drawn(name: str, *size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.from_numpy(stream(0, "test", "rtn", name).standard_normal(size)).to(dtype)


def weights(**model: Any) -> dict[str, torch.Tensor]:
    return dict(build(tiny.model(**model), vocab_size=tiny.VOCAB, seed=0).state_dict())


def back(packed: Packed) -> dict[str, torch.Tensor]:
    meta = json.loads(json.dumps(packed.meta))  # as it lies in an artifact
    return Rtn.restore(packed.parts, meta)


def kept(packed: Packed) -> dict[str, Any]:
    return {part.name: part for part in packed.parts}


@pytest.mark.parametrize("bits", [2, 5, 8, 9, 16])
@pytest.mark.parametrize("per", ["row", "tensor"])
@pytest.mark.parametrize("sigmas", [0.0, 3.0])
def test_restores_what_rounding_leaves(bits: int, per: Any, sigmas: float) -> None:
    made = {NAME: drawn("w", 12, 40), "layers.0.mlp.experts.up_proj.weight": drawn("stack", 3, 4, 10)}
    packed = rtn(bits=bits, per=per, sigmas=sigmas, small=0).quantise(made)
    found = back(packed)
    for name, w in made.items():
        assert torch.equal(found[name], rounded(w, bits, sigmas=sigmas, per=per))
    part = kept(packed)[NAME]
    assert part.bits == bits and part.array.dtype == (np.int8 if bits <= 8 else np.int16)
    assert np.abs(part.array.astype(int)).max() <= 2 ** (bits - 1) - 1
    assert kept(packed)[f"{NAME}:scale"].array.shape == ((12,) if per == "row" else ())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("policy", ["fp16", "int8"])
def test_types_shapes_and_names_come_back(dtype: torch.dtype, policy: Any) -> None:
    made = {name: t.to(dtype) for name, t in weights(tied=False).items()}
    made |= {
        "steps": torch.tensor([3, -1]), "used": torch.tensor([True]), "small.int16": torch.tensor([5], dtype=torch.int16),
        "layers.0.mlp.router.weight": drawn("router", 4, 40, dtype=dtype), "scale": torch.tensor(0.3, dtype=dtype),
        "nothing": torch.zeros(0, 4, dtype=dtype),
    }  # fmt: skip
    packed = rtn(small=600, passthrough=policy).quantise(made)
    found = back(packed)
    assert list(found) == sorted(made)
    assert all(found[k].dtype == t.dtype and found[k].shape == t.shape for k, t in made.items())
    for name in ("steps", "used", "small.int16", "layers.0.mlp.router.weight", "nothing"):
        assert torch.equal(found[name], made[name])
    for name in ("scale", "final_norm.weight", "layers.0.attn.projection.k_proj.weight"):
        assert torch.allclose(found[name].double(), made[name].double(), rtol=2e-2, atol=1e-3)


def test_restoring_twice_gives_the_same_bits() -> None:
    packed = rtn(small=100, passthrough="int8", hadamard=True, lqer=4, bits=4).quantise(weights())
    one, other = back(packed), back(packed)
    assert packed.meta["rotated"] and all(torch.equal(one[k], other[k]) for k in one)


class NoInputs:
    """A calibration that knows the inputs of nothing."""

    def __init__(self) -> None:
        self.rows, self.read = dict[str, list[int]](), 131_072

    def hessians(self, tokens: int) -> dict[str, torch.Tensor]:
        return {}


def test_the_int8_policy_is_path_a_v3() -> None:
    made = {
        "layers.0.gate.weight": drawn("gate", 8, 12), "layers.0.attn_D": drawn("scale", 512),
        "skips.weight_nD": drawn("n", 5, 512), "layers.0.attn.temperature.gain_H": drawn("gain", 8),
        "mixer.scale": torch.tensor(0.05),
    }  # fmt: skip
    table = {"embedding.bigram.table.weight": 0.02 * drawn("table", 1024, 80)}
    packed = gptq(passthrough="int8").quantise({**made, **table}, NoInputs())
    assert packed.report["schemes"].pop("rtn int6 row maximum: no inputs")["bytes"] == 1024 * 80 + 2 * 1024
    assert torch.equal(back(packed)[next(iter(table))], rounded(next(iter(table.values())), 6))
    assert {k: (v["tensors"], v["bytes"]) for k, v in packed.report["schemes"].items()} == {
        "fp16": (2, 18), "int8 row": (1, 96 + 2 * 8), "int8 tensor": (2, 512 + 4 + 5 * 512 + 4),
    }  # fmt: skip
    parts, found = kept(packed), back(packed)
    assert parts["layers.0.gate.weight:scale"].array.dtype == np.float16
    assert parts["skips.weight_nD:scale"].array.dtype == np.float32 and parts["skips.weight_nD:scale"].array.shape == ()
    step = np.float32(float(made["layers.0.attn_D"].abs().max()) / 127)
    assert parts["layers.0.attn_D:scale"].array == step
    wanted = torch.round(made["layers.0.attn_D"].double() / float(step)) * float(step)
    assert torch.equal(found["layers.0.attn_D"], wanted.float())
    assert torch.equal(found["layers.0.gate.weight"], rounded(made["layers.0.gate.weight"], 8))
    assert torch.equal(found["mixer.scale"], torch.tensor(0.05).half().float())
    plain = rtn().quantise(made).report["schemes"]
    assert plain["fp16"] == {"tensors": 5, "numbers": 96 + 512 + 2560 + 9, "bytes": 2 * (96 + 512 + 2560 + 9)}


@pytest.mark.parametrize("policy", ["fp16", "int8"])
def test_what_fp16_cannot_hold_is_kept_and_said(policy: Any) -> None:
    made = {
        "a.gain_H": torch.tensor([1.0, 1e6]),
        "b.gain_H": torch.tensor([1e300], dtype=torch.float64),
        "c": torch.ones(2),
    }
    packed = rtn(passthrough=policy).quantise(made)
    assert packed.report["notes"][1:] == [
        "a.gain_H holds numbers beyond fp16 and is kept in fp32", "b.gain_H holds numbers beyond fp16 and is kept in fp64",
    ]  # fmt: skip
    assert all(torch.equal(back(packed)[k], t) for k, t in made.items())
    assert set(packed.report["schemes"]) == {"fp16", "fp32", "fp64"}
    with pytest.raises(
        ValueError, match=f"^{NAME} holds numbers too large for a fp16 scale; scale the weights down, or"
    ):
        rtn(small=0).quantise({NAME: torch.full((2, 4), 1e10)})


def test_small_and_the_names_decide_what_is_rounded() -> None:
    made = {
        "embed.weight": drawn("e", 8, 8), "layers.0.mlp.router.weight": drawn("r", 8, 8), "final_norm.weight": drawn("f", 64),
        "skips.weight_nD": drawn("s", 8, 8), "steps.weight": torch.ones(8, 8, dtype=torch.int64), NAME: drawn("u", 8, 9),
    }  # fmt: skip
    assert quantised.matrices(made, 71) == [NAME] and quantised.matrices(made, 63) == ["embed.weight", NAME]
    assert quantised.matrices(made, 72) == []
    assert rtn(small=72).quantise(made).report["notes"] == ["no matrix is large enough to be rounded; lower `small`"]


def test_families_have_their_own_bits_and_sigmas() -> None:
    packed = rtn(small=100, bits={"default": 7, "attn": 5, "mlp": 4, "embedding": 6}, sigmas={"mlp": 2.0}).quantise(
        weights()
    )
    parts, made = kept(packed), weights()
    names = ("layers.0.attn.o_proj.weight", NAME, "embed.weight")
    assert [parts[name].bits for name in names] == [5, 4, 6]
    assert torch.equal(back(packed)[NAME], rounded(made[NAME], 4, sigmas=2.0))
    assert torch.equal(back(packed)[names[0]], rounded(made[names[0]], 5))
    assert {k: v["tensors"] for k, v in packed.report["schemes"].items() if k != "fp16"} == {
        "rtn int4": 4, "rtn int5": 8, "rtn int6": 1,
    }  # fmt: skip


def test_groups_are_roles() -> None:
    moe = {"L": tiny.kind("l", 8, mlp={"name": "moe", "n_experts": 2}, projection="tpa"), "G": tiny.kind("g", None)}
    packed = rtn(small=0).quantise(weights(kinds=moe, tied=False))
    found = {part.name: part.group for part in packed.parts}
    wanted = {
        "layers.0.attn.projection.a_q.weight": "attn_q", "layers.1.attn.projection.v_proj.weight": "attn_kv",
        "layers.0.attn.projection.b_k.weight": "attn_kv", "layers.1.attn.o_proj.weight": "attn_o",
        "layers.0.mlp.experts.up_proj.weight": "mlp_in", "layers.1.mlp.down_proj.weight": "mlp_out",
        "embed.weight": "embedding",
        "lm_head.weight": "embedding", "layers.0.mlp.router.weight": "matrix", "layers.0.mlp.router.expert_bias": "control",
        "final_norm.weight": "control", "embed.weight:scale": "scale",
    }  # fmt: skip
    assert {name: found.get(name) for name in wanted} == wanted


# openai/parameter-golf, PR #1394: 0.5 log2(2 pi e) - log2(k / (2^(b-1) - 1)), three decimals as printed there.
TABLE = [
    (6, 12.85, 3.318), (6, 13, 3.301), (6, 12, 3.416), (6, 11.5, 3.478), (6, 10, 3.679), (8, 20, 4.714), (7, 15, 4.117),
    (7, 14, 4.217), (7, 20, 3.702), (6, 20, 2.679),
]  # fmt: skip


@pytest.mark.parametrize(("bits", "sigmas", "wanted"), TABLE)
def test_the_entropy_formula(bits: int, sigmas: float, wanted: float) -> None:
    found = quantised.entropy(bits, sigmas)
    assert found is not None and abs(found - wanted) < 1e-3
    packed = rtn(bits=bits, sigmas=sigmas).quantise({NAME: drawn("normal", 64, 4096)})
    _, counts = np.unique(kept(packed)[NAME].array, return_counts=True)
    share = counts / counts.sum()
    step = sigmas / (2 ** (bits - 1) - 1)  # in standard deviations; the formula is the limit of small steps
    assert abs(-(share * np.log2(share)).sum() - found - step**2 / 24 * math.log2(math.e)) < 0.003  # codes, counted


def test_the_size_of_golfs_model_is_predicted() -> None:
    """Of its 31,719,424 matrix weights at 3.318 bits and 4,194,304 embedding weights at 4.714."""
    found = [quantised.entropy(6, 12.85) or math.nan, quantised.entropy(8, 20.0) or math.nan]
    assert abs((31_719_424 * found[0] + 4_194_304 * found[1]) / 8 - 15_627_125) < 2300  # three decimals were printed
    made = {**weights(), "mixer.mix": torch.zeros(())}
    report = rtn(small=100, bits=6, sigmas=12.85).quantise(made).report
    numbers = sum(made[name].numel() for name in quantised.matrices(made, 100))
    rows = sum(made[name].shape[0] for name in quantised.matrices(made, 100))
    rest = sum(t.numel() for t in made.values()) - numbers
    expected = numbers * (quantised.entropy(6, 12.85) or math.nan) / 8 + 2 * rows + 2 * rest
    assert report["predicted_bytes"] == pytest.approx(expected, rel=1e-12)
    assert rtn(small=100).quantise(made).report["predicted_bytes"] is None  # no clip: one number decides the step
    assert rtn(small=10**6, sigmas=3.0).quantise(made).report["predicted_bytes"] is None  # nothing is coded
    assert quantised.entropy(2, 12.85) is None and quantised.entropy(6, 0.0) is None


def test_through_an_artifact_and_back() -> None:
    made = weights()
    choice = tiny.choice(compressors.slot, {"name": "rtn", "small": 100, "lqer": 1, "passthrough": "int8"})
    from ablab.artifact import codecs

    blob, report = artifact.pack(choice, tiny.choice(codecs.slot, "raw"), made)
    direct = back(compressors.slot.build(choice).quantise(made))
    found = artifact.unpack(blob)
    assert all(torch.equal(found[k], direct[k]) for k in made) and report["lqer"]


@given(st.integers(1, 5), st.integers(1, 7), st.integers(2, 16), st.floats(1e-6, 1e3), st.booleans())
@settings(deadline=None, max_examples=60)
def test_every_code_is_the_nearest(rows: int, columns: int, bits: int, size: float, per_row: bool) -> None:
    w = size * drawn(f"{rows} {columns}", rows, columns, dtype=torch.float64)
    packed = rtn(bits=bits, per="row" if per_row else "tensor", small=0).quantise({NAME: w})
    scale = kept(packed)[f"{NAME}:scale"].array.astype(np.float64)
    step = torch.from_numpy(np.broadcast_to(scale.reshape(-1, 1), (rows, 1)).copy())
    off = (back(packed)[NAME] - w).abs()
    inside = w.abs() <= step * (2 ** (bits - 1) - 0.5)
    assert bool((off <= step * 0.5000001)[inside].all())


BAD = [
    ({"bits": 0}, "bits = 0 cannot hold a signed code; choose 2 to 16"),
    ({"bits": 17}, "bits = 17 cannot hold a signed code; choose 2 to 16"),
    ({"bits": {"embedding": 17}}, "bits.embedding = 17 cannot hold a signed code; choose 2 to 16"),
    ({"sigmas": -1.0}, "sigmas = -1.0 is negative; choose 0 (the largest magnitude) or more"),
    ({"sigmas": {"mlp": -1.0}}, "sigmas.mlp = -1.0 is negative; choose 0 (the largest magnitude) or more"),
    ({"sigmas": 1e-9}, "sigmas = 1e-09 clips nearly everything away; choose 0.1 or more, 12.85 as usual for 6 bits"),
    (
        {"sigmas": {"mlp": 0.09}},
        "sigmas.mlp = 0.09 clips nearly everything away; choose 0.1 or more, 12.85 as usual for 6 bits",
    ),
    ({"small": -1}, "small = -1 is negative; choose 0 or more"),
    ({"lqer": -1}, "lqer = -1 is negative; choose 0 or more"),
    ({"lqer": {"tensors": 2, "rank": 0}}, "lqer.rank = 0 holds nothing; choose 1 or more, or leave it out"),
    (
        {"lqer": {"rank": 3}},
        "lqer.rank = 3 acts on nothing without lqer.tensors; give lqer.tensors = 1 or more, or leave it out",
    ),
]


@pytest.mark.parametrize(("given", "text"), BAD, ids=[" ".join(f"{k}={v}" for k, v in s.items()) for s, _ in BAD])
def test_bad_numbers_are_refused(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError) as caught:
        rtn(**given)
    assert str(caught.value) == text


def test_bad_weights_are_refused() -> None:
    for name, bad in (("final_norm.weight", math.nan), (NAME, math.inf), ("layers.0.mlp.router.bias", -math.inf)):
        made = {**weights(), name: torch.full((3, 3), bad)}
        with pytest.raises(
            ValueError, match=f"^{name} holds a number that is not finite; pack weights of a run that did"
        ):
            rtn().quantise(made)
    with pytest.raises(ValueError, match=r"^a:b has a colon, which parts of a tensor have; rename it"):
        rtn().quantise({"a:b": torch.ones(2)})


def test_rows_that_the_clip_takes_most_of_are_named_and_counted() -> None:
    """The rule is the field's: a clip in standard deviations about 0, wherever the row's mean lies."""
    stack, far = "layers.0.mlp.experts.up_proj.weight", "layers.1.mlp.up_proj.weight"
    made = {NAME: torch.full((32, 32), 0.7), far: drawn("far", 8, 40) * 0.01 + 5, stack: drawn("stack", 2, 4, 30)}
    made[stack][1, 3] += 100
    made["layers.2.mlp.up_proj.weight"] = drawn("plain", 8, 40)
    packed = rtn(small=0, bits=6, sigmas=12.85).quantise(made)
    assert float(back(packed)[NAME].abs().max()) < 0.01  # the rule stays
    [note] = packed.report["notes"]
    assert note == (
        "the clip in standard deviations takes most of rows whose mean is far from 0, or whose clip is narrow: "
        f"{stack} (1 of 8), {NAME} (32 of 32), {far} (8 of 8); "
        "raise sigmas, or round by the largest magnitude (rtn, sigmas = 0)"
    )
    assert rtn(small=0, bits=6).quantise(made).report["notes"] == []
    assert (
        rtn(small=0, bits=6, sigmas=12.85, hadamard=True).quantise({NAME: drawn("turned", 8, 64)}).report["notes"] == []
    )
    whole = rtn(small=0, per="tensor", sigmas=3.0).quantise({NAME: torch.full((4, 8), 0.7)}).report["notes"]
    assert "(4 of 4)" in whole[0]


def test_tensors_without_plain_numbers_are_refused_by_name() -> None:
    for odd, said in (
        (
            torch.ones(4, 4).to(torch.float8_e4m3fn),
            "float8_e4m3fn, which is rounded already; pack the weights as trained",
        ),
        (torch.eye(4).to_sparse(), "sparse, which cannot be packed; give the numbers themselves, densely"),
        (torch.ones(4, 4, device="meta"), "on no device (meta), which cannot be packed; give the numbers"),
    ):
        with pytest.raises(ValueError) as caught:
            rtn(small=0).quantise({NAME: odd})
        assert str(caught.value).startswith(f"{NAME} is {said}")


def test_a_router_is_exact_whatever_its_size() -> None:
    assert passthrough.is_exact("layers.0.mlp.router.weight", torch.ones(600, 600))
    assert not passthrough.is_exact(NAME, torch.ones(2)) and passthrough.is_exact("x", torch.ones(2, dtype=torch.int8))


def test_the_miniature_scales_small() -> None:
    choice = tiny.choice(compressors.slot, "rtn")
    assert Rtn.miniature(choice, {"d_model": 512}, {"d_model": 64}) == {"small": 1024}
