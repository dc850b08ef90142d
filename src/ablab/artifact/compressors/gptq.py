"""GPTQ: matrices in few bits, each column's rounding error made good by the columns that follow it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ablab.artifact.arrays import Packed, Part
from ablab.artifact.compressors import against, bounds, corrections, hadamard, quantised
from ablab.artifact.compressors.bounds import Rules
from ablab.artifact.compressors.calibration import Calibration
from ablab.artifact.compressors.passthrough import Policy
from ablab.artifact.compressors.quantised import Weights
from ablab.artifact.compressors.solve import How

MINIATURE_TOKENS = 512


class Gptq:
    """Rounds the matrices of more than `small` numbers against the Hessian of their inputs on `tokens` of training text.

    Row scale: sigmas standard deviations over the largest code, fp16 (SDClip). attn, mlp and embedding (with the head) may
    have bits and sigmas of their own; the embedding has int8 and 20 unless told. A tied embedding counts as the head, so its
    inputs are the hidden states behind the final norm. Each expert of a stack has the Hessian of its own rows. `damp`: of the
    mean diagonal, added to the diagonal, and raised tenfold (said) until a factor exists. `act_order`: columns by falling
    diagonal. `block`: columns per matrix product; speed only. A column that calibration never met becomes 0. Matrices
    without inputs (tables, an untied embedding, an expert that no row chose) are rounded to nearest by row maximum, without
    a clip, under a scheme of that name; predicted_bytes counts them by the measured entropy of their codes. passthrough,
    small: as in rtn. `lqer` and `lqer_rank` too; they lower |W - Q| and may raise tr(E H E^T), which rounding had lowered:
    the report shows both. `hadamard` keeps a rotation where tr(E H E^T) falls. The notes of the report name every matrix
    with dead columns, fewer inputs than columns, or more damping. The same bits each time on one machine with the same
    threads; elsewhere sums in the Hessians end in other digits, which moves a few codes.
    Unlike #1394: the standard deviation is the population's (correction 0; the sample's there), and the mean diagonal that
    damp is a share of is taken over living columns (over all there, where dead ones count as 1).
    Raises ValueError for numbers out of range, weights that are not finite, and without calibration.
    """

    source = "Frantar et al. 2022 (GPTQ), arXiv 2210.17323; openai/parameter-golf #1394, #1948"
    revision = 1

    def __init__(
        self,
        *,
        bits: int = 6,
        sigmas: float = 12.85,
        attn_bits: int | None = None,
        mlp_bits: int | None = None,
        embedding_bits: int | None = 8,
        attn_sigmas: float | None = None,
        mlp_sigmas: float | None = None,
        embedding_sigmas: float | None = 20.0,
        damp: float = 0.01,
        act_order: bool = True,
        block: int = 128,
        tokens: int = 131_072,
        passthrough: Policy = "fp16",
        small: int = 65_536,
        lqer: int = 0,
        lqer_rank: int | None = None,
        hadamard: bool = False,
    ) -> None:
        by_bits = {"attn": attn_bits, "mlp": mlp_bits, "embedding": embedding_bits}
        by_sigmas = {"attn": attn_sigmas, "mlp": mlp_sigmas, "embedding": embedding_sigmas}
        self.rules = Rules(bits, sigmas, by_bits, by_sigmas)
        self.rules.check(clipped=True)
        self.lqer_rank = bounds.check(small=small, lqer=lqer, lqer_rank=lqer_rank)
        if damp <= 0:
            raise ValueError(
                f"damp = {damp} leaves a singular Hessian as it is; choose a positive number, 0.01 as usual"
            )
        if block < 1:
            raise ValueError(f"block = {block} holds no column; choose 1 or more, 128 as usual")
        if tokens < 1:
            raise ValueError(f"tokens = {tokens} calibrate nothing; choose 1 or more, at least as many as columns")
        self.how, self.tokens = How(damp, act_order, block), tokens
        self.passthrough, self.small, self.lqer, self.hadamard = passthrough, small, lqer, hadamard

    @staticmethod
    def miniature(choice: Mapping[str, Any], full: Mapping[str, Any], small: Mapping[str, Any]) -> dict[str, Any]:
        """The settings for a smaller model: the same tensors are rounded, on a few hundred tokens."""
        return {**bounds.smaller(choice, full, small), "tokens": min(choice["tokens"], MINIATURE_TOKENS)}

    def quantise(self, weights: Weights, calibration: Calibration | None = None) -> Packed:
        """The parts, what restoring needs, and the report."""
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
        coded, factors = corrections.factored(coded, weights, self.lqer, self.lqer_rank, hessians)
        notes += against.damped(raised, weights)
        return quantised.pack(weights, coded, self.passthrough, notes, hadamard=rows, lqer=factors)

    @staticmethod
    def restore(parts: list[Part], meta: Mapping[str, Any]) -> Weights:
        """The weights that are left: names, shapes and types as they were."""
        return quantised.restore(parts, meta)
