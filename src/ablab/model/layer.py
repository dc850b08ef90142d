"""One layer of the decoder: attention and mlp with their norms, every choice in a slot.

Shapes are suffixes: B batch, T query positions, D d_model, H query heads, G key/value heads, K head_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from torch import Tensor, nn

from ablab.core.fault import Fault, InvalidStudy
from ablab.core.lever import Choice, Lever
from ablab.core.slot import Slot
from ablab.model import blocks, gates, mlps, positions, projections, residuals, routers, softmaxes, temperatures, values
from ablab.model.attention.attend import Added, Documents, attend
from ablab.model.gates.composed import Composed as Gates
from ablab.model.parts.columns import Columns
from ablab.model.parts.linear import Linear
from ablab.model.parts.norms import NORMS
from ablab.model.parts.pairs import Pairwise
from ablab.model.parts.routing import MixtureTally
from ablab.model.positions.composed import Composed as Positions
from ablab.model.positions.position import Position
from ablab.model.residuals.composed import Composed as Residuals
from ablab.model.shape import Shape
from ablab.records.settings import KindSettings

L = TypeVar("L", bound=Lever)


class Memory(Protocol):
    """What one layer remembers of earlier stretches of text while decoding; `ablab.model.cache` has it."""

    carry: object

    def attend(self, x_BTD: Tensor, q: Tensor, k: Tensor, v: Tensor, columns: Columns | None, p: object) -> Tensor: ...


class Remembering(Protocol):
    """What all layers remember (`ablab.model.cache.Cache`)."""

    carry: object

    @property
    def memories(self) -> Sequence[Memory]: ...
    def documents(self, ids_BT: Tensor) -> Any: ...  # the stretch at hand, which has Documents' places


@dataclass
class Pass:
    """One forward pass as its layers see it.

    x0_BTD: the embedding. first_BTGK: the first layer's values, once it has run. memory: one per layer met, or None.
    """

    documents: Documents
    x0_BTD: Tensor
    aux: MixtureTally | None = None
    memories: Sequence[Memory] | None = None
    step: int = 0
    first_BTGK: Tensor | None = None

    @property
    def memory(self) -> Memory | None:
        """The memory of the layer at hand; None where nothing is decoded."""
        return None if self.memories is None else self.memories[self.step]


class Attention(nn.Module):
    """Projection, QK-norm, position, one call of the attention core, gate, output matrix."""

    core = staticmethod(attend)

    def __init__(
        self, kind: KindSettings, shape: Shape, position: Position, shared: bool, *, norm: str,
        qk_norm: bool | Literal["after"], executor: str,
    ) -> None:  # fmt: skip
        super().__init__()
        place = f"model.{kind['table']}"
        self.shape, self.window, self.executor = shape, shape.window, executor
        self.projection = build_lever(projections.slot, kind["projection"], shape, place)
        self.value = build_lever(values.slot, kind["value"], shape, place)
        self.q_norm = NORMS[norm](shape.head_dim, shape.norm_eps) if qk_norm else nn.Identity()
        self.k_norm = NORMS[norm](shape.head_dim, shape.norm_eps) if qk_norm else nn.Identity()
        self.norm_after = qk_norm == "after"
        self.position: Position
        if shared:  # it belongs to the decoder: registered here too, it would be saved twice
            object.__setattr__(self, "position", position)
        else:
            self.position = position
        self.softmax = build_lever(softmaxes.slot, kind["softmax"], shape, place)
        self.temperature = build_lever(temperatures.slot, kind["temperature"], shape, place)
        self.gate = build_levers(gates.slot, Gates, kind["gate"], shape, place)
        self.o_proj = Linear(shape.n_heads * shape.head_dim, shape.d_model, std=shape.out_std, bias=shape.bias)

    def forward(self, x_BTD: Tensor, raw_BTD: Tensor, run: Pass) -> Tensor:
        """Attend: x is the normalised input, raw the stream itself."""
        memory = run.memory
        q_BTHK, k_BTGK, v_BTGK = self.projection(x_BTD)
        v_BTGK = self.value(v_BTGK, run.first_BTGK)
        if run.first_BTGK is None:
            run.first_BTGK = v_BTGK
        if not self.norm_after:
            q_BTHK, k_BTGK = self.q_norm(q_BTHK), self.k_norm(k_BTGK)
        p, carry = self.position.place(x_BTD, run.documents.pos_BT, None if memory is None else memory.carry)
        q_BTHK, k_BTGK = self.position.rotate(q_BTHK, k_BTGK, p)
        if self.norm_after:
            q_BTHK, k_BTGK = self.q_norm(q_BTHK), self.k_norm(k_BTGK)
        columns = self.position.columns(q_BTHK, k_BTGK, p)
        q_BTHK = self.temperature(q_BTHK)
        if memory is None:
            bias = Pairwise(self.position.bias, p) if self.position.pairwise else None
            added = Added(self.window, run.documents, columns, bias, self.softmax.sink())
            y_BTHK = self.core(q_BTHK, k_BTGK, v_BTGK, added, executor=self.executor)
        else:
            memory.carry = carry
            y_BTHK = memory.attend(x_BTD, q_BTHK, k_BTGK, v_BTGK, columns, p)
        out: Tensor = self.o_proj(self.gate(y_BTHK, x_BTD, raw_BTD, v_BTGK).flatten(2))
        return out


class Layer(nn.Module):
    """Two branches, each behind its norm, joined to the stream by the block."""

    def __init__(
        self, kind: KindSettings, shape: Shape, position: Position, shared: bool, *, norm: str,
        qk_norm: bool | Literal["after"], executor: str,
    ) -> None:  # fmt: skip
        super().__init__()
        place = f"model.{kind['table']}"
        self.attn_norm = NORMS[norm](shape.d_model, shape.norm_eps)
        self.attn = Attention(kind, shape, position, shared, norm=norm, qk_norm=qk_norm, executor=executor)
        self.mlp_norm = NORMS[norm](shape.d_model, shape.norm_eps)
        self.mlp = build_lever(mlps.slot, kind["mlp"], shape, place)
        self.routed = self.mlp.routed
        if self.routed and kind["router"] is not None:
            routed = Shape(**{**vars(shape), "n_experts": self.mlp.n_experts})
            self.mlp.router = build_lever(routers.slot, kind["router"], routed, place)
        self.residual = build_levers(residuals.slot, Residuals, kind["residual"], shape, place)
        self.block = build_lever(blocks.slot, kind["block"], shape, place)

    def forward(self, stream: Tensor, run: Pass) -> Tensor:
        def enter(x_BTD: Tensor) -> Tensor:
            out: Tensor = self.residual.enter(x_BTD, run.x0_BTD)
            return out

        def attn(x_BTD: Tensor) -> Tensor:
            h_BTD = self.residual.into(self.attn_norm(x_BTD))
            out: Tensor = self.residual.out(self.attn(h_BTD, x_BTD, run), "attn")
            return out

        def mlp(x_BTD: Tensor) -> Tensor:
            h_BTD = self.residual.into(self.mlp_norm(x_BTD))
            out: Tensor = self.residual.out(self.mlp(h_BTD, run.aux) if self.routed else self.mlp(h_BTD), "mlp")
            return out

        out: Tensor = self.block(stream, enter, attn, mlp)
        return out


def build_lever(slot: Slot[L], choice: Choice, shape: Shape, place: str) -> L:
    """Build the slot's lever; its ValueError becomes InvalidStudy with the place."""
    try:
        return slot.build(choice, shape)
    except ValueError as error:
        fault, _, cure = str(error).partition("; ")
        raise InvalidStudy(Fault(f"{place}.{slot.name}", f"{choice['name']}: {fault}", cure)) from error


def build_levers(
    slot: Slot[L], composed: Callable[[list[L]], L], choice: Choice | list[Choice], shape: Shape, place: str
) -> L:
    """Build one lever, or several composed where the choice is a list."""
    if not isinstance(choice, list):
        return build_lever(slot, choice, shape, place)
    parts = [build_lever(slot, part, shape, place) for part in choice]
    try:
        return parts[0] if len(parts) == 1 else composed(parts)
    except ValueError as error:
        fault, _, cure = str(error).partition("; ")
        raise InvalidStudy(Fault(f"{place}.{slot.name}", fault, cure)) from error


def build_position(choice: Choice | list[Choice], shape: Shape, place: str) -> Position:
    """Build the position of a layer. Raises InvalidStudy where a part of a list would be shared by the whole network."""
    if isinstance(choice, list) and any(part.get("share") == "net" for part in choice):
        fault = 'a part with share = "net" stands in a list'
        raise InvalidStudy(Fault(f"{place}.position", fault, 'let it stand alone, or use share = "layer"'))
    return build_levers(positions.slot, Positions, choice, shape, place)
