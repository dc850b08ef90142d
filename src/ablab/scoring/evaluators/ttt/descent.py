"""Chunks of the text in its order, and SGD on all weights over what was scored of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablab.data import Corpus
from ablab.model import decoder
from ablab.model.cross_entropy import AT_ONCE, nll
from ablab.model.decoder import Decoder
from ablab.runtime.machine import autocast
from ablab.scoring.cuts import Cut, CutRows, batches, hidden_of, score
from ablab.scoring.evaluators.sliding import n_windows, offsets, windows
from ablab.scoring.ledger import Ledger

CHUNK = 32_768  # tokens, as in parameter-golf
GPU_TOKENS = 32_768  # of one forward and backward pass; on the CPU as many as a forward pass


def n_chunks(lengths: list[int], seq_len: int, stride: int, chunk: int) -> int:
    """Count the chunks of the text: one more than the number of the last window's."""
    for document in range(len(lengths) - 1, -1, -1):
        if lengths[document]:
            last = n_windows(lengths[document], seq_len, stride) - 1
            first = last * stride + seq_len - stride if last else 0
            return (sum(lengths[:document]) + first) // chunk + 1
    return 0


def chunks(lengths: list[int], seq_len: int, stride: int, chunk: int) -> Iterator[list[Cut]]:
    """Yield the windows in the text's order, by the chunk that holds the first token that each scores."""
    before = [0, *itertools.accumulate(lengths)]

    def number(cut: Cut) -> int:
        return (before[cut.document] + cut.first) // chunk

    for _, cuts in itertools.groupby(windows(lengths, seq_len, stride), number):
        yield list(cuts)


def learned(cuts: Iterable[Cut], seq_len: int) -> Iterator[Cut]:
    """Yield what is learned from after these windows are scored: all that they scored, in windows of seq_len, no overlap."""
    for document, several in itertools.groupby(cuts, lambda cut: cut.document):
        own = list(several)
        for start in range(own[0].first, own[-1].stop, seq_len):
            yield Cut(document, start, min(start + seq_len, own[-1].stop), start)


def cosine(number: int, count: int) -> float:
    """Return 0.5 (1 + cos(pi c / (C - 1))): 1 for the first chunk, 0 for the last."""
    return 0.5 * (1 + math.cos(math.pi * number / max(1, count - 1)))


def movable(model: Decoder, freeze: Sequence[str]) -> dict[str, nn.Parameter]:
    """Return the parameters that adapt; others' gradients are switched off. ValueError where `freeze` names none, or all."""
    names, moving = moved(model, freeze), {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
        if name in names:
            moving[name] = parameter
    return moving


def moved(model: Decoder, freeze: Sequence[str]) -> set[str]:
    """Name the parameters that adapt; the model is left alone. ValueError as in `movable`."""
    roles = model.roles()
    for word in freeze:
        if word not in roles.values() and not any(name.startswith(word) for name in roles):
            known = ", ".join(sorted(set(roles.values())))
            raise ValueError(
                f"freeze: '{word}' is no role and begins no parameter's name; roles: {known}; names: {next(iter(roles))}, ..."
            )
    names = {
        name
        for name, _ in model.named_parameters()
        if not any(roles[name] == word or name.startswith(word) for word in freeze)
    }
    if not names:
        raise ValueError("freeze leaves nothing to adapt; take something out of it")
    return names


def split(
    corpus: Corpus,
    cuts: Iterable[Cut],
    seq_len: int,
    batch_tokens: int | None,
    moving: dict[str, nn.Parameter],
) -> list[list[CutRows]]:
    """Split the cuts into steps, in order: each at most `batch_tokens` inputs (None: all), in batches that fit a pass."""
    device = next(iter(moving.values())).device
    tokens = GPU_TOKENS if device.type == "cuda" else decoder.FORWARD_TOKENS
    steps, room = list[list[Cut]](), 0
    for cut in cuts:
        length = cut.stop - cut.start
        if not steps or (batch_tokens is not None and length > room):
            steps.append([])
            room = batch_tokens or 0
        steps[-1].append(cut)
        room -= length
    return [list(batches(corpus, step, seq_len, tokens)) for step in steps]


class Descent:
    """SGD with momentum on the weights of a model; every step is told to the ledger."""

    def __init__(
        self,
        model: Decoder,
        moving: dict[str, nn.Parameter],
        ledger: Ledger,
        *,
        momentum: float,
        clip: float,
        precision: str,
    ) -> None:
        self.model, self.ledger, self.clip, self.precision = model, ledger, clip, precision
        self.moving, self.steps = list(moving.values()), 0
        self.device = self.moving[0].device
        self.optimizer = torch.optim.SGD(self.moving, lr=0.0, momentum=momentum, fused=True)

    def learn(self, steps: list[list[CutRows]], lr: float, epochs: int) -> str:
        """Learn `epochs` times over the steps; returns why it stopped, or nothing."""
        self.optimizer.param_groups[0]["lr"] = lr
        for _ in range(epochs):
            for step in steps:
                count = sum(len(batch.targets_N) for batch in step)
                if not count:
                    continue
                self.optimizer.zero_grad(set_to_none=False)
                for batch in step:
                    with autocast(self.precision, str(self.device)):
                        loss = loss_of(self.model, hidden_of(self.model, batch, self.device), batch.targets_N)
                    (loss.sum() / count).backward()
                if fault := self._clip():
                    return fault
                self.optimizer.step()
                self.steps += 1
                told = np.concatenate([batch.document_N for batch in step])
                self.ledger.update(told, np.concatenate([batch.place_N for batch in step]))
        return ""

    def _clip(self) -> str:
        """Scale the gradient down to the norm `clip` (0: never); what is wrong where the norm is not finite."""
        gradients = [p.grad for p in self.moving if p.grad is not None]
        norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))
        if not math.isfinite(norm):
            return f"the gradient norm is {norm}"
        if self.clip and norm > self.clip:
            torch._foreach_mul_(gradients, self.clip / norm)
        return ""


def loss_of(model: Decoder, hidden_ND: Tensor, targets_N: np.ndarray) -> Tensor:
    """Compute -log p of each target, with gradients."""
    targets = torch.from_numpy(targets_N).to(hidden_ND.device)
    if len(targets_N) * model.head_weight.shape[0] <= AT_ONCE:
        return F.cross_entropy(model.logits(hidden_ND), targets, reduction="none")
    return nll(hidden_ND, model.head_weight, targets, softcap=model.softcap)


@torch.no_grad()
def scored(
    model: Decoder,
    corpus: Corpus,
    cuts: list[Cut],
    seq_len: int,
    stride: int,
    precision: str,
    ledger: Ledger | None = None,
) -> np.ndarray:
    """Compute the nats of what these windows score, and give them to the ledger where there is one."""
    device, nats = model.head_weight.device, [np.zeros(0)]
    for batch in batches(corpus, cuts, seq_len, decoder.FORWARD_TOKENS):
        with autocast(precision, str(device)):
            hidden_ND = hidden_of(model, batch, device)
            offset_N = offsets(batch.place_N - 1, seq_len, stride)
            nats.append(score(ledger, model, hidden_ND, batch, offset_N, corpus.vocab_size))
    return np.concatenate(nats)
