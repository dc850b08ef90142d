"""Cached decoding gives the logits of the full forward, for every lever that there is."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import typer
from bench.kill_and_resume import STUDY
from safetensors.torch import load_file, save_file
from tests import tiny
from torch import Tensor

from ablab.cli import sample
from ablab.core.fault import Refused
from ablab.core.rng import stream
from ablab.data.tokenizers.bytes import Bytes
from ablab.model.cache import Cache
from ablab.model.decoder import Decoder, build, skeleton
from ablab.model.generate import Generated, choose, generate
from ablab.model.size import cache_size, factored
from ablab.runs.plan import Plan
from ablab.study.keys import IN_MODEL, OF_MODEL, SLOTS

V = tiny.VOCAB
LONG = 21  # more than two windows of 8


def made(
    *, dtype: torch.dtype = torch.float64, window: int | None = 8, model: dict[str, Any] | None = None, **levers: Any
) -> Decoder:
    """A tiny decoder of a windowed layer and a full one, its weights drawn large enough that everything speaks."""
    of_model = {k: levers.pop(k) for k in tuple(levers) if k in OF_MODEL}
    settings = tiny.model(
        kinds={"L": tiny.kind("local", window, **levers), "G": tiny.kind("global", None, **levers)},
        **{k: tiny.choice(SLOTS[k], v) for k, v in of_model.items()},
        **(model or {}),
    )
    decoder = build(settings, vocab_size=V, seed=3, device="cpu", dtype=dtype)
    draw = stream(5, "test", "decode")
    with torch.no_grad():  # zero-initialised parts must not hide
        for parameter in decoder.parameters():
            parameter.add_(0.2 * torch.from_numpy(draw.standard_normal(tuple(parameter.shape))).to(parameter.dtype))
    return decoder.eval()


def tokens_of(rows: int, length: int = LONG) -> Tensor:
    return torch.from_numpy(stream(1, "test", "tokens").integers(0, V, (rows, length)))


def cached(decoder: Decoder, tokens_BT: Tensor, ids_BT: Tensor, cuts: list[int]) -> Tensor:
    """Logits of decoding in stretches that end at `cuts`."""
    cache, found, start = Cache(decoder), [], 0
    with torch.no_grad():
        for end in [*cuts, tokens_BT.shape[1]]:
            found.append(decoder.logits(decoder(tokens_BT[:, start:end], ids_BT[:, start:end], cache=cache)))
            start = end
    return torch.cat(found, 1)


def check(decoder: Decoder, tolerance: float = 1e-9) -> None:
    """One token at a time; a prompt first; chunks, with documents that begin within one and where one begins."""
    tokens_BT = tokens_of(3)
    one = torch.zeros_like(tokens_BT)
    several = one.clone()
    several[0, 3:], several[1, 15:], several[1, 18:] = 1, 1, 2
    each = list(range(1, LONG))
    for ids_BT, ways in ((one, (each, [5, 6, 16])), (several, ([17, 18, 19, 20], [5, 15, 16]))):
        with torch.no_grad():
            full = decoder.logits(decoder(tokens_BT, ids_BT))
        for cuts in ways:
            found = cached(decoder, tokens_BT, ids_BT, cuts)
            assert (found - full).abs().max() <= tolerance * max(1, full.abs().max()), cuts


EVERY = [(slot, name) for slot in (*IN_MODEL, *OF_MODEL) for name in SLOTS[slot].names if slot != "router"]


@pytest.mark.parametrize(("slot", "name"), EVERY, ids=["-".join(each) for each in EVERY])
def test_every_lever_of_every_table(slot: str, name: str) -> None:
    levers: dict[str, Any] = {slot: name}
    if slot != "softmax":
        levers["softmax"] = "sink"
    check(made(**levers))


@pytest.mark.parametrize("router", SLOTS["router"].names)
def test_every_router(router: str) -> None:
    check(made(mlp="moe", router=router))


@pytest.mark.parametrize("name", SLOTS["position"].names)
def test_every_position_in_fp32(name: str) -> None:
    check(made(dtype=torch.float32, position=name, softmax="sink"), 2e-5)


COMPOSED: dict[str, dict[str, Any]] = {
    "rotation and potential": {"position": ["grape_m", "grape_a"], "softmax": "sink"},
    "rotation of each head and gates": {"position": [{"name": "grape_m", "per_head": True}, "fox"]},
    "two biases, one of them by pairs": {"position": ["rope", "grape_a", "t5_buckets"], "softmax": "off_by_one"},
    "two biases by pairs": {"position": ["t5_buckets", "grape_ap"], "softmax": "sink"},
    "part of the channels": {"position": {"name": "rope", "fraction": 0.5}, "temperature": "qk_gain"},
    "everything that looks back": {
        "embedding": ["bigram_hash", "smear_gate", "norm"],
        "value": "residual",
        "gate": "xsa",
    },
    "the other smear": {"embedding": {"name": "smear_gate", "form": "channel"}, "gate": ["attn_out_gate", "xsa"]},
    "two lanes and U-Net": {"block": "two_lane", "skips": "unet", "residual": ["mix", "branch_scale"]},
    "parallel": {"block": "parallel", "skips": {"name": "unet", "gated": False}, "residual": "depth_scale"},
    "factors": {"projection": {"name": "tpa", "rank": 1}, "softmax": "sink", "position": ["rope", "fox"]},
    "factors of a mixture": {"projection": {"name": "tpa", "rank": 1}, "mlp": "moe", "position": "grape_a"},
    "biased factors": {"projection": {"name": "tpa", "rank": 1, "bias": True}},
}


@pytest.mark.parametrize("levers", COMPOSED.values(), ids=COMPOSED)
def test_levers_together(levers: dict[str, Any]) -> None:
    check(made(**levers))


@pytest.mark.parametrize(
    "changed",
    [
        {"norm": "layer"},
        {"norm": "bare"},
        {"qk_norm": False},
        {"qk_norm": "after"},
        {"norm": "bare", "qk_norm": "after"},
        {"softcap": 5.0, "bias": True},
    ],
)
@pytest.mark.parametrize("projection", ["gqa", {"name": "tpa", "rank": 1}])
def test_plain_keys_of_the_model(changed: dict[str, Any], projection: Any) -> None:
    check(made(model=changed, projection=projection, position="rope"))


@pytest.mark.parametrize("position", ["rope", "fox", "grape_ap"])
def test_loops_have_a_memory_for_each_pass(position: str) -> None:
    decoder = made(model={"layers": "LGL", "loops": [(1, 3, 3)]}, position=position, skips="unet", value="residual")
    assert len(Cache(decoder).memories) == 7
    check(decoder)
    decoder.looping = False
    assert len(Cache(decoder).memories) == 3
    check(decoder)


@pytest.mark.parametrize("rank", [1, 2])
def test_factors_over_all_heads(rank: int) -> None:
    every = {"name": "tpa", "rank": rank, "factors": "heads"}
    decoder = made(model={"n_kv_heads": 4}, projection=every, position="rope", softmax="sink")
    assert factored(decoder.layers[0].attn)  # 2 rank (4 + 8) against 2 x 4 x 8
    check(decoder)


@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize("window", [1, 2, 5, 16, 64])
def test_windows_of_any_size(window: int, kv_heads: int) -> None:
    check(made(window=window, model={"n_kv_heads": kv_heads}, position=["rope", "grape_a"], softmax="sink"))


RANK1 = {"name": "tpa", "rank": 1}


def test_factors_are_kept_only_where_they_are_exact_and_smaller() -> None:
    def kept(**levers: Any) -> bool:
        return factored(made(**({"projection": RANK1, "position": "rope"} | levers)).layers[0].attn)

    assert kept()
    assert (
        not kept(model={"qk_norm": "after"})
        and kept(position="nope")
        and kept(position=["grape_m", "grape_a"])
        and kept(model={"qk_norm": False})
    )
    assert kept(position={"name": "grape_m_rank2"})
    assert not kept(projection={"name": "tpa", "rank": 2})  # 2 x 2 (2 + 8) = 40 against 2 x 2 x 8 = 32
    assert not kept(projection="gqa")
    assert not kept(projection=RANK1 | {"bias": True})
    assert not kept(position={"name": "grape_m", "per_head": True})
    assert not kept(position={"name": "grape_m_rank2", "per_head": True})
    assert not kept(model={"norm": "layer"})
    value = made(projection=RANK1, value="residual").layers
    assert factored(value[0].attn) and not factored(value[1].attn)  # the first layer's are its own


def test_factored_layers_write_neither_keys_nor_values() -> None:
    decoder = made(projection=RANK1, position="rope", model={"layers": "GG"})
    cache = Cache(decoder, room=40)
    with torch.no_grad():
        decoder(tokens_of(1, 12), torch.zeros(1, 12, dtype=torch.int64), cache=cache)
    assert cache.nbytes == 2 * 40 * (2 * (2 + 8)) * 8  # layers, columns, elements, fp64
    assert {name for memory in cache.memories for name in memory._kept} == {"a_k", "b_k", "a_v", "b_v"}


def test_prompts_of_unequal_length_in_one_batch_equal_each_alone() -> None:
    for position in (["rope", "grape_a"], "fox", "t5_buckets", "grape_ap", "grape_m_context"):
        decoder = made(position=position, softmax="sink", embedding=["bigram_hash", "smear_gate"], value="residual")
        drawn = tokens_of(3, 20).tolist()
        prompts = [drawn[0][:1], drawn[1][:13], drawn[2]]
        together = generate(decoder, prompts, 9, temperature=0)
        for prompt, tokens in zip(prompts, together.tokens, strict=True):
            assert generate(decoder, [prompt], 9, temperature=0).tokens == [tokens]
            row = torch.tensor([prompt + tokens])
            with torch.no_grad():
                z = decoder.logits(decoder(row, torch.zeros_like(row)))[0, len(prompt) - 1 : -1]
            assert z.argmax(-1).tolist() == tokens  # greedy by the full forward


def test_padded_logits_equal_those_of_the_row_alone() -> None:
    decoder = made(position=["grape_m", "fox"], softmax="sink", embedding="smear_gate", gate="xsa")
    row = tokens_of(1, 14)
    padded = torch.cat([torch.full((1, 11), 4), row], 1)
    ids = torch.cat([torch.zeros(1, 11, dtype=torch.int64), torch.ones(1, 14, dtype=torch.int64)], 1)
    with torch.no_grad():
        alone = decoder.logits(decoder(row, torch.zeros_like(row)))
    for cuts in ([16], [12, 13, 14, 20], [5, 11, 21]):
        assert (cached(decoder, padded, ids, cuts)[:, 11:] - alone).abs().max() < 1e-9


def test_the_sink_is_not_shifted_by_the_potential() -> None:
    """By the definition, written out: z = q.k/sqrt(K) - slope (i - j), and exp(s) beside the keys, unshifted."""
    decoder = made(position="grape_a", softmax="sink", projection="gqa", model={"layers": "G", "qk_norm": False})
    own = decoder.layers[0].attn
    with torch.no_grad():
        own.softmax.sink_H.copy_(torch.tensor([-1.0, 0.5, 2.0, 4.0]))
    seen: list[Tensor] = []
    own.gate.register_forward_hook(lambda _, args, out: seen.append(out))
    tokens_BT, n = tokens_of(1), LONG - 1
    ids = torch.zeros_like(tokens_BT)
    cached(decoder, tokens_BT, ids, [n])
    with torch.no_grad():
        x = decoder.layers[0].attn_norm(decoder.embed(tokens_BT))
        q, k, v = own.projection(x)
    q, k, v, sink = q.detach(), k.detach(), v.detach(), own.softmax.sink_H.detach()
    for h in range(4):
        z = [
            float(q[0, n, h] @ k[0, j, h // 2]) / math.sqrt(8) - float(own.position.slope_H[h]) * (n - j)
            for j in range(LONG)
        ]
        e = [math.exp(score) for score in z]
        below = sum(e) + math.exp(float(sink[h]))
        out = sum(weight / below * v[0, j, h // 2] for j, weight in enumerate(e))
        assert (seen[-1][0, 0, h] - out).abs().max() < 1e-12


def test_ntk_takes_its_base_from_the_declared_length() -> None:
    decoder = made(position={"name": "rope", "ntk": True}, model={"seq_len": 8})
    check(decoder)
    plain = cached(decoder, tokens_of(1), torch.zeros(1, LONG, dtype=torch.int64), [4])
    for layer in decoder.layers:
        layer.attn.position.declare(32)
    check(decoder)
    moved = cached(decoder, tokens_of(1), torch.zeros(1, LONG, dtype=torch.int64), [4])
    assert (moved - plain).abs().max() > 1e-3


def test_bf16_activations_give_a_bf16_cache() -> None:
    decoder = made(dtype=torch.float32, position=["rope", "grape_a"], softmax="sink")
    tokens_BT, ids = tokens_of(2), torch.zeros(2, LONG, dtype=torch.int64)
    cache = Cache(decoder)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        full = decoder.logits(decoder(tokens_BT, ids)).float()
        found = cached(decoder, tokens_BT, ids, [9, *range(10, LONG)]).float()
        decoder(tokens_BT, ids, cache=cache)
    assert (found - full).abs().max() < 0.05 * full.abs().max()
    for memory in cache.memories:
        assert memory._kept["k"].held.dtype == memory._kept["v"].held.dtype == torch.bfloat16
        assert memory._kept["w"].held.dtype == torch.float32
    with torch.no_grad(), pytest.raises(ValueError, match=r"holds torch\.bfloat16, not torch\.float32"):
        decoder(tokens_BT[:, :1], ids[:, :1], cache=cache)


@pytest.mark.parametrize("name", SLOTS["position"].names)
@pytest.mark.parametrize("projection", ["gqa", RANK1], ids=["gqa", "factors"])
def test_the_arithmetic_of_a_cache_is_what_the_cache_comes_to(name: str, projection: Any) -> None:
    decoder = made(dtype=torch.float32, position=name, projection=projection)
    cache = Cache(decoder, room=LONG)
    with torch.no_grad():
        decoder(tokens_of(1), torch.zeros(1, LONG, dtype=torch.int64), cache=cache)
    said = cache_size(decoder, LONG, itemsize=4)
    assert said["bytes"] == cache.nbytes
    with torch.device("meta"):
        settings = tiny.model(
            kinds={k: tiny.kind(k, w, position=name, projection=projection) for k, w in (("L", 8), ("G", None))}
        )
    assert cache_size(skeleton(settings, vocab_size=V), LONG, itemsize=4) == said


def test_the_cache_of_vpmoe() -> None:
    """80 layers, three of four with a window of 128: 87.5 MiB in bf16 at T = 4096, 3.657 times less than all-global."""
    levers = {"mlp": "relu2", "projection": "gqa"}
    local = {"position": "grape_m", "projection": {"name": "tpa", "rank": 2, "q_rank": 4, "bias": True}}
    settings = tiny.model(
        layers="GLLL" * 20,
        kinds={"L": tiny.kind("local", 128, **(levers | local)), "G": tiny.kind("global", None, **levers, position="nope")},
        d_model=1024, n_heads=8, n_kv_heads=2, head_dim=128, seq_len=4096,
    )  # fmt: skip
    hybrid = skeleton(settings, vocab_size=64)
    everywhere = skeleton(settings | {"layers": "G" * 80}, vocab_size=64)
    assert cache_size(hybrid, 1, itemsize=2)["elements"] == 80 * 512
    assert cache_size(hybrid, 4096, itemsize=2) == {"elements": 45_875_200, "bytes": 45_875_200 * 2}
    assert 45_875_200 * 2 / 2**20 == 87.5
    assert cache_size(everywhere, 4096, itemsize=2)["elements"] == 167_772_160
    assert round(167_772_160 / 45_875_200, 3) == 3.657
    far = [cache_size(d, 131_072, itemsize=2)["elements"] for d in (everywhere, hybrid)]
    assert round(far[0] / far[1], 3) == 3.988


def test_vpmoe_keeps_factors_only_at_rank_1() -> None:
    for rank, elements in ((1, 260), (2, 512)):  # rank 2 would come to 520
        projection = {"name": "tpa", "rank": rank, "q_rank": 4}
        settings = tiny.model(
            layers="L", kinds={"L": tiny.kind("local", 128, projection=projection, position="grape_m")},
            d_model=1024, n_heads=8, n_kv_heads=2, head_dim=128,
        )  # fmt: skip
        assert cache_size(skeleton(settings, vocab_size=64), 1, itemsize=2)["elements"] == elements


def test_room_is_made_by_doubling_and_a_ring_never_exceeds_its_window() -> None:
    decoder = made(position="rope")
    cache = Cache(decoder, room=4)
    with torch.no_grad():
        for _ in range(40):
            decoder(tokens_of(1, 1), torch.zeros(1, 1, dtype=torch.int64), cache=cache)
            sizes = [memory._kept["k"].held.shape[2] for memory in cache.memories]
            assert sizes[0] <= 8 and sizes[1] in (4, 8, 16, 32, 64)
    assert sizes == [8, 64] and cache.length == 40


def test_rows_do_not_depend_on_what_else_is_in_the_batch() -> None:
    decoder = made(position="rope")
    drawn = tokens_of(3, 9).tolist()
    asked: dict[str, Any] = {"seed": 11, "temperature": 0.9, "top_k": 12, "top_p": 0.95}
    together = generate(decoder, [drawn[0], drawn[1][:3], drawn[2]], 10, **asked)
    assert generate(decoder, [drawn[1][:3]], 10, **asked).tokens == [together.tokens[1]]
    assert generate(decoder, [drawn[2], drawn[0]], 10, **asked).tokens == [together.tokens[2], together.tokens[0]]
    assert generate(decoder, [drawn[0]], 10, **(asked | {"seed": 12})).tokens != [together.tokens[0]]
    twice = generate(decoder, [drawn[0], drawn[0]], 10, **asked).tokens
    assert twice[0] == together.tokens[0] != twice[1]  # equal prompts count on


def test_stop_tokens_end_a_row() -> None:
    decoder = made(position="rope")
    drawn = tokens_of(2, 6).tolist()
    free = generate(decoder, drawn, 10, temperature=0).tokens
    stop = free[0][3]
    ended = generate(decoder, drawn, 10, temperature=0, stop=[stop]).tokens
    assert ended[0] == free[0][: free[0].index(stop) + 1]
    assert ended[1] == (free[1][: free[1].index(stop) + 1] if stop in free[1] else free[1])


def test_draws_follow_the_distribution() -> None:
    z = torch.tensor([[2.0, 1.0, 0.0, -1.0, -30.0]])
    draw = [stream(0, "test", "choose")]

    def shares(temperature: float, top_k: int | None, top_p: float | None) -> Tensor:
        drawn = choose(z.expand(4000, -1), draw * 4000, temperature, top_k, top_p)
        return torch.bincount(drawn, minlength=5) / 4000

    for asked, wanted in (
        ((1.0, None, None), torch.softmax(z[0], 0)),
        ((0.5, None, None), torch.softmax(2 * z[0], 0)),
        ((1.0, 2, None), torch.softmax(z[0, :2], 0)),
        ((1.0, None, 0.7), torch.softmax(z[0, :2], 0)),  # 0.644 is not yet 0.7, with 0.237 more it is
    ):
        assert (shares(*asked)[: len(wanted)] - wanted).abs().max() < 0.03  # 4 standard errors
    assert shares(1.0, 2, None)[2:].sum() == 0 and shares(1.0, None, 0.7)[2:].sum() == 0


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"prompts": []}, "there is no prompt; give one"),
        ({"prompts": [[1], []]}, "prompt 1 is empty; give at least one token, such as BOS"),
        ({"prompts": [[1, 33]]}, "prompt 0 has a token outside 0 to 32; use the tokenizer of the model"),
        ({"n_new": 0}, "n_new is 0; give 1 or more"),
        ({"temperature": -1.0}, "temperature is -1; give 0 (the likeliest token) or more"),
        ({"temperature": math.nan}, "temperature is nan; give 0 (the likeliest token) or more"),
        ({"top_k": 0}, "top_k is 0; give 1 or more, or leave it out"),
        ({"top_p": 1.5}, "top_p is 1.5; give more than 0 and at most 1, or leave it out"),
    ],
)
def test_what_cannot_be_generated(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as raised:
        generate(made(), **({"prompts": [[1, 2]], "n_new": 2} | asked))
    assert str(raised.value) == said


def test_what_a_cache_refuses() -> None:
    decoder = made(embedding="learned")
    with pytest.raises(ValueError, match="place 32 is beyond the 32 learned places"):
        generate(decoder, [[1] * 30], 4)
    assert len(generate(decoder, [[1] * 30], 3).tokens[0]) == 3  # the last token is never fed
    cache, ids = Cache(decoder), torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="keeps no graph"):
        decoder(tokens_of(2, 3), ids, cache=cache)
    with torch.no_grad():
        decoder(tokens_of(2, 3), ids, cache=cache)
        with pytest.raises(ValueError, match="holds 2 rows, not 1"):
            decoder(tokens_of(1, 3), ids[:1], cache=cache)


def test_plain_products_say_what_the_kernel_says() -> None:
    from ablab.model.attention import cached as module

    draw = stream(2, "test", "products")
    q, k, v = (torch.from_numpy(draw.standard_normal(s)) for s in ((2, 2, 6, 8), (2, 2, 11, 8), (2, 2, 11, 8)))
    mask = torch.from_numpy(draw.standard_normal((2, 1, 6, 11)))
    mask[..., 3:5] = -torch.inf
    for given in (None, mask):
        for mine, theirs in zip(module._products(q, k, v, given), module._kernel(q, k, v, given), strict=True):
            assert (mine - theirs).abs().max() < 1e-12


def test_generated_says_its_speed() -> None:
    assert Generated([[1, 2, 3], [4]], 10, 0.5, 2.0).tokens_per_second == 1.0


class Plans:
    """What `ablab sample` asks of a plan, around one trained decoder: nothing is trained here."""

    trained = Plan.trained

    def __init__(self, where: Path, statuses: dict[int, str | None], **levers: Any) -> None:
        settings = {"model": tiny.model(**levers), "train": {"salt": ""}}
        decoder = build(settings["model"], vocab_size=257, seed=0, device="cpu")
        arm = SimpleNamespace(settings=settings)
        every = {"baseline": arm, "other": arm}
        self.study = SimpleNamespace(path=Path("study.toml"), baseline=arm, arms={"other": arm}, with_baseline=every)
        self.seeds = list(statuses)
        self.where = SimpleNamespace(precision="fp32", executor="lift", device="cpu")
        self.store = SimpleNamespace(train=lambda key: where / key, trained=lambda key: self._done(statuses[int(key)]))
        self.runs = {
            (name, s): SimpleNamespace(arm=name, seed=s, settings=settings, train_key=str(s))
            for name in ("baseline", "other")
            for s in statuses
        }
        self.corpus = lambda run: SimpleNamespace(
            vocab_size=257, bos_id=256, tokenizer=Bytes(), fingerprint="", manifest={}
        )
        for seed in statuses:
            (where / str(seed)).mkdir()
            save_file(decoder.state_dict(), where / str(seed) / "weights.safetensors")

    @staticmethod
    def _done(status: str | None) -> dict[str, Any] | None:
        return status and {"status": status}


def test_sample_continues_text_by_the_weights_of_a_run(tmp_path: Path) -> None:
    plan: Any = Plans(tmp_path, {4: None, 5: "done"})
    run = plan.trained("other", None, "run it")
    assert run.seed == 5
    found = sample.continued(plan, run, ["ab", "hello"], 6, temperature=0, top_k=None, top_p=None, seed=0)
    assert [row["tokens"] for row in found["samples"]] == [6, 6] and not any(row["ended"] for row in found["samples"])
    decoder = build(plan.study.baseline.settings["model"], vocab_size=257, seed=0, device="cpu")
    tokens = generate(decoder, [[256, *b"ab"]], 6, temperature=0).tokens[0]
    assert found["samples"][0]["text"] == bytes(tokens).decode(errors="replace")
    columns = 12  # BOS, hello and six more; the windowed layer keeps 8
    assert found["cache_bytes"] == 2 * (8 + columns) * 2 * 2 * 8 * 4 and found["tokens_per_second"] > 0


def test_sample_ends_with_the_document(tmp_path: Path) -> None:
    plan: Any = Plans(tmp_path, {0: "done"})
    file = tmp_path / "0" / "weights.safetensors"
    weights = load_file(file)
    weights["embed.weight"][:] = weights["embed.weight"][0].clone()
    weights["embed.weight"][256] *= 2  # tied: the end is twice as likely as anything, whatever was read
    save_file(weights, file)
    found = sample.continued(plan, plan.runs["baseline", 0], ["a", "bcd"], 9, temperature=0)
    assert [(row["text"], row["tokens"], row["ended"]) for row in found["samples"]] == [("", 1, True)] * 2
    assert found["tokens_per_second"] is None  # the first token came with the prompt


@pytest.mark.parametrize(
    ("arm", "seed", "said"),
    [
        ("othr", None, "study.toml: no arm is called 'othr'; did you mean 'other'? known: baseline, other"),
        ("other", 9, "study.toml: 9 is none of its seeds; known: 0, 1"),
        ("other", 0, "study.toml: other: seed 0 is not trained yet; do `ablab run study.toml --scale tiny` first"),
        ("other", None, "study.toml: other: no seed is trained yet; do `ablab run study.toml --scale tiny` first"),
        ("other", 1, "other, seed 1: has no weights: it diverged; choose another seed"),
    ],
)
def test_what_cannot_be_sampled(tmp_path: Path, arm: str, seed: int | None, said: str) -> None:
    plan: Any = Plans(tmp_path, {0: None, 1: "diverged"})
    with pytest.raises(Refused) as raised:
        plan.trained(arm, seed, "do `ablab run study.toml --scale tiny` first")
    assert str(raised.value) == said


def test_sample_asks_for_text_and_for_places_that_exist(tmp_path: Path) -> None:
    plan: Any = Plans(tmp_path, {0: "done"}, embedding=tiny.choice(SLOTS["embedding"], "learned"))
    with pytest.raises(ValueError, match=r"place 40 is beyond the 32 learned places; raise model\.seq_len"):
        sample.continued(plan, plan.runs["baseline", 0], ["a"], 40)
    with pytest.raises(typer.BadParameter, match="a prompt is empty; give some text"):
        sample.sample(Path("study.toml"), "other", ["a", ""])
    with pytest.raises(Refused, match="is missing: this study never ran here; do `ablab run"):
        (tmp_path / "study.toml").write_text(STUDY)
        sample.sample(tmp_path / "study.toml", "baseline", ["a"], out=tmp_path / "runs")
