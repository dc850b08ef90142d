"""Low-rank adapters of many documents side by side: every document has its own, a row of each block of numbers.

Names: B documents side by side, T places, C places of a chunk, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor

from ablab.core import rng
from ablab.model.decoder import Decoder
from ablab.model.parts.grouped import Stacked
from ablab.model.parts.linear import Gate, Linear

TARGETS = ("attn", "mlp", "head")
MOST = 1 << 27  # numbers of all documents side by side; four blocks of so many are held


class Pairs(TypedDict):
    """Which adapters there are, and how many documents are to have theirs at once."""

    targets: Sequence[str]
    rank: int
    documents: int
    all_at_once: bool


class AdamW(TypedDict):
    """How they learn."""

    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float


class Adapter:
    """y + scale (x A) B for one matrix: a pair (A, B) for each time that a forward pass meets it, rows by document."""

    def __init__(self, d_in: int, d_out: int, passes: int, scale: float) -> None:
        self.d_in, self.d_out, self.passes, self.scale = d_in, d_out, passes, scale
        self.pairs: list[tuple[Tensor, Tensor]] = []
        self.met = 0

    def __call__(self, x_BTI: Tensor, y_BTO: Tensor) -> Tensor:
        a_BIR, b_BRO = self.pairs[self.met]
        self.met = (self.met + 1) % self.passes
        return torch.baddbmm(y_BTO, torch.bmm(x_BTI, a_BIR), b_BRO, alpha=self.scale)


class Adapters:
    """The adapters of up to `documents` documents, their gradients, and one AdamW over all.

    A (d_in, rank) is drawn uniform within 1/sqrt(d_in) from the stream (0, "ttt", "lora", path of the matrix, pass), the
    same for every document; B (rank, d_out) is zero. Every matrix has its own (Hu et al. 2021, 2106.09685); in #1530 the mlp
    has one pair beside the whole branch, and that of the output reads the branch's input. ValueError where a target names
    no matrix of this model. `most`: how many really go side by side, what memory allows; all_at_once: ValueError where that
    is fewer than asked.
    """

    def __init__(
        self,
        model: Decoder,
        *,
        targets: Sequence[str],
        rank: int,
        scale: float,
        documents: int,
        all_at_once: bool = False,
        **adamw: Unpack[AdamW],
    ) -> None:
        self.adamw = adamw
        self.linears = matrices(model, targets)
        self.parts = {
            path: Adapter(m.weight.shape[1], m.weight.shape[0], n, scale) for path, (m, n) in self.linears.items()
        }
        vocab_size, d_model = model.head_weight.shape
        self.head = Adapter(d_model, vocab_size, 1, scale) if "head" in targets else None
        if self.head is not None:
            self.parts["head"] = self.head
        self.rank = rank
        drawn = [tensor for path, part in self.parts.items() for tensor in self._drawn(path, part)]
        self.start = [tensor.to(model.head_weight) for tensor in drawn]
        self.size, self.tensors = sum(tensor.numel() for tensor in drawn), len(drawn)
        self.most = side_by_side(self.size, documents, all_at_once)
        self.numbers = [tensor.repeat(self.most, 1, 1) for tensor in self.start]
        self.gradients = [torch.zeros_like(block) for block in self.numbers]
        self.learning: tuple[list[Tensor], torch.optim.AdamW] | None = None

    def _drawn(self, path: str, part: Adapter) -> list[Tensor]:
        """Draw A and B of every pass."""
        tensors, bound = list[Tensor](), 1 / math.sqrt(part.d_in)
        for turn in range(part.passes):
            draws = rng.stream(0, "ttt", "lora", path, turn).random((part.d_in, self.rank), dtype=np.float32)
            tensors += [torch.from_numpy((2 * draws - 1) * np.float32(bound)), torch.zeros(self.rank, part.d_out)]
        return tensors

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Have the model's matrices act through their adapters inside."""
        try:
            for path, (linear, _) in self.linears.items():
                linear.adapter = self.parts[path]
            yield
        finally:
            for linear, _ in self.linears.values():
                del linear.adapter

    def begin(self, documents: int, *, keep_a: bool = False) -> None:
        """Start anew with so many documents; keep_a: A goes on from the document that was in the same place."""
        self.learning = None
        torch._foreach_zero_(self.gradients)
        for i, (block, start) in enumerate(zip(self.numbers, self.start)):
            if i % 2 or not keep_a:
                block[:documents] = start

    def bind(self, low: int, high: int) -> None:
        """Bind the next forward pass to the documents low to high; gradients go to their place in the blocks."""
        leaves = []
        for block, gradient in zip(self.numbers, self.gradients):
            leaf = block[low:high].requires_grad_()
            leaf.grad = gradient[low:high]
            leaves.append(leaf)
        pairs = iter(zip(leaves[::2], leaves[1::2]))
        for part in self.parts.values():
            part.pairs, part.met = [next(pairs) for _ in range(part.passes)], 0

    def learn(self, documents: int) -> None:
        """Take one step of the first `documents` documents, never more than at the step before; gradients are zero after it."""
        if self.learning is None or len(self.learning[0][0]) != documents:
            self.learning = self._optimizer(documents)
        self.learning[1].step()
        torch._foreach_zero_([gradient[:documents] for gradient in self.gradients])

    def _optimizer(self, documents: int) -> tuple[list[Tensor], torch.optim.AdamW]:
        """Make AdamW over the first documents, with the moments that they have."""
        blocks = [block[:documents] for block in self.numbers]
        for block, gradient in zip(blocks, self.gradients):
            block.grad = gradient[:documents]
        made = torch.optim.AdamW(blocks, fused=True, **self.adamw)
        if self.learning is not None:
            before, optimizer = self.learning
            for block, known in zip(blocks, before):
                state = optimizer.state[known]
                cut = {name: state[name][:documents] for name in ("exp_avg", "exp_avg_sq")}
                made.state[block] = {"step": state["step"], **cut}
        return blocks, made


