"""Generation: prompts in, tokens out, by the forward of training over a cache."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ablab.core.rng import key, stream
from ablab.model.cache import Cache
from ablab.model.decoder import Decoder

ROOM = 1024  # new columns that a cache makes room for at once; more are made by doubling, since a text may end early


@dataclass(frozen=True)
class Generated:
    """New tokens of each prompt (a stop token is their last), the size of the cache, and the times."""

    tokens: list[list[int]]
    cache_bytes: int
    prompt_seconds: float
    seconds: float
    step_seconds: tuple[float, ...] = ()  # of each token after the first, all rows together

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all rows over the time after the prompts; the first of each row came with its prompt."""
        return sum(max(0, len(row) - 1) for row in self.tokens) / max(self.seconds, 1e-9)


@torch.inference_mode()
def generate(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    n_new: int,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: Sequence[int] = (),
) -> Generated:
    """Continue every prompt by `n_new` tokens, or to a token of `stop`.

    temperature 0 takes the likeliest token. top_k: only the k likeliest; top_p: only the fewest that hold that share of
    the probability. Each row draws from a stream of its own, named by `seed` and its prompt: what else is in the batch
    does not matter (equal prompts count on). A stage that stretches positions declares its length before. ValueError
    where something is out of range.
    """
    _check(decoder, prompts, n_new, temperature, top_k, top_p)
    device = decoder.head_weight.device
    longest = max(map(len, prompts))
    tokens_BT = torch.zeros(len(prompts), longest, dtype=torch.int64)
    ids_BT = torch.zeros_like(tokens_BT)
    for row, prompt in enumerate(prompts):
        tokens_BT[row, longest - len(prompt) :] = torch.tensor(prompt)
        ids_BT[row, longest - len(prompt) :] = 1
    _reach(decoder, tokens_BT[:, -1:].to(device), [len(prompt) + n_new - 2 for prompt in prompts])
    draws, cache, ends = _streams(seed, prompts), Cache(decoder, longest + min(n_new, ROOM)), frozenset(stop)
    tokens: list[list[int]] = [[] for _ in prompts]
    began = time.perf_counter()
    hidden = decoder(tokens_BT.to(device), ids_BT.to(device), cache=cache)
    ids_B1, chosen_at = ids_BT[:, -1:].to(device), list[float]()
    while True:
        chosen_B = choose(decoder.logits(hidden[:, -1]), draws, temperature, top_k, top_p)
        chosen_at.append(time.perf_counter())
        for new, token in zip(tokens, chosen_B.tolist(), strict=True):
            if not new or new[-1] not in ends:
                new.append(token)
        if len(chosen_at) == n_new or (ends and all(new[-1] in ends for new in tokens)):
            break
        hidden = decoder(chosen_B[:, None].to(device), ids_B1, cache=cache)
    took = tuple(after - before for before, after in pairwise(chosen_at))
    return Generated(tokens, cache.nbytes, chosen_at[0] - began, chosen_at[-1] - chosen_at[0], took)


def choose(
    logits_BV: Tensor, draws: Sequence[np.random.Generator], temperature: float, top_k: int | None, top_p: float | None
) -> Tensor:
    """Choose one token a row, int64 (B,) on the CPU, by the inverse of the distribution at a draw of the row's stream."""
    if temperature == 0:
        return logits_BV.argmax(-1).cpu()
    z = logits_BV.cpu().double() / temperature
    if top_k is not None and top_k < z.shape[-1]:
        z = z.masked_fill(z < z.topk(top_k, dim=-1).values[:, -1:], -torch.inf)
    share = torch.softmax(z, -1)
    if top_p is not None:
        ordered, index = share.sort(dim=-1, descending=True, stable=True)
        beyond = ordered.cumsum(-1) - ordered >= top_p
        share = share.scatter(-1, index, ordered.masked_fill(beyond, 0))
    total = share.cumsum(-1)
    at_B1 = torch.tensor([[draw.random()] for draw in draws], dtype=total.dtype) * total[:, -1:]
    # A draw is below 1, but its product may round up to the total; then the last token that has any share is meant.
    last = share.shape[-1] - 1 - (share.flip(-1) > 0).int().argmax(-1)
    return torch.minimum(torch.searchsorted(total, at_B1, right=True)[:, 0], last)


def _reach(decoder: Decoder, tokens_B1: Tensor, last: Sequence[int]) -> None:
    """Let the embedding refuse, before any work, places that it does not have."""
    pos_B1 = torch.tensor(last, device=tokens_B1.device)[:, None]
    decoder.mixer(decoder.embed(tokens_B1), tokens_B1, pos_B1)


def _streams(seed: int, prompts: Sequence[Sequence[int]]) -> list[np.random.Generator]:
    names = [format(key(0, *prompt), "032x") for prompt in prompts]
    return [stream(seed, "sample", name, names[:row].count(name)) for row, name in enumerate(names)]


def _check(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    n_new: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
) -> None:
    size = decoder.head_weight.shape[0]
    for row, prompt in enumerate(prompts):
        if not len(prompt):
            raise ValueError(f"prompt {row} is empty; give at least one token, such as BOS")
        if not (min(prompt) >= 0 and max(prompt) < size):
            raise ValueError(f"prompt {row} has a token outside 0 to {size - 1}; use the tokenizer of the model")
    if not prompts:
        raise ValueError("there is no prompt; give one")
    if n_new < 1:
        raise ValueError(f"n_new is {n_new}; give 1 or more")
    if not temperature >= 0:
        raise ValueError(f"temperature is {temperature:g}; give 0 (the likeliest token) or more")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}; give 1 or more, or leave it out")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p:g}; give more than 0 and at most 1, or leave it out")
