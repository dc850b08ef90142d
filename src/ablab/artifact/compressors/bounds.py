"""Settings that compressors of few bits share: which rule a matrix gets, what is refused, and their miniature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ablab.artifact.compressors.quantised import Rule, kind
from ablab.model.parts.rounding import Per, check_bits, check_sigmas


@dataclass(frozen=True)
class Rules:
    """The rule of each family of matrices, by settings: what a family leaves out is that of all matrices."""

    bits: int
    sigmas: float
    by_bits: Mapping[str, int | None]
    by_sigmas: Mapping[str, float | None]
    per: Per = "row"

    def of(self, name: str) -> Rule:
        """The rule of the matrix `name`."""
        family = kind(name)
        bits, sigmas = self.by_bits.get(family), self.by_sigmas.get(family)
        return Rule(self.bits if bits is None else bits, self.sigmas if sigmas is None else sigmas, self.per)

    def check(self, *, clipped: bool) -> None:
        """ValueError for the first number of bits or clip that is none; clipped: a clip is needed."""
        check_bits(bits=self.bits, **{f"{family}_bits": bits for family, bits in self.by_bits.items()})
        every = {"sigmas": self.sigmas, **{f"{family}_sigmas": value for family, value in self.by_sigmas.items()}}
        for name, value in every.items():
            if value is not None and clipped and value <= 0:
                raise ValueError(f"{name} = {value} clips everything away; choose a positive number, 12.85 for 6 bits")
            if value is not None and value < 0:
                raise ValueError(f"{name} = {value} is negative; choose 0 (the largest magnitude) or more")
        check_sigmas(**every)


RANK = 4  # of low-rank factors, where the study leaves it open


def check(*, small: int, lqer: int, lqer_rank: int | None) -> int:
    """The rank of low-rank factors. ValueError for the first of these settings that is out of range or acts on nothing."""
    for name, value in (("small", small), ("lqer", lqer)):
        if value < 0:
            raise ValueError(f"{name} = {value} is negative; choose 0 or more")
    if lqer_rank is None:
        return RANK
    if lqer_rank < 1:
        raise ValueError(f"lqer_rank = {lqer_rank} holds nothing; choose 1 or more, or leave it out")
    if not lqer:
        raise ValueError(
            f"lqer_rank = {lqer_rank} acts on nothing without lqer; give lqer = 1 or more, or leave it out"
        )
    return lqer_rank


def smaller(choice: Mapping[str, Any], full: Mapping[str, Any], small: Mapping[str, Any]) -> dict[str, Any]:
    """`small` for a model of another width: matrices shrink with the square of d_model, and must stay above it."""
    return {"small": int(choice["small"] * (small["d_model"] / full["d_model"]) ** 2)}
