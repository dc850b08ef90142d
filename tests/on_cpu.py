"""Megatron-Core on a CPU: what it asks of CUDA by name is answered by the CPU. For tests alone."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.overrides import TorchFunctionMode


class Here(TorchFunctionMode):
    """Tensors that are asked for on a GPU are made here."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.cuda:
            return args[0]
        if str(kwargs.get("device", "")).startswith("cuda"):
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


@contextlib.contextmanager
def megatron(folder: Path, rank: int = 0, world: int = 1, **sizes: int) -> Iterator[None]:
    """Join the gloo group that meets in `folder`, cut as `sizes` say (tensor_model_parallel_size, ...), until the block ends.

    Without Transformer Engine the router of 0.16.1 asks for a name that nobody has defined: it is None.
    """
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import random
    from megatron.core.transformer.moe import moe_utils

    @contextlib.contextmanager
    def fork(*_: object, **__: object) -> Iterator[None]:
        yield

    with pytest.MonkeyPatch.context() as patch, Here():
        patch.setattr(torch.cuda, "current_device", lambda: torch.device("cpu"))
        patch.setattr(torch.cuda, "synchronize", lambda *_: None)
        patch.setattr(random.get_cuda_rng_tracker(), "fork", fork, raising=False)
        patch.setattr(moe_utils, "te_general_gemm", None, raising=False)
        store = dist.FileStore(str(folder / "meet"), world)
        patience = datetime.timedelta(seconds=240)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=patience)
        try:
            parallel_state.initialize_model_parallel(**sizes)
            yield
        finally:
            parallel_state.destroy_model_parallel()
            dist.destroy_process_group()
