"""Compressors: weights to bytes and back; the size of the artifact is len(bytes)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ablab.core.slot import Slot
from ablab.core.spelling import Before

if TYPE_CHECKING:
    from ablab.artifact.compressors.compressor import Compressor

ROUNDED = {
    **{
        f"{family}_{what}": f"{what}.{family}" for what in ("bits", "sigmas") for family in ("attn", "mlp", "embedding")
    },
    "lqer_rank": "lqer.rank",
}
SOLVED = {name: f"solver.{name}" for name in ("damp", "act_order", "block")}

slot: Slot[Compressor] = Slot(
    "compress",
    __name__,
    base="compressor.Compressor",
    keep="Keep",
    rtn="Rtn",
    gptq="Gptq",
    before={"rtn": [Before("rtn", ROUNDED)], "gptq": [Before("gptq", {**ROUNDED, **SOLVED})]},
)
