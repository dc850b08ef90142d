"""A mixture of experts."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ablab.model.mlps.activations import GATED, PLAIN
from ablab.model.mlps.mlp import Mlp
from ablab.model.parts.grouped import Sorted, Stacked, by_expert, collect, spread
from ablab.model.parts.linear import Linear
from ablab.model.parts.part import Part
from ablab.model.parts.routing import Chooser, MixtureTally, Routed, balance, squared_mass, whole_balance
from ablab.model.shape import Shape

Activation = Literal["relu2", "leaky_relu2", "gelu", "swiglu", "gptoss_swiglu"]
WEIGHTS = {"sequence": 1e-4, "switch": 1e-2}  # of the papers: DeepSeek-V3, Switch Transformer


class Moe(Mlp):
    """Each token meets the few experts that its router chose, and one that is always on.

    x_BTD -> BTD = sum_k weight_k expert_k(x) + shared(x). `router` is set by the model. Raises ValueError for impossible
    numbers.

    n_experts: that the router chooses among
    ratio (d_model): hidden width of one expert
    shared (d_model): hidden width of the always-on expert, which stands for all shared experts together and has weight 1; 0
        is none
    activation: of every expert, an MLP at its default settings
    balance: adds a loss to the gradient, never to the reported loss: sequence evens the load within each row (DeepSeek-V3,
        2412.19437, eq. 17), switch over the batch, which then may not be split into micro-batches
    balance_weight: of that loss, which is 1 where the load is even; default: 1e-4, for switch 1e-2
    z_loss: weight of the mean of logsumexp(logits)^2 in the gradient
    """

    source = "Dai et al. 2024 (DeepSeekMoE), arXiv 2401.06066; Megatron-LM's shared expert and losses"
    routed = True

    def __init__(
        self,
        shape: Shape,
        *,
        n_experts: int = 8,
        ratio: float = 1.0,
        shared: float = 0.0,
        activation: Activation = "relu2",
        balance: Literal["none", "sequence", "switch"] = "none",
        balance_weight: float | None = None,
        z_loss: float = 0.0,
    ) -> None:
        super().__init__()
        _refuse(n_experts, balance, balance_weight, z_loss)
        self.n_experts, self.balance, self.z_loss = n_experts, balance, z_loss
        self.balance_weight = WEIGHTS.get(balance, 0.0) if balance_weight is None else balance_weight
        # The balance over a batch is not a sum over its parts.
        self.whole_batch = balance == "switch" and self.balance_weight > 0
        self.experts = _Experts(shape, n_experts, _width("ratio", ratio, shape.d_model), activation)
        always = _width("shared", shared, shape.d_model) if shared else 0
        self.shared = _Always(shape, always, activation) if always else None
        self.router = None

    def __setattr__(self, name: str, value: Tensor | nn.Module) -> None:
        """Set a part; a router that arrives says which share of the experts a token uses: arithmetic is counted by it."""
        super().__setattr__(name, value)
        if name == "router" and self.router is not None:
            for part in self.experts.children():
                assert isinstance(part, Stacked)
                part.used = self.router.top_k / self.n_experts

    def forward(self, x_BTD: Tensor, aux: MixtureTally | None = None) -> Tensor:
        if self.router is None:
            raise RuntimeError("a mixture needs a router before it is called; the model sets it")
        x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
        routed = self.router(x_ND)
        rows = by_expert(routed.experts_NK, self.n_experts)
        y_BTD = self.experts(x_ND, routed.weights_NK, rows).view(x_BTD.shape)
        if self.shared is not None:
            y_BTD = y_BTD + self.shared(x_BTD)
        if aux is not None:
            self._tell(aux, self.router, routed, rows, x_BTD.shape[-2])
        out: Tensor = y_BTD
        return out

    def _tell(self, aux: MixtureTally, router: Chooser, routed: Routed, rows: Sorted, length: int) -> None:
        """Tell the tally counts and losses of this pass."""
        aux.count(router, rows.counts_E)
        if self.balance == "sequence" and self.balance_weight:
            shares_BTE = routed.shares_NE.unflatten(0, (-1, length))
            aux.row(self.balance_weight * balance(shares_BTE, router.top_k).sum())
        if self.whole_batch:
            aux.whole(self.balance_weight * whole_balance(routed.shares_NE, router.top_k, aux.world))
        if self.z_loss:
            aux.token(self.z_loss * squared_mass(routed.logits_NE))


class _Experts(Part):
    """n MLPs of one size as stacks of matrices; rows find theirs by sorting. `border`: a compiled layer leaves it as it is."""

    border = True

    def __init__(self, shape: Shape, n: int, hidden: int, activation: Activation) -> None:
        super().__init__()
        self.activation = activation
        if activation in GATED:
            self.gate_proj = Stacked(n, shape.d_model, hidden, std=shape.init_std, bias=shape.bias)
        self.up_proj = Stacked(n, shape.d_model, hidden, std=shape.init_std, bias=shape.bias)
        self.down_proj = Stacked(n, hidden, shape.d_model, std=shape.out_std, bias=shape.bias)

    def forward(self, x_ND: Tensor, weights_NK: Tensor, rows: Sorted) -> Tensor:
        kind = x_ND.device.type
        if torch.is_autocast_enabled(kind):
            x_ND = x_ND.to(torch.get_autocast_dtype(kind))
        top_k = weights_NK.shape[1]
        x_RD, weights_R = spread(x_ND, rows, top_k), weights_NK.flatten().index_select(0, rows.order_R)
        h_RI = self.up_proj(x_RD, rows.ends_E)
        if self.activation in GATED:
            gate_RI = self.gate_proj(x_RD, rows.ends_E)
            h_RI = GATED[self.activation](gate_RI, h_RI)
        else:
            h_RI = PLAIN[self.activation](h_RI)
        # The weight goes on the hidden units, as in Megatron-LM: fewer numbers than the outputs, which need not be kept then.
        h_RI = (h_RI * weights_R[:, None]).to(h_RI.dtype)
        y_RD = self.down_proj(h_RI, rows.ends_E, weights_R)
        return collect(y_RD, rows, top_k)


class _Always(Part):
    """The shared expert: an ordinary MLP."""

    def __init__(self, shape: Shape, hidden: int, activation: Activation) -> None:
        super().__init__()
        self.activation = activation
        if activation in GATED:
            self.gate_proj = Linear(shape.d_model, hidden, std=shape.init_std, bias=shape.bias)
        self.up_proj = Linear(shape.d_model, hidden, std=shape.init_std, bias=shape.bias)
        self.down_proj = Linear(hidden, shape.d_model, std=shape.out_std, bias=shape.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        h = self.up_proj(x_BTD)
        gated = self.activation in GATED
        active = GATED[self.activation](self.gate_proj(x_BTD), h) if gated else PLAIN[self.activation](h)
        out: Tensor = self.down_proj(active)
        return out


def _width(name: str, ratio: float, d_model: int) -> int:
    hidden = round(ratio * d_model)
    if hidden < 1:
        raise ValueError(f"{name} = {ratio} leaves no hidden unit; choose a {name} above {1 / d_model:g}")
    return hidden


def _refuse(n_experts: int, balance: str, balance_weight: float | None, z_loss: float) -> None:
    if n_experts < 1:
        raise ValueError(f"n_experts = {n_experts} is no mixture; choose 1 or more")
    if balance == "none" and balance_weight is not None:
        raise ValueError(
            f'balance_weight = {balance_weight} weighs nothing while balance = "none"; choose "sequence" or "switch"'
        )
    for name, value in (("balance_weight", balance_weight), ("z_loss", z_loss)):
        if value is not None and value < 0:
            raise ValueError(f"{name} = {value} is negative; choose 0 or more")
