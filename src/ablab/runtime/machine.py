"""What a run is executed on: the machine and its versions, the type of weights, the memory held."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import sys
from pathlib import Path

import torch

from ablab.core.fault import CheckFailed, Fault


def dtype_of(name: str) -> torch.dtype:
    """Return the type of the weights: fp32 under `fp32` and `bf16` (autocast), fp64 under `fp64`. ValueError for others."""
    known = {"fp32": torch.float32, "bf16": torch.float32, "fp64": torch.float64}
    if name not in known:
        raise ValueError(f"no precision is called '{name}'; choose fp32, bf16 or fp64")
    return known[name]


def autocast(name: str, device: str) -> torch.autocast:
    """Return the context of a forward pass under a precision: bf16 autocast, or nothing."""
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=name == "bf16")


def threads_asked() -> int | None:
    """Read what OMP_NUM_THREADS asks for, of a list (one number per level of nesting) its first; None where it is not set.

    CheckFailed for what is no number of threads: OpenMP itself would go on with another one.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").strip()
    if not asked:
        return None
    first = asked.split(",")[0].strip()
    if not first.isdecimal() or int(first) < 1:
        fault, cure = f"'{asked}' is no number of threads", "set a whole number from 1 on, or unset it"
        raise CheckFailed(Fault("OMP_NUM_THREADS", fault, cure))
    return int(first)


def kind(device: str = "cpu") -> str:
    """Name the machine type within which runs are bit-identical in one line: chip, instruction set, torch."""
    chip = platform.machine()
    for line in lines(Path("/proc/cpuinfo")):
        if line.startswith("model name"):
            chip = line.partition(":")[2].strip()
            break
    if torch.device(device).type == "cuda":
        chip = torch.cuda.get_device_name(device)
    return f"{chip}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"


def describe(device: str = "cpu") -> dict[str, object]:
    """Return provenance for reports: machine type, versions, threads."""
    import numpy as np

    return {
        "machine": kind(device),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "omp_num_threads": threads_asked(),
        "cores": os.cpu_count(),
    }


class Peak:
    """The most memory held from here on: of tensors on a GPU, of the whole process on a CPU.

    On Linux the kernel's own mark is set back; elsewhere it is that of the process since its start.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        if torch.device(device).type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")

    def read(self) -> int:
        """Read the peak in bytes."""
        if torch.device(self.device).type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        for line in lines(Path("/proc/self/status")):
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def lines(path: Path) -> list[str]:
    """Read the lines of a file of the system's; none where there is no such file."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
