"""What this machine can take: devices, precision, cores, threads and memory."""

from __future__ import annotations

import errno
import functools
import os
from pathlib import Path

import torch

from ablab.core.fault import CheckFailed, Fault
from ablab.runtime.machine import lines, threads_asked

BF16_FLAGS = ("avx512_bf16", "amx_bf16")
PRECISIONS = ("bf16", "fp32")  # of runs
MORE_MEMORY = "run on a machine with more memory or fewer runs at a time (--jobs)"
NO_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "Cannot allocate memory",
    "bad_alloc",
    "Storage size calculation overflowed",
)
MEMORY_SHARE = 0.5  # of what is free: other work, the allocator's slack, and this estimate's own error


def require(device: str) -> None:
    """Raise CheckFailed where this machine, or this torch, has no such device."""
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise CheckFailed(Fault("--device", f"'{device}' names no device", "choose cpu or cuda")) from error
    if kind == "cuda" and not torch.cuda.is_available():
        built = "sees no GPU" if torch.version.cuda else "was built without CUDA"
        fault = f"torch {torch.__version__} {built}"
        raise CheckFailed(Fault("--device cuda", fault, "run where there is one, or choose --device cpu"))
    index = torch.device(device).index or 0
    if kind == "cuda" and index >= (count := len(gpus())):
        fault = f"this process may use {count} GPU{'s' if count > 1 else ''}, counted from cuda:0"
        raise CheckFailed(Fault(f"--device {device}", fault, "choose one of them"))
    if kind not in ("cpu", "cuda"):
        raise CheckFailed(Fault("--device", f"runs are not made on '{kind}'", "choose cpu or cuda"))


def use(device: str) -> str:
    """Make a GPU that is named by its number the one that `cuda` means in this process; returns the device's kind.

    The kind alone is part of a run's key: on another GPU of this machine a run is the same.
    """
    asked = torch.device(device)
    if asked.type == "cuda" and asked.index is not None:
        torch.cuda.set_device(asked.index)
    return asked.type


def precision(device: str, asked: str | None = None) -> str:
    """Return the precision asked for, else `bf16` (autocast) where the hardware multiplies it, `fp32` where it is emulated.

    ValueError for words that are neither.
    """
    if asked is not None:
        if asked not in PRECISIONS:
            raise ValueError(f"'{asked}' is no precision of a run; known: {', '.join(PRECISIONS)}")
        return asked
    kind = torch.device(device).type
    if kind == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if kind == "cpu" and any(flag in cpu_flags() for flag in BF16_FLAGS) else "fp32"


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """List the GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES takes."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        return [one.strip() for one in told.split(",") if one.strip()]
    return [str(i) for i in range(torch.cuda.device_count())]


def threads(jobs: int) -> int:
    """Count the threads of each of `jobs` processes side by side: their share of the cores, no more than OMP_NUM_THREADS."""
    share = max(1, cores() // jobs)
    return min(share, threads_asked() or share)


def memory_bytes(device: str) -> int:
    """Return the bytes that a run may use: a GPU's memory; on the CPU the machine's, or what its control group allows."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory * MEMORY_SHARE)
    # Not what is free at this moment: the micro-batch is part of a run's key, and a busy hour must not change it.
    free = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    free += [int(line) for line in lines(Path("/sys/fs/cgroup/memory.max")) if line.isdigit()]
    return int(min(free) * MEMORY_SHARE)


def ran_out(error: BaseException | None) -> bool:
    """Tell whether memory is what was missing, in the words of torch, numpy or the system."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Read the instruction-set flags of the CPU, as Linux names them; empty where that is unknown."""
    for line in lines(Path("/proc/cpuinfo")):
        if line.lower().startswith(("flags", "features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()
