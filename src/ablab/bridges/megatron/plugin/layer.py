"""Megatron-Core's layer with an attention whose parts are ablab's, split by heads over tensor parallel processes.

Imported only where megatron-core is. Shapes are suffixes: B rows, T tokens, D d_model, H query heads, G kv heads, K head_dim;
Megatron lays activations out as (T, B, ...).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor, nn

from ablab.core.fault import Fault, InvalidStudy
from ablab.core.files import canonical
from ablab.core.rng import Draw
from ablab.model import gates, projections, softmaxes, temperatures, values
from ablab.model.attention.attend import Added, Documents, attend, executor_for
from ablab.model.gates.composed import Composed as Gates
from ablab.model.layer import build_lever, build_levers, build_position
from ablab.model.parts.context import Context
from ablab.model.parts.norms import NORMS
from ablab.model.parts.pairs import Pairwise
from ablab.model.parts.part import Part
from ablab.model.shape import Shape
from ablab.records.settings import KindSettings, ModelSettings

WIDE = ("position", "softmax", "temperature", "value")  # parts that keep fp32 numbers where the network's are narrower


class StageParts:
    """What the layers of one pipeline stage share: positions of which the network has one, the first layer's values, documents.

    `begin` is called by the first layer that is built: the same specs may build several networks.
    """

    def __init__(self, draw: Draw, numbers: Mapping[str, int], model: ModelSettings, shape: Shape) -> None:
        """Begin a stage; `numbers`: of the positions that the network has once, by their canonical choice, as in ablab."""
        self.draw, self.numbers, self.shape = draw, numbers, shape
        self.norm, self.qk_norm = model["norm"], model["qk_norm"]
        self.begin()

    def begin(self) -> None:
        """Begin another network: what was built before is forgotten."""
        self.shared: dict[str, Part] = {}
        self.first_BTGK: Tensor | None = None
        self._seen: tuple[object, int | None, Documents] | None = None

    def documents(self, mask: Tensor | None, packed: Any, q_BTHK: Tensor) -> Documents:
        """Return the documents of a micro-batch (`ids_of`), made once for all layers that see the same mask."""
        rows, length = q_BTHK.shape[:2]
        of = mask if packed is None else packed.cu_seqlens_q
        version = None if of is None else of._version  # a mask may be written anew in place
        seen = self._seen
        if seen is None or seen[0] is not of or seen[1] != version or seen[2].shape != (rows, length):
            self._seen = seen = of, version, Documents(ids_of(mask, packed, rows, length, q_BTHK.device))
        return seen[2]


def ids_of(mask: Tensor | None, packed: Any, rows: int, length: int, device: torch.device) -> Tensor:
    """Return the document of every token, (B, T).

    packed: Megatron's packed_seq_params, whose edges count for all rows laid end to end. mask: ids (B, T), or Megatron's own
    (B or 1, 1, T, T), true where a token is not seen: a document begins where a token does not see the one before it. Without
    either each row is one document. ValueError where the sizes do not meet.
    """
    if packed is not None:
        edges = packed.cu_seqlens_q.to(device)
        if rows != 1 or int(edges[-1]) != length:
            raise ValueError(f"packed sequences end at {int(edges[-1])}, but there are {rows} rows of {length} tokens")
        place = torch.arange(length, device=device)
        return torch.searchsorted(edges, place, right=True)[None]
    if mask is None:
        return torch.zeros(rows, length, dtype=torch.int64, device=device)
    if mask.dim() == 2:
        ids = mask
    elif mask.dim() == 4 and mask.dtype == torch.bool and mask.shape[1] == 1 and mask.shape[2] == mask.shape[3]:
        hidden = mask[:, 0].diagonal(offset=-1, dim1=1, dim2=2)
        ids = nn.functional.pad(hidden.to(torch.int64).cumsum(1), (1, 0))
    else:
        raise ValueError(f"attention_mask is {tuple(mask.shape)} {mask.dtype}; give ids (B, T), or a mask (B, 1, T, T)")
    ids = ids.expand(rows, -1)
    if ids.shape != (rows, length):
        raise ValueError(f"attention_mask is of {ids.shape[1]} tokens, but a row has {length}")
    return ids


class OurAttention(SelfAttention):  # type: ignore[misc]
    """Megatron's projections around ablab's position, value, temperature, attention core, softmax and gate."""

    def __init__(
        self, config: Any, submodules: Any, layer_number: int, *, kind: KindSettings, net: StageParts, **theirs: Any
    ) -> None:
        super().__init__(config, submodules, layer_number, **theirs)
        self.net, self.window, self.tensor_parallel = net, kind["window"], self.world_size
        at = Shape(**{**vars(net.shape), "window": kind["window"], "layer": layer_number - 1})
        place, path = f"model.{kind['table']}", f"layers.{layer_number - 1}.attn"

        def part(name: str, make: Callable[[Shape], Part]) -> Any:
            return self._split(make, at, f"{path}.{name}")

        self.position = self._positioned(kind["position"], place, part)
        self.projection: Any = None
        if kind["projection"]["name"] != "gqa":
            self.projection = part("projection", lambda s: build_lever(projections.slot, kind["projection"], s, place))
        self.value = part("value", lambda s: build_lever(values.slot, kind["value"], s, place))
        self.softmax = part("softmax", lambda s: build_lever(softmaxes.slot, kind["softmax"], s, place))
        self.temperature = part("temperature", lambda s: build_lever(temperatures.slot, kind["temperature"], s, place))
        self.gated = kind["gate"] != {"name": "off"}
        self.gate = part("gate", lambda s: build_levers(gates.slot, Gates, kind["gate"], s, place))
        self.q_norm: nn.Module = nn.Identity()
        self.k_norm: nn.Module = nn.Identity()
        if net.qk_norm == "after":
            self.q_norm = part("q_norm", lambda s: NORMS[net.norm](s.head_dim, s.norm_eps))
            self.k_norm = part("k_norm", lambda s: NORMS[net.norm](s.head_dim, s.norm_eps))
        self.norm_after = net.qk_norm == "after"
        self.raw: Tensor | None = None  # the stream before its norm: the layer puts it here for a forward pass

    def _positioned(self, choice: Any, place: str, part: Callable[..., Any]) -> Any:
        """Build the position, or take the one that the layers of this stage share."""
        if (made := self.net.shared.get(canonical(choice))) is not None:
            return made
        made = part("position", lambda shape: build_position(choice, shape, place))
        if made.share == "net":
            self.net.shared[canonical(choice)] = made
            for parameter in made.parameters():
                parameter.pipeline_parallel = True  # Megatron adds up its gradients over the stages
                parameter.of_network = self.net.numbers[canonical(choice)]
        return made

    def _split(self, make: Callable[[Shape], Part], shape: Shape, path: str) -> Part:
        """Build a part and fill it from its stream; of several processes each takes its heads' numbers.

        Which axis of a tensor runs over heads is told by building the part for one process's heads too. A tensor that has no
        such axis is the same everywhere, and its gradient the sum over the processes. InvalidStudy where neither holds.
        """
        whole, n = make(shape), self.tensor_parallel
        for name, one in whole.named_modules():
            if isinstance(one, Part):
                one.init(self.net.draw.at(f"{path}.{name}" if name else path))
        if n == 1:
            return whole
        heads = {"n_heads": shape.n_heads // n, "n_kv_heads": shape.n_kv_heads // n}
        mine = make(Shape(**{**vars(shape), **heads}))
        given = {**dict(whole.named_parameters()), **dict(whole.named_buffers())}
        for name, tensor in (*mine.named_parameters(), *mine.named_buffers()):
            axes = [i for i, (a, b) in enumerate(zip(given[name].shape, tensor.shape)) if a != b]
            if len(axes) > 1 or any(given[name].shape[i] != n * tensor.shape[i] for i in axes) or (
                path.endswith("projection") and name == "bias"  # q, k and v one after the other
            ):  # fmt: skip
                fault = f"{name} cannot be split by heads over {n} tensor parallel processes"
                raise InvalidStudy(Fault(path, fault, "train it with --tensor-model-parallel-size 1"))
            with torch.no_grad():
                tensor.copy_(given[name].chunk(n, axes[0])[self.tp_group.rank()] if axes else given[name])
            if isinstance(tensor, nn.Parameter):
                said = {
                    "tensor_model_parallel": bool(axes),
                    "partition_dim": axes[0] if axes else -1,
                    "partition_stride": 1,
                }
                for key, value in said.items():  # how Megatron knows what it must not count twice
                    setattr(tensor, key, value)
                if not axes:
                    tensor.register_hook(self._summed)
        return mine

    def _summed(self, gradient: Tensor) -> Tensor:
        """Add up a gradient over the tensor parallel processes, each of which has seen its heads alone."""
        total = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total, group=self.tp_group)
        return total

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move the module as asked, but leave the numbers of small parts (WIDE) as fine as they are."""

        def moved(tensor: Tensor) -> Tensor:
            asked = fn(tensor)
            return tensor.to(asked.device) if asked.dtype != tensor.dtype else asked

        for name, child in self.named_children():
            child._apply(moved if name in WIDE else fn)
        return super()._apply(fn, recurse=False)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None, **theirs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Attend over (T, B, D); what Megatron hands over besides documents is refused where it would act."""
        for name in ("key_value_states", "inference_context", "inference_params", "attention_bias", "rotary_pos_emb"):
            if theirs.get(name) is not None:
                text = f"{name} has no place in the plugin's attention"
                raise InvalidStudy(Fault("forward", text, "train without it; decode with ablab sample"))
        x_BTD, raw_BTD = self._whole(hidden_states), self.raw
        if self.projection is None:
            q, k, v = (t.transpose(0, 1) for t in self.get_query_key_value_tensors(hidden_states, None))
        else:
            q, k, v = self.projection(x_BTD)
            q, k = self.q_layernorm(q), self.k_layernorm(k)
        documents = self.net.documents(attention_mask, theirs.get("packed_seq_params"), q)
        if self.layer_number == 1:
            self.net.first_BTGK = v
        v = self.value(v, None if self.layer_number == 1 else self.net.first_BTGK)
        if not self.norm_after:
            q, k = self.q_norm(q), self.k_norm(k)
        p, _ = self.position.place(x_BTD, documents.pos_BT, None)
        q, k = self.position.rotate(q, k, p)
        if self.norm_after:
            q, k = self.q_norm(q), self.k_norm(k)
        columns = self.position.columns(q, k, p)
        q = self.temperature(q)
        bias = Pairwise(self.position.bias, p) if self.position.pairwise else None
        added = Added(self.window, documents, columns, bias, self.softmax.sink())
        y = attend(
            q.to(v.dtype),
            k.to(v.dtype),
            v,
            added,
            executor=executor_for(q.device.type, pairwise=self.position.pairwise),
        )
        if self.gated and raw_BTD is not None:
            raw_BTD = self._whole(raw_BTD)
        y = self.gate(y, x_BTD, raw_BTD, v)
        made: nn.Module = self.linear_proj
        output: tuple[Tensor, Tensor | None] = made(y.flatten(2).transpose(0, 1).contiguous())
        return output

    def _whole(self, x_TBD: Tensor) -> Tensor:
        """Return all tokens as (B, T, D), with a gradient that is the sum over the tensor parallel processes."""
        if self.tensor_parallel > 1 and self.config.sequence_parallel:
            x_TBD = gather_from_sequence_parallel_region(x_TBD, group=self.tp_group)
        elif self.tensor_parallel > 1:
            x_TBD = _Copied.apply(x_TBD, self.tp_group)  # type: ignore[no-untyped-call]
        return x_TBD.transpose(0, 1)


class _Copied(torch.autograd.Function):
    """The same on every process; the gradient is the sum over them.

    Megatron's own (0.16.1) leaves a gradient that is not contiguous as it is: it adds up a copy.
    """

    @staticmethod
    def forward(ctx: Context, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total, group=ctx.group)
        return total, None


class OurLayer(TransformerLayer):  # type: ignore[misc]
    """Megatron's layer whose TransformerConfig differs from the network's in `own`, as those of ablab's layer kinds do."""

    def __init__(
        self,
        config: Any,
        submodules: Any,
        layer_number: int = 1,
        *,
        own: Mapping[str, object],
        net: StageParts,
        **theirs: Any,
    ) -> None:
        mine = copy.copy(config)
        for key, value in own.items():
            if not hasattr(mine, key):
                raise TypeError(f"this megatron-core has no {key} in its TransformerConfig")
            setattr(mine, key, value)
        if layer_number == 1:
            net.begin()
        super().__init__(mine, submodules, layer_number, **theirs)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Let the attention see the stream before its norm, and pass on."""
        self.self_attention.raw = hidden_states
        try:
            return super().forward(hidden_states, *args, **kwargs)
        finally:
            self.self_attention.raw = None


class OurNorm(nn.Module):
    """ablab's norm where Megatron builds one: it may have no weight, and works on sequence parallel activations."""

    def __new__(cls, config: Any, hidden_size: int, eps: float = 1e-5, *, norm: str) -> Any:
        made = NORMS[norm](hidden_size, eps)
        made.init(Draw(0))
        for parameter in made.parameters():
            vars(parameter)["sequence_parallel"] = config.sequence_parallel  # Megatron adds its gradient up then
        return made
