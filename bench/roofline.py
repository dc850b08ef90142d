"""What the loss and NorMuon of a step cost a GPU on paper, without one: python bench/roofline.py [--json PATH].

Counts, on tensors without storage, what their operators read and write, the products' FLOPs and the launches, and divides by
an H200's stated speeds, taken at what large kernels reach of them. A bound and not a measurement: no launch is late, nothing
stays in a cache between two operators, an operator is a kernel. A generated kernel counts as one that reads what it is given
and writes what it returns (for the log-sum-exp twice: its maximum first).
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from ablab.model import cross_entropy
from ablab.runtime.provenance import of_ablab
from ablab.training import optimizers

BF16, FP32 = 790e12, 49e12  # products per second: 0.8 of the stated 989; fp32 without tensor cores
BYTES = 4.3e12  # per second: 0.9 of the stated 4.8
LEAST = 2e-6  # seconds of the smallest kernel
ROWS, WIDTH = 32_768, 768
VOCABULARIES = (50_304, 201_088)
MATRICES = {(768, 768): 24, (256, 768): 24, (3072, 768): 12, (768, 3072): 12}  # of bench/gpu.py's hybrid
# Operators that only look at memory in another way.
VIEWS = """
    view reshape expand slice select t transpose permute detach alias unsqueeze squeeze split unbind as_strided empty
    _unsafe_view unfold lift chunk empty_like new_empty split_with_sizes
"""
PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1, "addmm_": 1, "baddbmm_": 1}  # where their left factor stands


class Count(TorchDispatchMode):
    """Launches, bytes, FLOPs and the seconds that follow, of everything called inside."""

    def __init__(self) -> None:
        super().__init__()
        self.launches, self.bytes, self.flops, self.seconds = 0, 0, 0, 0.0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        name = function.overloadpacket.__name__
        if name not in VIEWS.split():
            given = [args, {k: v for k, v in kwargs.items() if k != "out"}]
            self.add(given[0][1:] if name == "copy_" else given, out, *self._product(name, args))
        return out

    @staticmethod
    def _product(name: str, args: Any) -> tuple[int, float]:
        if name not in PRODUCTS:
            return 0, BF16
        left, right = args[PRODUCTS[name]], args[PRODUCTS[name] + 1]
        return 2 * left.numel() * right.shape[-1], BF16 if left.dtype == torch.bfloat16 else FP32

    def add(self, read: object, written: object, flops: int = 0, rate: float = BF16) -> None:
        """Count one kernel."""
        moved = sum(_bytes(t) for t in tree_leaves((read, written)) if isinstance(t, Tensor))
        self.launches, self.bytes, self.flops = self.launches + 1, self.bytes + moved, self.flops + flops
        self.seconds += max(LEAST, moved / BYTES, flops / rate)

    def found(self) -> dict[str, float]:
        """What was counted, in the units of people."""
        return {
            "launches": self.launches,
            "gigabytes": round(self.bytes / 1e9, 1),
            "teraflop": round(self.flops / 1e12, 2),
            "ms": round(1000 * self.seconds, 1),
        }


def _bytes(t: Tensor) -> int:
    """Bytes that lie in memory behind a tensor: an expanded axis lies there once."""
    return t.element_size() * math.prod(n for n, stride in zip(t.shape, t.stride(), strict=True) if stride)


def generated(count: Count, function: Callable[..., Any]) -> Callable[..., Any]:
    """Stand in for a generated kernel: one launch, its arguments read (twice for sums of rows) and its answers written."""

    @functools.wraps(function)
    def one(*args: Any) -> Any:
        with _disable_current_modes():
            out = function(*args)
        count.add([args, args[0]] if function is cross_entropy.fused_sums else args, out)
        return out

    return one


@contextlib.contextmanager
def counted(fused: bool) -> Iterator[Count]:
    """Count what the loss does inside, its elementwise part generated or not; there is no autocast for such tensors."""
    count = Count()
    kernels = cross_entropy.Fused(functools.partial(generated, count)) if fused else None
    with (
        mock.patch.object(torch, "autocast", lambda *_, **__: contextlib.nullcontext()),
        mock.patch.object(cross_entropy, "elementwise", lambda _: kernels or cross_entropy.InPlace()),
        count,
    ):
        yield count


def loss(rows: int, vocab: int, width: int, *, device: str, fused: bool) -> dict[str, float]:
    """Count forward and backward of the loss, in chunks of the device's size."""
    hidden, weight = (torch.empty(n, width, device="meta", requires_grad=True) for n in (rows, vocab))
    targets = torch.empty(rows, device="meta", dtype=torch.long)
    with counted(fused) as count:
        chunk = cross_entropy.chunk_rows(vocab, device)
        out = cross_entropy._Nll.apply(hidden, weight, targets, 0.0, chunk, torch.bfloat16)
        out.backward(torch.empty_like(out))
    return {"chunks": -(-rows // chunk), **count.found()}


def normuon() -> dict[str, float]:
    """Count one step of NorMuon's matrices."""
    weights = {}
    for (rows, cols), n in MATRICES.items():
        for i in range(n):
            weights[f"{rows}x{cols}.{i}"] = one = torch.nn.Parameter(torch.empty(rows, cols, device="meta"))
            one.grad = torch.empty(rows, cols, device="meta")
    table = {"name": "normuon", "orthogonaliser": {"name": "polar_express", "products": "bf16"}}
    optimizer = optimizers.slot.build(optimizers.slot.coerce(table, "")[0])
    optimizer = optimizer.build(weights, dict.fromkeys(weights, "matrix"))
    with Count() as count:
        optimizer.move()
    return count.found()


def measure() -> dict[str, Any]:
    """Everything that is printed."""
    forms = {
        "a CPU's chunks, operator by operator": {"device": "cpu", "fused": False},
        "a GPU's chunks, operator by operator": {"device": "cuda", "fused": False},
        "a CPU's chunks, generated kernels": {"device": "cpu", "fused": True},
        "a GPU's chunks, generated kernels": {"device": "cuda", "fused": True},
    }
    losses = {str(v): {name: loss(ROWS, v, WIDTH, **form) for name, form in forms.items()} for v in VOCABULARIES}
    return {
        "rows": ROWS,
        "d_model": WIDTH,
        "loss by vocabulary": losses,
        "normuon, the hybrid of bench/gpu.py": normuon(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    asked = parser.parse_args()
    assumed = {"bf16 FLOP/s": BF16, "fp32 FLOP/s": FP32, "bytes/s": BYTES, "least seconds of a kernel": LEAST}
    environment = {"commit": of_ablab(), "torch": torch.__version__, "assumed": assumed, "measured": False}
    found = {"environment": environment, **measure()}
    print(json.dumps(found, indent=1))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
