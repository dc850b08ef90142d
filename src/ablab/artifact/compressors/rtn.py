"""Round to nearest: matrices in few bits, everything else as the passthrough policy says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ablab.artifact.arrays import Packed, Part
from ablab.artifact.compressors import bounds, corrections, hadamard, quantised
from ablab.artifact.compressors.bounds import Rules
from ablab.artifact.compressors.passthrough import Policy
from ablab.artifact.compressors.quantised import Weights
from ablab.model.parts.rounding import Per


class Rtn:
    """Every matrix of more than `small` numbers in `bits`, each code the nearest; fp16 scale per row or per tensor.

    sigmas: the clip in standard deviations; 0: the largest magnitude is the largest code. attn, mlp and embedding (with the
    head) may have their own bits and sigmas. A stack of experts is rounded matrix by matrix. Everything else: see
    passthrough.py ("fp16", or "int8" for parameter-golf's Path A v3); routers and whole numbers are exact. `hadamard`:
    inputs rotated wherever the mean square error falls. `lqer`: how many tensors get low-rank factors (all, where there are
    fewer), of rank `lqer_rank` (4; a matrix of smaller rank its own, and the report says which).
    Calibration is not used. Raises ValueError for numbers out of range, and for weights that are not finite.
    """

    source = "the plain form; scales as in openai/parameter-golf #1394"
    revision = 1

    def __init__(
        self,
        *,
        bits: int = 8,
        per: Per = "row",
        sigmas: float = 0.0,
        attn_bits: int | None = None,
        mlp_bits: int | None = None,
        embedding_bits: int | None = None,
        attn_sigmas: float | None = None,
        mlp_sigmas: float | None = None,
        embedding_sigmas: float | None = None,
        passthrough: Policy = "fp16",
        small: int = 65_536,
        lqer: int = 0,
        lqer_rank: int | None = None,
        hadamard: bool = False,
    ) -> None:
        by_bits = {"attn": attn_bits, "mlp": mlp_bits, "embedding": embedding_bits}
        by_sigmas = {"attn": attn_sigmas, "mlp": mlp_sigmas, "embedding": embedding_sigmas}
        self.rules = Rules(bits, sigmas, by_bits, by_sigmas, per)
        self.rules.check(clipped=False)
        self.lqer_rank = bounds.check(small=small, lqer=lqer, lqer_rank=lqer_rank)
        self.passthrough, self.small, self.lqer, self.hadamard = passthrough, small, lqer, hadamard

    @staticmethod
    def miniature(choice: Mapping[str, Any], full: Mapping[str, Any], small: Mapping[str, Any]) -> dict[str, Any]:
        """The settings for a smaller model: the same tensors are rounded."""
        return bounds.smaller(choice, full, small)

    def quantise(self, weights: Weights, calibration: Any = None) -> Packed:
        """The parts, what restoring needs, and the report."""
        quantised.refuse_nonfinite(weights)
        coded, rows, odd = {}, [], []
        for name in quantised.matrices(weights, self.small):
            w, rule = weights[name].detach().cpu(), self.rules.of(name)
            scheme = f"rtn int{rule.bits}" + ("" if rule.per == "row" else " per tensor")
            coded[name] = quantised.nearest(name, w, rule, scheme)
            if self.hadamard and hadamard.fits(w.shape[-1]):
                signs = hadamard.signs(name, w.shape[-1])
                rotated = quantised.nearest(name, w, rule, scheme, signs)
                coded[name], row = corrections.turned(name, w, coded[name], rotated, None)
                rows.append(row)
            elif self.hadamard:
                odd.append(f"{name} ({w.shape[-1]})")
        coded, factors = corrections.factored(coded, weights, self.lqer, self.lqer_rank)
        notes = corrections.unturned(odd)
        return quantised.pack(weights, coded, self.passthrough, notes, hadamard=rows, lqer=factors)

    @staticmethod
    def restore(parts: list[Part], meta: Mapping[str, Any]) -> Weights:
        """The weights that are left: names, shapes and types as they were."""
        return quantised.restore(parts, meta)
