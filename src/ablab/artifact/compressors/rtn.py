"""Round to nearest: matrices in few bits, everything else as the passthrough policy says."""

from __future__ import annotations

from collections.abc import Mapping

from ablab.artifact.arrays import Array, Packed
from ablab.artifact.compressors import bounds, corrections, hadamard, quantised
from ablab.artifact.compressors.bounds import Bits, Lqer, Rules, Sigmas
from ablab.artifact.compressors.compressor import Compressor
from ablab.artifact.compressors.passthrough import Policy
from ablab.artifact.compressors.quantised import Weights
from ablab.core.lever import Choice, Sizes
from ablab.model.parts.rounding import Per


class Rtn(Compressor):
    """Rounds every matrix of more than `small` numbers to `bits`, each code the nearest; fp16 scale per row or per tensor.

    A stack of experts is rounded matrix by matrix. Everything else: see passthrough.py; routers and whole numbers are exact.
    Calibration is not used. Raises ValueError for numbers out of range, and for weights that are not finite.

    bits: of the codes, as a number for all or by family
    per: what has a scale of its own
    sigmas: the clip, as a number for all or by family; 0: the largest magnitude is the largest code
    passthrough: what is not rounded: "fp16", or "int8" for parameter-golf's Path A v3
    small (numbers): of the largest matrix that is not rounded
    lqer: how many tensors get low-rank factors, or a table with their rank
    hadamard: inputs are rotated wherever the mean square error falls
    """

    source = "the plain form; scales as in openai/parameter-golf #1394"
    revision = 2  # 2: bits, sigmas and lqer are tables

    def __init__(
        self,
        *,
        bits: Bits = Bits(8),
        per: Per = "row",
        sigmas: Sigmas = Sigmas(0.0),
        passthrough: Policy = "fp16",
        small: int = 65_536,
        lqer: Lqer = Lqer(),
        hadamard: bool = False,
    ) -> None:
        self.rules = Rules(bits, sigmas, per)
        self.rules.check(clipped=False)
        bounds.check_small(small)
        self.passthrough, self.small, self.lqer, self.hadamard = passthrough, small, lqer, hadamard

    @staticmethod
    def miniature(choice: Choice, full: Sizes, small: Sizes) -> Choice:
        """Return the settings for a smaller model: the same tensors are rounded."""
        return bounds.smaller(choice, full, small)

    def quantise(self, weights: Weights, calibration: object = None) -> Packed:
        """Return the parts, what restoring needs, and the report."""
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
        coded, factors = corrections.factored(coded, weights, self.lqer)
        notes = corrections.unturned(odd)
        return quantised.pack(weights, coded, self.passthrough, notes, hadamard=rows, lqer=factors)

    @staticmethod
    def restore(parts: list[Array], meta: Mapping[str, object]) -> Weights:
        """Restore the weights: names, shapes and types as they were."""
        return quantised.restore(parts, meta)
