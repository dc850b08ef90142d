"""Settings that compressors of few bits share: which rule a matrix gets, what is refused, and their miniature."""

from __future__ import annotations

from dataclasses import dataclass

from ablab.artifact.compressors.quantised import Rounding, kind
from ablab.core.lever import Choice, Sizes, value_of
from ablab.model.parts.rounding import Per, check_bits, check_sigmas


@dataclass(frozen=True)
class Bits:
    """Bits of a code, by family of matrices.

    default (bits): of every matrix whose family has none of its own, 2 to 16
    attn (bits): of the matrices of attention; default: as bits.default
    mlp (bits): of the matrices of MLPs and experts; default: as bits.default
    embedding (bits): of embedding and head; default: as bits.default
    """

    default: int
    attn: int | None = None
    mlp: int | None = None
    embedding: int | None = None


@dataclass(frozen=True)
class Sigmas:
    """Where a row is clipped, by family of matrices.

    default (standard deviations): of every matrix whose family has none of its own; 0 clips nothing
    attn (standard deviations): of the matrices of attention; default: as sigmas.default
    mlp (standard deviations): of the matrices of MLPs and experts; default: as sigmas.default
    embedding (standard deviations): of embedding and head; default: as sigmas.default
    """

    default: float
    attn: float | None = None
    mlp: float | None = None
    embedding: float | None = None


@dataclass(frozen=True)
class Lqer:
    """Low-rank factors of what rounding took. Raises ValueError for numbers out of range, and a rank that acts on nothing.

    tensors: how many get factors, those that lost most; all where there are fewer
    rank: of the factors; a matrix of smaller rank has its own, and the report says which
    """

    tensors: int = 0
    rank: int = 4

    def __post_init__(self) -> None:
        if self.tensors < 0:
            raise ValueError(f"lqer = {self.tensors} is negative; choose 0 or more")
        if self.rank < 1:
            raise ValueError(f"lqer.rank = {self.rank} holds nothing; choose 1 or more, or leave it out")
        if not self.tensors and self.rank != type(self).rank:
            fault = f"lqer.rank = {self.rank} acts on nothing without lqer.tensors"
            raise ValueError(f"{fault}; give lqer.tensors = 1 or more, or leave it out")


@dataclass(frozen=True)
class Rules:
    """The rule of each family of matrices, by settings: what a family leaves out is that of all matrices."""

    bits: Bits
    sigmas: Sigmas
    per: Per = "row"

    def of(self, name: str) -> Rounding:
        """Return the rule of the matrix `name`."""
        family = kind(name)
        bits, sigmas = vars(self.bits).get(family), vars(self.sigmas).get(family)
        return Rounding(
            self.bits.default if bits is None else bits, self.sigmas.default if sigmas is None else sigmas, self.per
        )

    def check(self, *, clipped: bool) -> None:
        """Refuse the first number of bits or clip that is none; clipped: a clip is needed."""
        check_bits(**{_name("bits", family): bits for family, bits in vars(self.bits).items()})
        every = {_name("sigmas", family): value for family, value in vars(self.sigmas).items()}
        for name, value in every.items():
            if value is not None and clipped and value <= 0:
                raise ValueError(f"{name} = {value} clips everything away; choose a positive number, 12.85 for 6 bits")
            if value is not None and value < 0:
                raise ValueError(f"{name} = {value} is negative; choose 0 (the largest magnitude) or more")
        check_sigmas(**every)


def _name(setting: str, family: str) -> str:
    return setting if family == "default" else f"{setting}.{family}"


def check_small(small: int) -> None:
    """Refuse a size, below which nothing is rounded, that is none."""
    if small < 0:
        raise ValueError(f"small = {small} is negative; choose 0 or more")


def smaller(choice: Choice, full: Sizes, small: Sizes) -> Choice:
    """Return `small` for a model of another width: matrices shrink with the square of d_model, and must stay above it."""
    return {"small": int(value_of(choice, "small", int) * (small["d_model"] / full["d_model"]) ** 2)}
