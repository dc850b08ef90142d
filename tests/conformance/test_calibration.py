"""What calibration sees: the inputs of every matrix, of training text alone, the same each time."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from tests import tiny

from ablab.artifact.compressors import calibration as module
from ablab.artifact.compressors.calibration import Calibration
from ablab.core.rng import stream
from ablab.data.corpus.corpus import Corpus, Valid
from ablab.model.decoder import Decoder, build

MOE = {"L": tiny.kind("l", 8, mlp={"name": "moe", "n_experts": 4, "activation": "swiglu"}), "G": tiny.kind("g", None)}


def decoder(**model: Any) -> Decoder:
    return build(tiny.model(**model), vocab_size=tiny.VOCAB, seed=0)


def rows(corpus: Corpus, tokens: int, length: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The rows that are read, one by one, with the number of each token's document."""
    chunks = corpus.n_train // length
    picked = stream(0, "calibration", corpus.key).choice(chunks, min(chunks, -(-tokens // length)), replace=False)
    found = []
    for start in (int(length * chunk) for chunk in picked):
        ids = [int((corpus.documents <= place).sum()) for place in range(start, start + length)]
        found.append((torch.from_numpy(corpus.tokens[start : start + length].astype(np.int64)), torch.tensor(ids)))
    return found


def test_hessians_are_those_of_the_inputs_row_by_row() -> None:
    model, corpus = decoder(), tiny.corpus()
    seen: list[torch.Tensor] = []
    handle = model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        hidden = [model(tokens[None], ids[None])[0].double() for tokens, ids in rows(corpus, 500, 32)]
    handle.remove()
    calibration = Calibration(lambda: model, corpus, 32)
    found = calibration.hessians(500)
    assert calibration.read == 512 == calibration.rows["embed.weight"][0]
    for name, parts in (("embed.weight", hidden), ("layers.1.mlp.down_proj.weight", [x[0].double() for x in seen])):
        x = torch.cat(parts)
        assert x.shape[0] == 512 and torch.allclose(found[name].double(), x.mT @ x / 512, rtol=1e-4, atol=1e-6)
    shared = [f"layers.0.attn.projection.{m}_proj.weight" for m in "qkv"]
    assert all(torch.equal(found[shared[0]], found[name]) for name in shared)
    assert set(found) == {name for name, role in calibration.roles.items() if role in ("matrix", "embedding")}
    assert all(torch.equal(h, h.mT) and h.dtype == torch.float32 for h in found.values())


def test_every_expert_has_the_rows_that_chose_it() -> None:
    model, corpus = decoder(kinds=MOE, tied=False), tiny.corpus()
    calibration = Calibration(lambda: model, corpus, 32)
    found = calibration.hessians(256)
    stacks = [f"layers.0.mlp.experts.{m}_proj.weight" for m in ("up", "gate", "down")]
    assert calibration.rows[stacks[0]] == calibration.rows[stacks[2]] and sum(calibration.rows[stacks[0]]) == 2 * 256
    chosen: list[tuple[torch.Tensor, torch.Tensor]] = []
    router = model.layers[0].mlp.router
    handle = router.register_forward_hook(lambda _, given, out: chosen.append((given[0], out.experts_NK)))
    with torch.no_grad():
        for tokens, ids in rows(corpus, 256, 32):
            model(tokens[None], ids[None])
    handle.remove()
    x, experts = (torch.cat(parts) for parts in zip(*chosen))
    for e in range(4):
        mine = x[(experts == e).any(1)].double()
        assert len(mine) == calibration.rows[stacks[0]][e]
        for name in stacks[:2]:
            assert torch.allclose(found[name][e].double(), mine.mT @ mine / len(mine), rtol=1e-4, atol=1e-6)
    hidden = torch.einsum("nd,ehd->neh", x.double(), model.layers[0].mlp.experts.up_proj.weight.double())
    assert found[stacks[2]].shape == (4, hidden.shape[2], hidden.shape[2])
    assert "lm_head.weight" in found and "embed.weight" not in found


def test_the_size_of_forwards_and_strips_is_only_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    model = decoder(kinds=MOE)
    whole = Calibration(lambda: model, tiny.corpus(), 32).hessians(1000)
    monkeypatch.setattr(module, "FORWARD_TOKENS", 64)
    monkeypatch.setattr(module, "STRIP", 5)
    pieces = Calibration(lambda: model, tiny.corpus(), 32).hessians(1000)
    assert all(torch.allclose(h, pieces[name], rtol=1e-4, atol=1e-6) for name, h in whole.items())


def test_it_is_drawn_by_seed_and_corpus_and_never_twice() -> None:
    def heads(**how: Any) -> torch.Tensor:
        key = how.pop("key", "tiny")
        corpus = dataclasses.replace(tiny.corpus(), key=key)
        return Calibration(lambda: decoder(), corpus, 32, **how).hessians(256)["embed.weight"]

    assert torch.equal(heads(), heads()) and not torch.equal(heads(), heads(seed=1))
    assert not torch.equal(heads(), heads(key="other"))
    corpus = tiny.corpus()
    calibration = Calibration(lambda: decoder(), corpus, 32)
    calibration.hessians(10**9)
    assert calibration.read == corpus.n_train - corpus.n_train % 32  # each row of the grid once, no more


def test_held_out_text_is_never_touched() -> None:
    class Sealed(Valid):
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(f"held-out text was asked for {name}")

    valid = tiny.corpus().valid
    sealed = object.__new__(Sealed)
    corpus = dataclasses.replace(tiny.corpus(), valid=sealed)
    assert len(valid) and Calibration(lambda: decoder(), corpus, 32).hessians(64)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.float32), ("fp64", torch.float64)])
def test_other_precisions(precision: str, dtype: torch.dtype) -> None:
    model = decoder(kinds=MOE).to(torch.float64 if precision == "fp64" else torch.float32)
    exact = Calibration(lambda: decoder(kinds=MOE).double(), tiny.corpus(), 32, precision="fp64").hessians(512)
    found = Calibration(lambda: model, tiny.corpus(), 32, precision=precision).hessians(512)
    assert all(h.dtype == dtype for h in found.values())
    name = "layers.1.attn.o_proj.weight"
    assert torch.allclose(found[name].double(), exact[name], rtol=5e-2, atol=5e-2 * float(exact[name].abs().max()))
    assert not model.layers[1].attn.o_proj._forward_pre_hooks  # nothing is left behind


def test_little_text() -> None:
    corpus = tiny.corpus()
    short = dataclasses.replace(corpus, tokens=corpus.tokens[:20], documents=corpus.documents[:1])
    calibration = Calibration(lambda: decoder(), short, 32)
    calibration.hessians(1000)
    assert calibration.read == 20
    empty = dataclasses.replace(corpus, tokens=corpus.tokens[:0], documents=corpus.documents[:0])
    with pytest.raises(ValueError, match=r"^there is no training text to calibrate on; give data, or compress without"):
        Calibration(lambda: decoder(), empty, 32).hessians(100)
