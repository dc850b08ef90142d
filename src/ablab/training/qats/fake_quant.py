"""Weights rounded in the forward pass, with straight-through gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from ablab.core.lever import Choice, Sizes, value_of
from ablab.model.parts.rounding import check_bits, check_sigmas, rounded
from ablab.training.qats.qat import Qat

Tensors = Literal["matrices", "embedding", "matrices_and_embedding"]
ROLES = {"matrices": ("matrix",), "embedding": ("embedding", "head")}
ROLES["matrices_and_embedding"] = ROLES["matrices"] + ROLES["embedding"]
LATEST = 0.9  # of a miniature, which takes few steps and must round in one at least


class FakeQuant(Qat):
    """From the fraction `start` of training on, forward and backward passes see weights rounded to `bits` bits per row.

    The rule is that of the compressors (`ablab.model.parts.rounding`): scale = sigmas * std(row) / (2^(bits-1) - 1), kept
    in fp16. Weights are rounded once for each optimizer step; the gradient with respect to the rounded weight is taken as
    that of the full one, clipped entries included (one that is clipped can come back), the scale as a constant. Full
    weights are what is updated, averaged, validated and saved. Raises ValueError for bits beyond 2 to 16, sigmas below 0.1
    other than 0, and a start outside 0 to below 1.

    bits (bits): of a weight
    sigmas (standard deviations): where a row is clipped; 0 takes its largest magnitude instead and clips nothing
    tensors: which are rounded, by role, each matrix of a stack by itself; `embedding` is the head too; vectors, norms and
        gates never are
    start (of training): the fraction from which on weights are rounded
    """

    source = "Bengio et al. 2013, arXiv 1308.3432 (straight-through); openai/parameter-golf #549, #1718"

    def __init__(
        self, *, bits: int = 6, sigmas: float = 12.85, tensors: Tensors = "matrices", start: float = 0.0
    ) -> None:
        check_bits(bits=bits)
        if sigmas < 0:
            raise ValueError(
                f"sigmas = {sigmas:g} is negative; give a clip above 0, or 0 for the row's largest magnitude"
            )
        check_sigmas(sigmas=sigmas)
        if not 0 <= start < 1:
            raise ValueError(f"start = {start:g} is no fraction of training; give 0 to below 1")
        self.bits, self.sigmas, self.tensors, self.start = bits, sigmas, tensors, start

    @staticmethod
    def miniature(choice: Choice, full: Sizes, small: Sizes) -> Choice:
        """Return settings that begin early enough for a few steps."""
        return {"start": min(value_of(choice, "start", float), LATEST)}

    def chosen(self, parameters: Mapping[str, Tensor], roles: Mapping[str, str]) -> list[str]:
        """List the names of the parameters that are rounded."""
        return [name for name, p in parameters.items() if p.dim() >= 2 and roles[name] in ROLES[self.tensors]]

    def acts(self, spent: float) -> bool:
        """Tell whether a step that begins after this fraction of training is rounded."""
        return spent >= self.start

    def round(self, weight: Tensor) -> Tensor:
        """Round a chosen weight (..., rows, columns) to what the forward pass sees."""
        return rounded(weight, self.bits, sigmas=self.sigmas)
