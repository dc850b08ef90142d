"""Compressors: weights to bytes and back; the size of the artifact is len(bytes)."""

from typing import Any

from ablab.core.slot import Slot
from ablab.core.spelling import Before

ROUNDED = {
    **{
        f"{family}_{what}": f"{what}.{family}" for what in ("bits", "sigmas") for family in ("attn", "mlp", "embedding")
    },
    "lqer_rank": "lqer.rank",
}
SOLVED = {name: f"solver.{name}" for name in ("damp", "act_order", "block")}

slot: Slot[Any] = Slot(
    "compress",
    __name__,
    keep="Keep",
    rtn="Rtn",
    gptq="Gptq",
    before={"rtn": [Before("rtn", ROUNDED)], "gptq": [Before("gptq", {**ROUNDED, **SOLVED})]},
)