def side_by_side(size: int, documents: int, all_at_once: bool) -> int:
    """Count the documents whose adapters of `size` numbers memory holds; all_at_once: ValueError where that is not all."""
    most = max(1, min(documents, MOST // size))
    if all_at_once and most < documents:
        raise ValueError(
            f'{documents} adapters of {size:,} numbers do not fit side by side, and under reset = "b" scores depend '
            f"on how many do; give batch_documents = {most}"
        )
    return most


def fit(model: Decoder, *, targets: Sequence[str], rank: int, given: bool, documents: int, all_at_once: bool) -> None:
    """Refuse adapters of a rank that does not suit the model. Sizes alone are read: a skeleton will do.

    given: the rank was asked for; ablab's own is the same for every model, however narrow.
    """
    sides = {path: (linear.weight.shape, passes) for path, (linear, passes) in matrices(model, targets).items()}
    if "head" in targets:
        sides["head"] = model.head_weight.shape, 1
    path, least = min(((path, min(shape)) for path, (shape, _) in sides.items()), key=lambda one: one[1])
    if given and rank > least:
        raise ValueError(
            f"adapters.rank = {rank} is more than {least}, the smaller side of {path}; give at most {least}"
        )
    side_by_side(sum(rank * sum(shape) * passes for shape, passes in sides.values()), documents, all_at_once)


def matrices(model: Decoder, targets: Sequence[str]) -> dict[str, tuple[Linear, int]]:
    """Map the path of each adapted matrix to it, and how often a pass meets it. ValueError for a target without any."""
    adapted: dict[str, tuple[Linear, int]] = {}
    for target in targets:
        if target == "head":
            continue
        before = len(adapted)
        for i, layer in enumerate(model.layers):
            branch = getattr(layer, target)
            parts = {"projection": branch.projection, "o_proj": branch.o_proj} if target == "attn" else {"": branch}
            for name, part in parts.items():
                for path, inner in part.named_modules():
                    if plain(inner):
                        full = ".".join(word for word in ("layers", str(i), target, name, path) if word)
                        adapted[full] = (inner, model.order.count(i))
        if len(adapted) == before:
            raise ValueError(
                f"targets: '{target}' finds no matrix: stacked experts, routers and gates are not adapted; take it out"
            )
    return {path: part for path, part in adapted.items() if part[1]}


def plain(module: object) -> bool:
    """Tell whether a module is a matrix whose product adapters see: no gate, and no router (it has a forward of its own)."""
    return isinstance(module, Linear) and not isinstance(module, Gate) and type(module).forward is Linear.forward


def not_adapted(model: Decoder) -> int:
    """Count the matrices in stacks of experts, which have no adapters."""
    return sum(part.weight.shape[0] for part in model.modules() if isinstance(part, Stacked))
