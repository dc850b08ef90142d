"""Which kernel serves which case on which device. A table, committed: nothing is chosen by a timing at run time.

The CUDA rows are judgement, NOT YET MEASURED: they follow from what the kernels do (below), and `bench/gpu.py` holds the
comparison that will confirm or change them. Against flex in windows and documents stands `varlen`, one launch of the
hand-written kernel (bf16 and fp16 alone), which a row chooses by kernel = "varlen" once it was measured to be faster. A change
of a row changes numbers, so it raises `attend.REVISION`.
"""

from __future__ import annotations

from dataclasses import dataclass

CASES = ("full", "documents", "window", "pairwise")
UNMEASURED = "not yet measured"


@dataclass(frozen=True)
class Choice:
    """Who serves a case: the executor that a study records, the kernel behind it, why, and what was measured."""

    executor: str
    kernel: str
    because: str
    measured: str


TABLE: dict[tuple[str, str], Choice] = {
    ("cpu", "full"): Choice("lift", "flash", "the one fused kernel there is", "bench/results/attention_cpu_avx2.json"),
    ("cpu", "documents"): Choice(
        "lift", "flash", "a row of its own for each document", "bench/results/attention_cpu_avx2.json"
    ),
    ("cpu", "window"): Choice(
        "lift", "blocks", "blocks of queries over their own keys", "bench/results/attention_cpu_avx2.json"
    ),
    ("cpu", "pairwise"): Choice("lift", "rows", "blocks of rows, made again in backward", UNMEASURED),
    ("cuda", "full"): Choice("lift", "stock", "hand-written for this case; flex is generated", UNMEASURED),
    ("cuda", "documents"): Choice("lift", "flex", "one launch, where rows of their own need many", UNMEASURED),
    ("cuda", "window"): Choice(
        "lift", "flex", "skips blocks of keys; the stock operator knows no window, varlen is to be measured", UNMEASURED
    ),
    ("cuda", "pairwise"): Choice("lift", "rows", "the one that takes any bias and its gradients", UNMEASURED),
}


def choice(device: str, case: str) -> Choice:
    """Look up the row of a device (`cpu`, `cuda`) and a case (`CASES`). ValueError where the table has none."""
    row = TABLE.get((device, case))
    if row is None:
        known = sorted({name for name, _ in TABLE})
        raise ValueError(f"no attention executor runs on '{device}'; known: {', '.join(known)}")
    return row
