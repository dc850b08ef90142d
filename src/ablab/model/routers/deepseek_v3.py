"""Sigmoid scores, a bias that only chooses, and a limit on groups."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablab.core.rng import Draw
from ablab.model.parts.routing import Routed, logits_of
from ablab.model.routers.router import Router
from ablab.model.shape import Shape


class DeepseekV3(Router):
    """Sigmoid scores; a bias per expert, moved after each step, evens the load without a loss.

    x_ND -> Routed. The top_k largest of score + bias are chosen; weights are the scores alone, divided by their sum
    (`normalize`), times `scale`. Sums are of logarithms, so that scores of any size add up to 1. Experts lie in n_groups
    neighbouring groups. Raises ValueError for impossible numbers.

    top_k (experts): of a token
    n_groups: of experts
    group_top_k (groups): the best ones, which alone are open to a token
    group_score: top2 is the sum of a group's 2 largest score + bias (DeepSeek; one alone in a group of one), megatron of
        its top_k // group_top_k largest (Megatron-LM)
    scale: of the weights
    normalize: true leaves a lone expert (top_k = 1) its score (Megatron-LM); "always" divides it too, which makes its
        weight `scale` (DeepSeek's and Hugging Face's code); false divides nothing
    bias_rate: by which the bias of an expert below the mean count rises after an optimizer step, above it falls; at it it
        stays
    """

    source = "DeepSeek-V3, arXiv 2412.19437, section 2.1.2, and deepseek-ai/DeepSeek-V3; Megatron-LM's group score"
    revision = 2  # 2: weights and shares are divided in logarithms

    def __init__(
        self,
        shape: Shape,
        *,
        top_k: int = 2,
        n_groups: int = 1,
        group_top_k: int = 1,
        group_score: Literal["top2", "megatron"] = "top2",
        scale: float = 1.0,
        normalize: bool | Literal["always"] = True,
        bias_rate: float = 1e-3,
    ) -> None:
        super().__init__(shape, top_k=top_k)
        _refuse_groups(shape.n_experts, top_k, n_groups, group_top_k, group_score)
        if scale <= 0:
            raise ValueError(f"scale = {scale} silences the experts; choose a positive number")
        if bias_rate < 0:
            raise ValueError(f"bias_rate = {bias_rate} is negative; choose 0 (a fixed bias) or more")
        self.scale, self.normalize, self.bias_rate = scale, normalize, bias_rate
        self.n_groups, self.group_top_k, self.group_score = n_groups, group_top_k, group_score
        self.register_buffer("expert_bias", torch.zeros(shape.n_experts, dtype=torch.float32))
        self.expert_bias: Tensor

    def init(self, draw: Draw) -> None:
        super().init(draw)
        nn.init.zeros_(self.expert_bias)

    def forward(self, x_ND: Tensor) -> Routed:  # type: ignore[override]
        logits_NE = logits_of(x_ND, self.weight, self.bias)
        scores_NE = logits_NE.sigmoid()
        experts_NK = self._open(scores_NE.detach() + self.expert_bias).topk(self.top_k, dim=-1).indices
        logs_NE = F.logsigmoid(logits_NE)
        if self.normalize == "always" or (self.normalize and self.top_k > 1):
            weights_NK = logs_NE.gather(1, experts_NK).softmax(-1)
        else:
            weights_NK = scores_NE.gather(1, experts_NK)
        shares_NE = logs_NE.softmax(-1)
        return Routed(experts_NK, weights_NK * self.scale, logits_NE, shares_NE)

    def _open(self, scores_NE: Tensor) -> Tensor:
        """Return the scores, -inf in the groups that a token may not use."""
        if self.group_top_k == self.n_groups:
            return scores_NE
        of_groups_NG = self.group_scores(scores_NE)
        kept = of_groups_NG.topk(self.group_top_k, dim=-1).indices
        shut_NG = torch.ones_like(of_groups_NG, dtype=torch.bool).scatter_(1, kept, False)
        each = scores_NE.unflatten(1, (self.n_groups, -1))
        out: Tensor = each.masked_fill(shut_NG[..., None], float("-inf")).flatten(1)
        return out

    def group_scores(self, scores_NE: Tensor) -> Tensor:
        """Score each group as it is chosen by, (N, groups): the sum of its best experts' score + bias."""
        each = scores_NE.unflatten(1, (self.n_groups, -1))
        best = min(2, each.shape[2]) if self.group_score == "top2" else self.top_k // self.group_top_k
        out: Tensor = each.topk(best, dim=-1).values.sum(-1)
        return out

    def after_step(self, counts_E: Tensor) -> None:
        """Move the bias by the counts of one optimizer step: over all its micro-batches and processes."""
        below = torch.sign(counts_E.sum() - len(counts_E) * counts_E)  # of mean - count, in whole numbers
        self.expert_bias += self.bias_rate * below.to(self.expert_bias.dtype)

    def bias_range(self) -> float:
        """Return the largest bias less the smallest."""
        return float(self.expert_bias.max() - self.expert_bias.min())

    def notes(self) -> list[str]:
        """List what a reader must know of these settings: a router that cannot learn, a group limit that limits nothing."""
        if self.top_k == 1 and self.normalize == "always":
            fixed = f'with top_k = 1 and normalize = "always" every weight is {self.scale:g}'
            return [
                f"warning: router deepseek_v3: {fixed}: the router learns from a balance loss alone",
                *self._limits(),
            ]
        return self._limits()

    def _limits(self) -> list[str]:
        if self.n_groups == 1:
            return []
        limit = f"router deepseek_v3: n_groups = {self.n_groups}, group_top_k = {self.group_top_k}"
        if self.group_top_k == self.n_groups:
            return [f"warning: {limit} limits nothing: every group stays open"]
        if self.group_score == "megatron" and self.top_k == self.group_top_k:
            return [
                f'warning: {limit} with group_score = "megatron" limits nothing: a group\'s score is its best expert, and '
                f"the {self.top_k} best experts always lie in the {self.group_top_k} groups kept"
            ]
        return []


def _refuse_groups(n_experts: int, top_k: int, n_groups: int, group_top_k: int, group_score: str) -> None:
    if n_groups < 1 or n_experts % n_groups:
        raise ValueError(f"n_groups = {n_groups} does not divide {n_experts} experts; choose a divisor of {n_experts}")
    if not 1 <= group_top_k <= n_groups:
        raise ValueError(f"group_top_k = {group_top_k} of {n_groups} groups cannot be kept; choose 1 to {n_groups}")
    held = group_top_k * (n_experts // n_groups)
    if top_k > held:
        fault = f"top_k = {top_k} is more than the {held} experts of the {group_top_k} groups kept"
        raise ValueError(f"{fault}; raise group_top_k or lower top_k")
    if group_score == "megatron" and top_k % group_top_k:
        fault = f'group_score = "megatron" shares top_k = {top_k} out over {group_top_k} groups unevenly'
        raise ValueError(f'{fault}; choose a top_k that group_top_k divides, or group_score = "top2"')
