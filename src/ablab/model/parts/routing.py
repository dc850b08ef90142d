"""What a mixture leaves behind besides its output: losses that balance it, counts that move its biases, its health.

Names: B rows, T tokens of a row, N tokens, E experts, K experts per token.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablab.records.run import Load, Routing


class Routed(NamedTuple):
    """What a router says of N tokens: the chosen experts, their weights, raw logits, and scores normalised over all E."""

    experts_NK: Tensor
    weights_NK: Tensor
    logits_NE: Tensor
    shares_NE: Tensor


class Chooser(Protocol):
    """What is counted: a router."""

    top_k: int

    def __call__(self, x_ND: Tensor) -> Routed: ...

    def after_step(self, counts_E: Tensor) -> None: ...

    def bias_range(self) -> float | None: ...


def logits_of(x_ND: Tensor, weight_ED: Tensor, bias_E: Tensor | None) -> Tensor:
    """Compute router logits in fp32, under autocast too (fp64 stays fp64): a choice must not hang on a rounded product."""
    wide = torch.float64 if weight_ED.dtype == torch.float64 else torch.float32
    with torch.autocast(x_ND.device.type, enabled=False):
        return F.linear(x_ND.to(wide), weight_ED.to(wide), None if bias_E is None else bias_E.to(wide))


def refuse(top_k: int, n_experts: int) -> None:
    """Refuse top_k experts that cannot be chosen from n_experts."""
    if n_experts < 1:
        raise ValueError('there are no experts to choose from; give the layer mlp = "moe", or remove the router')
    if top_k < 1:
        raise ValueError(f"top_k = {top_k} chooses nobody; choose 1 to {n_experts}")
    if top_k > n_experts:
        raise ValueError(f"top_k = {top_k} is more than the {n_experts} experts; choose 1 to {n_experts}")


def balance(shares_BTE: Tensor, top_k: int) -> Tensor:
    """Compute E / (K T^2) sum_e (sum_t share_te) (count_e) per row, (B,): 1 where shares or counts are even.

    Switch Transformer's loss (Fedus et al. 2021, 2101.03961, eq. 4). Counts are of the plain top K of the shares, without
    bias or groups (Megatron-LM), and carry no gradient.
    """
    _, length, experts = shares_BTE.shape
    counts_BE = _counts(shares_BTE, top_k)
    return (shares_BTE.sum(1) * counts_BE).sum(1) * (experts / (top_k * length**2))


def whole_balance(shares_NE: Tensor, top_k: int, world: int) -> Tensor:
    """Compute this process's share of the `balance` of one row of all tokens that `world` processes see, as many each."""
    tokens, experts = shares_NE.shape
    counts_E = _counts(shares_NE[None], top_k)[0]
    if world > 1:
        torch.distributed.all_reduce(counts_E)  # whole numbers: exact in any order
    return (shares_NE.sum(0) * counts_E).sum() * (experts / (top_k * (tokens * world) ** 2))


def _counts(shares_BTE: Tensor, top_k: int) -> Tensor:
    """Count how often each expert is among the `top_k` largest shares of a token, (B, E); carries no gradient."""
    chosen_BTK = shares_BTE.detach().topk(top_k, dim=-1).indices
    return torch.zeros_like(shares_BTE[:, 0]).scatter_add_(
        1, chosen_BTK.flatten(1), torch.ones_like(chosen_BTK, dtype=shares_BTE.dtype).flatten(1)
    )


def squared_mass(logits_NE: Tensor) -> Tensor:
    """Sum logsumexp(logits)^2 over tokens, the z-loss. Zoph et al. 2022, 2202.08906, eq. 5."""
    return logits_NE.logsumexp(-1).square().sum()


class MixtureTally:
    """What the mixtures of one optimizer step collect; made by the learner, passed to every micro-batch's forward pass.

    Losses are sums, so that how a batch is cut into micro-batches does not weigh: `row` over rows, `token` over tokens;
    `whole` is of the whole batch, which then may not be cut, or the share of it of each of `world` processes, which then have
    one micro-batch each. Weights are already in them.
    """

    def __init__(self, world: int = 1) -> None:
        self.world = world
        self.counts: dict[Chooser, Tensor] = {}
        self._losses: dict[str, list[Tensor]] = {"row": [], "token": [], "whole": []}

    def row(self, loss: Tensor) -> None:
        """Add a sum over rows: the learner divides it by the batch's rows."""
        self._losses["row"].append(loss)

    def token(self, loss: Tensor) -> None:
        """Add a sum over tokens: the learner divides it by the batch's tokens."""
        self._losses["token"].append(loss)

    def whole(self, loss: Tensor) -> None:
        """Add a loss of the whole batch."""
        self._losses["whole"].append(loss)

    def count(self, router: Chooser, counts_E: Tensor) -> None:
        """Add how many rows each of the router's experts got; a layer that is passed twice is counted twice."""
        known = self.counts.get(router)
        self.counts[router] = counts_E if known is None else known + counts_E

    def take(self, *, rows: int, tokens: int) -> Tensor | None:
        """Take the losses of one micro-batch as a share of a batch of `rows` and `tokens`, and forget them; None for none."""
        shares = {"row": 1 / rows, "token": 1 / tokens, "whole": 1.0}
        shares_of_losses = [loss * shares[kind] for kind, losses in self._losses.items() for loss in losses]
        for losses in self._losses.values():
            losses.clear()
        return torch.stack(shares_of_losses).sum() if shares_of_losses else None

    @torch.no_grad()
    def after_step(self) -> None:
        """Update the routers once per optimizer step, after it: add up all processes' counts, then let each move its bias."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for counts_E in self.counts.values():
                torch.distributed.all_reduce(counts_E)
        for router, counts_E in self.counts.items():
            router.after_step(counts_E)

    def health(self, model: nn.Module) -> Routing:
        """Say how the step's choices were spread: the worst and the mean over layers, and `layers`, one row per mixture.

        Empty where nothing was counted.
        """
        layers, counted = list[Load](), {id(router): (router, counts_E) for router, counts_E in self.counts.items()}
        for path, module in model.named_modules():
            if id(module) in counted:
                router, counts_E = counted[id(module)]
                layers.append(
                    {"layer": path.removesuffix(".router"), **load(counts_E), "bias_range": router.bias_range()}
                )
        return {**aggregate(layers), "layers": layers} if layers else {}


def load(counts_E: Tensor) -> Load:
    """Measure one mixture: population cv of the load in percent, its entropy in nats, the largest share in percent,
    experts without a row."""
    counts = counts_E.cpu().numpy().astype(np.float64)
    total = max(1.0, counts.sum())
    share = counts[counts > 0] / total
    return {
        "cv_pct": float(100 * counts.std() / max(counts.mean(), 1e-300)),
        "entropy": float(-(share * np.log(share)).sum()) + 0.0,
        "max_load_pct": float(100 * counts.max() / total),
        "dead": int((counts == 0).sum()),
    }


def aggregate(layers: list[Load]) -> Routing:
    """Aggregate over layers: mean cv and entropy, largest load and bias range, dead experts in all."""
    ranges = [moved for row in layers if (moved := row["bias_range"]) is not None]
    return {
        "cv_pct": sum(row["cv_pct"] for row in layers) / len(layers),
        "entropy": sum(row["entropy"] for row in layers) / len(layers),
        "max_load_pct": max(row["max_load_pct"] for row in layers),
        "dead": sum(row["dead"] for row in layers),
        "bias_range": max(ranges) if ranges else None,
    }
