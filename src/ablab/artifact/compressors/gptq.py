"""GPTQ: matrices in few bits, each column's rounding error made good by the columns that follow it."""

from __future__ import annotations

from collections.abc import Mapping

from ablab.artifact.arrays import Array, Packed
from ablab.artifact.compressors import against, bounds, corrections, hadamard, quantised
from ablab.artifact.compressors.bounds import Bits, Lqer, Rules, Sigmas
from ablab.artifact.compressors.calibration import Calibration
from ablab.artifact.compressors.compressor import Compressor
from ablab.artifact.compressors.passthrough import Policy
from ablab.artifact.compressors.quantised import Weights
from ablab.artifact.compressors.solve import How
from ablab.core.lever import Choice, Sizes, value_of

MINIATURE_TOKENS = 512


class Gptq(Compressor):
    """Rounds the matrices of more than `small` numbers against the Hessian of their inputs on `tokens` of training text.

    Row scale: sigmas standard deviations over the largest code, fp16 (SDClip). A tied embedding counts as the head, so its
    inputs are the hidden states behind the final norm. Each expert of a stack has the Hessian of its own rows. A column that
    calibration never met becomes 0. Matrices without inputs (tables, an untied embedding, an expert that no row chose) are
    rounded to nearest by row maximum, without a clip, under a scheme of that name; predicted_bytes counts them by the
    measured entropy of their codes. Low-rank factors lower |W - Q| and may raise tr(E H E^T), which rounding had lowered: the
    report shows both. The notes of the report name every matrix with dead columns, fewer inputs than columns, or more
    damping. The same bits each time on one machine with the same threads; elsewhere sums in the Hessians end in other
    digits, which moves a few codes.
    Unlike #1394: the standard deviation is the population's (correction 0; the sample's there), and the mean diagonal that
    damp is a share of is taken over living columns (over all there, where dead ones count as 1).
    Raises ValueError for numbers out of range, weights that are not finite, and without calibration.

    bits: of the codes, as a number for all but the embedding, or by family
    sigmas: the clip, as a number for all but the embedding, or by family
    solver: how a matrix is rounded against its Hessian
    tokens (tokens): of training text that calibrate, in whole rows; all of it where there are fewer
    passthrough: what is not rounded: "fp16", or "int8" for parameter-golf's Path A v3
    small (numbers): of the largest matrix that is not rounded
    lqer: how many tensors get low-rank factors, or a table with their rank
    hadamard: inputs are rotated wherever tr(E H E^T) falls
    """

    source = "Frantar et al. 2022 (GPTQ), arXiv 2210.17323; openai/parameter-golf #1394, #1948"
    calibrates = True
    revision = 2  # 2: bits, sigmas, solver and lqer are tables

    def __init__(
        self,
        *,
        bits: Bits = Bits(6, embedding=8),
        sigmas: Sigmas = Sigmas(12.85, embedding=20.0),
        solver: How = How(),
        tokens: int = 131_072,
        passthrough: Policy = "fp16",
        small: int = 65_536,
        lqer: Lqer = Lqer(),
        hadamard: bool = False,
    ) -> None:
        self.rules = Rules(bits, sigmas)
        self.rules.check(clipped=True)
        bounds.check_small(small)
        if tokens < 1:
            raise ValueError(f"tokens = {tokens} calibrate nothing; choose 1 or more, at least as many as columns")
        self.how, self.tokens = solver, tokens
        self.passthrough, self.small, self.lqer, self.hadamard = passthrough, small, lqer, hadamard

    @staticmethod
    def miniature(choice: Choice, full: Sizes, small: Sizes) -> Choice:
        """Return the settings for a smaller model: the same tensors are rounded, on a few hundred tokens."""
        return {**bounds.smaller(choice, full, small), "tokens": min(value_of(choice, "tokens", int), MINIATURE_TOKENS)}

    def quantise(self, weights: Weights, calibration: Calibration | None = None) -> Packed:
        """Return the parts, what restoring needs, and the report."""
        if calibration is None:
            raise ValueError("gptq rounds against inputs and has no calibration; pack within a study, or use rtn")
        quantised.refuse_nonfinite(weights)
        names = quantised.matrices(weights, self.small)
        hessians = calibration.hessians(self.tokens) if names else {}
        notes = against.notes(weights, names, hessians, calibration.rows)
        if names and calibration.read < self.tokens:
            notes.append(f"calibration read {calibration.read} tokens of {self.tokens}: the training text has no more")
        coded, raised = against.rounded(weights, names, hessians, self.rules, self.how, turn=False)
        rows = []
        if self.hadamard:
            fit = [name for name in names if hadamard.fits(weights[name].shape[-1])]
            turned, others = against.rounded(weights, fit, hessians, self.rules, self.how, turn=True)
            for name in fit:
                parts = (coded[name], turned[name], hessians.get(name))
                coded[name], row = corrections.turned(name, weights[name].detach(), *parts)
                rows.append(row)
                raised[name] = (others if row["kept"] else raised).get(name, {})
            odd = [f"{name} ({weights[name].shape[-1]})" for name in names if name not in fit]
            notes += corrections.unturned(odd)
        coded, factors = corrections.factored(coded, weights, self.lqer, hessians)
        notes += against.damped(raised, weights)
        return quantised.pack(weights, coded, self.passthrough, notes, hadamard=rows, lqer=factors)

    @staticmethod
    def restore(parts: list[Array], meta: Mapping[str, object]) -> Weights:
        """Restore the weights: names, shapes and types as they were."""
        return quantised.restore(parts, meta)
