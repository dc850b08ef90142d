"""What is done to rounded matrices where it lowers their error: rotation of the inputs, low-rank factors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from ablab.artifact.compressors import hadamard, lqer
from ablab.artifact.compressors.bounds import Lqer
from ablab.artifact.compressors.lqer import Factors
from ablab.artifact.compressors.quantised import Coded
from ablab.records.result import Corrected, Rotated


def error(w: Tensor, one: Coded, hessian: Tensor | None) -> float:
    """Measure what is lost of a tensor: the mean square, or tr(E H E^T) with its inputs' Hessian, summed over its matrices."""
    off = w.double().to(one.codes.device) - one.value()
    if hessian is None:
        return float(off.square().mean())
    return float(((off @ hessian.double().to(off.device)) * off).sum())


def turned(name: str, w: Tensor, plain: Coded, rotated: Coded, hessian: Tensor | None) -> tuple[Coded, Rotated]:
    """Return the better of the two by `error`, and the row of the report that says why."""
    assert rotated.signs is not None
    before, after = error(w, plain, hessian), error(w, rotated, hessian)
    spun, rule = hadamard.rotated(w.cpu(), rotated.signs.cpu()), plain.rule
    row: Rotated = {
        "name": name,
        "kurtosis_before": hadamard.kurtosis(w),
        "kurtosis_after": hadamard.kurtosis(spun),
        "mse_before": {**hadamard.errors(w, rule.sigmas, rule.per)},
        "mse_after": {**hadamard.errors(spun, rule.sigmas, rule.per)},
        "error_before": before,
        "error_after": after,
        "kept": after < before,
    }
    return (rotated if after < before else plain), row


def factored(
    coded: Mapping[str, Coded],
    weights: Mapping[str, Tensor],
    asked: Lqer,
    hessians: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, Coded], list[Corrected]]:
    """Factor the asked number of tensors of largest |W - Q|_F; returns all codes, a row of the report each, largest first.

    They are kept whatever they do: two bits may take more than they give, and then the row says so.
    """

    def missed(name: str) -> Tensor:
        return weights[name].double().cpu() - coded[name].value().cpu()

    sizes = {name: float(missed(name).norm()) for name in coded} if asked.tensors else {}
    every, rows = dict(coded), []
    for name in sorted(sizes, key=lambda name: (-sizes[name], name))[: asked.tensors]:
        old, off = coded[name], missed(name)
        factors = Factors(*(part.to(old.codes.device) for part in lqer.factors(off, asked.rank)))
        every[name] = new = replace(old, factors=factors)
        after = float((weights[name].double().cpu() - new.value().cpu()).norm())
        row: Corrected = {"name": name, "rank": factors.a.shape[-1], "error_before": sizes[name], "error_after": after}
        if hessians and name in hessians:
            row["layer_before"] = error(weights[name], old, hessians[name])
            row["layer_after"] = error(weights[name], new, hessians[name])
        rows.append(row)
    return every, rows


def unturned(names: list[str]) -> list[str]:
    """Return the note on matrices that have no rotation."""
    if not names:
        return []
    return [f"hadamard: inputs that are no power of two stay as they are: {', '.join(names)}"]
