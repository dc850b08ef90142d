"""Names of parameters as wrappers, trainers and tied heads leave them, and as the model has them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches

import torch
from torch import Tensor

# What torch.compile, FSDP, activation checkpointing, Lightning's Fabric and fairscale put into names, at any depth.
INSIDE = frozenset(
    {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "_fpw_module"}
)
BEFORE = ("module", "model")  # what DDP and DeepSpeed, and the attribute of a LightningModule, put before every name
FLAT = ("_flat_param", "flat_param")
SHOWN = 4  # names that a message lists
HEAD, EMBEDDING = "lm_head.weight", "embed.weight"


def unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under names without those of wrappers. ValueError, with the cure, where FSDP has joined parameters to
    flat ones, or two names become one and their tensors differ."""
    if flat := [name for name in tensors if name.rsplit(".", 1)[-1].startswith(FLAT)]:
        raise ValueError(
            f"holds FSDP's flattened parameters ({flat[0]}), of which the shapes are lost; save it with "
            "torch.distributed.checkpoint.state_dict.get_model_state_dict and full_state_dict=True"
        )
    names = {name: [part for part in name.split(".") if part not in INSIDE] for name in tensors}
    while first := next((word for word in BEFORE if names and all(p[0] == word and p[1:] for p in names.values())), ""):
        names = {name: parts[1:] for name, parts in names.items() if parts[0] == first}
    own_tensors: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for name, parts in names.items():
        own = ".".join(parts)
        if own in own_tensors and not _equal(own_tensors[own], tensors[name]):
            raise ValueError(f"holds {own} twice and not alike, as {origin[own]} and {name}; save one of them")
        own_tensors[own], origin[own] = tensors[name], name
    return own_tensors


def fitted(tensors: dict[str, Tensor], wanted: Collection[str]) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors without what a program's object has put before the model's names, and a note of what was left over.

    That is the one prefix under which all `wanted` names stand (a tied model's head may stand outside of it). They are
    returned as they are where none has all, or the bare names fit. What else stands under the prefix stays: it may be a part
    that this model lacks. ValueError, with the cure, where several prefixes do.
    """
    needed = set(wanted) - {HEAD}
    if not needed or needed <= tensors.keys():
        return tensors, []
    probe = max(needed, key=len)
    befores = [name[: -len(probe)] for name in tensors if name.endswith(f".{probe}")]
    fitting = sorted(before for before in befores if all(before + name in tensors for name in needed))
    if len(fitting) > 1:
        listed = ", ".join(f"{before}*" for before in fitting)
        raise ValueError(f"holds the model {len(fitting)} times, as {listed}; save one of them alone")
    if not fitting:
        return tensors, []
    [before] = fitting
    inner = {name.removeprefix(before): tensor for name, tensor in tensors.items() if name.startswith(before)}
    others = [name for name in tensors if not name.startswith(before)]
    if HEAD in others and HEAD not in inner:
        inner[HEAD] = tensors[HEAD]
        others.remove(HEAD)
    left = f", {len(others):,} other{'s' if len(others) > 1 else ''} left ({_few(others)})" if others else ""
    return inner, [f"its names begin with '{before}', taken off{left}"]


def closest(missing: Collection[str], names: Collection[str]) -> str:
    """List the names of a file that end as the missing ones do, or are nearly alike; "" where there are none."""
    pairs = []
    for name in sorted(missing)[:SHOWN]:
        same = sorted((other for other in names if other.endswith(f".{name}")), key=len)
        if alike := same[:1] or get_close_matches(name, names, 1, 0.75):
            pairs.append(f"{alike[0]} for {name}")
    return ", ".join(pairs)


def _few(names: Collection[str]) -> str:
    return ", ".join(sorted(names)[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def without_copies(tensors: dict[str, Tensor], tied: bool) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors without the copy of the embedding that a tied head is saved as, and a note about it.

    ValueError, with the cure, where the two differ, or where the model has a head of its own and the file has none.
    """
    if not tied and HEAD not in tensors and EMBEDDING in tensors:
        raise ValueError(f"lacks {HEAD}: its head is the embedding, and this study's is not; set model.tied = true")
    if not tied or HEAD not in tensors or EMBEDDING not in tensors:
        return tensors, []
    if not _equal(tensors[HEAD], tensors[EMBEDDING]):
        raise ValueError(f"{HEAD} differs from {EMBEDDING}, and this study ties them; set model.tied = false")
    kept = {name: tensor for name, tensor in tensors.items() if name != HEAD}
    return kept, [f"its {HEAD} is a copy of {EMBEDDING}, which is the head here"]


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(torch.equal(one, other.to(one.dtype)))
