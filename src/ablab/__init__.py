"""ablab: declare one lever at a time, get a verdict you can defend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ablab.launch.study import Lab

__version__ = "0.1.0"
__all__ = ["load"]


def load(
    path: str | Path,
    scale: str | None = None,
    *,
    out: str | Path = "runs",
    device: str = "cpu",
    precision: str | None = None,
) -> Lab:
    """Open a study file: its check(), run(), report() and verdict, as the commands do them (docs/python.md).

    scale: a named scale of it. out: where corpora, runs and reports lie. device: cpu or cuda. precision: bf16 or fp32; by
    default bf16 where the hardware multiplies it. InvalidStudy where the file cannot be read; what it asks is held against
    the levers with the first call, and torch is imported then.
    """
    from ablab.launch.study import Lab

    return Lab(Path(path), scale, Path(out), device, precision)
