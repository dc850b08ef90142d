"""Rounding many tensors against their Hessians: matrices of one size together, and what has to be said of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ablab.artifact.compressors import hadamard, quantised
from ablab.artifact.compressors.bounds import Rules
from ablab.artifact.compressors.quantised import Coded, Rounding, Weights
from ablab.artifact.compressors.solve import How, dead_columns, solve

AT_ONCE = 2**25  # numbers of Hessians that are solved together: 256 MiB in fp64
Place = tuple[str, int]  # a tensor, and the number of a matrix in it
Raised = dict[str, dict[int, float]]  # the damping of those matrices that needed more than was asked


def each(tensor: Tensor) -> Tensor:
    """View a tensor as its matrices, (n, R, C); a matrix is one."""
    return tensor.reshape(-1, *tensor.shape[-2:])


def rounded(
    weights: Weights,
    names: list[str],
    hessians: Mapping[str, Tensor],
    rules: Rules,
    how: How,
    turn: bool,
) -> tuple[dict[str, Coded], Raised]:
    """Round every tensor of `names` in codes, with its inputs rotated where `turn`.

    A matrix without inputs is rounded to nearest by row maximum: a clip of 12.85 standard deviations is coarse where no later
    column makes good what it takes (five times the error of the maximum at 6 bits).
    """
    coded: dict[str, Coded] = {}
    raised: Raised = {}
    jobs: dict[tuple[int, int, int], list[Place]] = {}
    for name in names:
        w, h, rule = weights[name].detach(), hessians.get(name), rules.of(name)
        w = w if h is None else _alive(w.to(h.device), h) if turn else w.to(h.device)
        signs = hadamard.signs(name, w.shape[-1]) if turn else None
        bare = [i for i in range(len(each(w))) if h is None or bool(dead_columns(each(h)[i]).all())]
        coded[name] = _nearest(name, w, rule, bare, signs)
        if living := [(name, i) for i in range(len(each(w))) if i not in bare]:
            jobs.setdefault((w.shape[-2], w.shape[-1], rule.bits), []).extend(living)
    for (_, columns, bits), places in jobs.items():
        step = max(1, AT_ONCE // columns**2)
        for at in range(0, len(places), step):
            some = places[at : at + step]
            ws, hs, scales = zip(*(_problem(place, weights, hessians, coded) for place in some))
            solved = solve(torch.stack(ws), torch.stack(hs), torch.stack(scales), bits, how)
            for (name, i), codes_RC, needed in zip(some, solved.codes_nRC, solved.damps):
                each(coded[name].codes)[i] = codes_RC
                if needed > how.damp:
                    raised.setdefault(name, {})[i] = needed
    return coded, raised


def _nearest(name: str, w: Tensor, rule: Rounding, bare: list[int], signs: Tensor | None) -> Coded:
    """Return scales under the rule, codes for later; the matrices `bare` whole, by row maximum."""
    scheme, count = f"rtn int{rule.bits} row maximum: no inputs", len(each(w))
    whole = quantised.nearest(name, w, replace(rule, sigmas=0.0), scheme, signs) if bare else None
    if whole is not None and len(bare) == count:
        return replace(whole, bare=tuple(bare))
    made = quantised.nearest(name, w, rule, f"gptq int{rule.bits}", signs)
    if whole is None:
        return made
    for i in bare:
        each(made.codes)[i], each(made.scale)[i] = each(whole.codes)[i], each(whole.scale)[i]
    schemes = (scheme if i in bare else made.schemes[i] for i in range(count))
    return replace(made, schemes=tuple(schemes), bare=tuple(bare))


def _problem(
    place: Place, weights: Weights, hessians: Mapping[str, Tensor], coded: Mapping[str, Coded]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights, Hessian and scale of one matrix, rotated where its codes will be."""
    name, i = place
    h, scale, signs = each(hessians[name])[i], each(coded[name].scale)[i], coded[name].signs
    w = each(weights[name].detach())[i].to(h.device)
    if signs is not None:
        signs = signs.to(h.device)
        w, h = hadamard.rotated(_alive(w, h), signs), hadamard.of_inputs(h, signs)
    return w, h, scale


def _alive(w: Tensor, h: Tensor) -> Tensor:
    """Return w with 0 where the input was never anything but 0: a rotation would mix such weights in."""
    return w.masked_fill(dead_columns(h)[..., None, :], 0)


def notes(
    weights: Weights, names: list[str], hessians: Mapping[str, Tensor], rows: Mapping[str, list[int]]
) -> list[str]:
    """List what must be said of the inputs. ValueError where a Hessian does not fit its matrix."""
    without, unreached, dead, few = list[str](), list[str](), list[str](), list[str]()
    for name in names:
        h, w = hessians.get(name), weights[name]
        if h is None:
            without.append(name)
            continue
        if h.shape != (*w.shape[:-2], w.shape[-1], w.shape[-1]):
            fault = f"{name} has shape {tuple(w.shape)} and inputs of {tuple(h.shape)}"
            raise ValueError(f"{fault}; calibrate with the model that the weights are of")
        had = rows[name]
        for i, gone_C in enumerate(dead_columns(each(h))):
            called, columns, count = _called(name, i, w), w.shape[-1], int(gone_C.sum())
            if count == columns:
                unreached.append(called)
                continue
            dead += [f"{called} ({count} of {columns})"] if count else []
            few += [f"{called} ({had[i]} of {columns})"] if had[i] < columns else []
    texts = {
        "no inputs are known of": (without, "; rounded to nearest by row maximum"),
        "nothing but 0 reached": (unreached, "; rounded to nearest by row maximum"),
        "columns whose input was always 0 became 0 in": (dead, ""),
        "fewer calibration rows than columns, so only damping decides between some": (few, ""),
    }
    return [f"{text}: {', '.join(some)}{end}" for text, (some, end) in texts.items() if some]


def damped(raised: Raised, weights: Weights) -> list[str]:
    """Return the note on matrices whose damping was raised."""
    every = [f"{_called(n, i, weights[n])} ({d:g})" for n in sorted(raised) for i, d in sorted(raised[n].items())]
    return [f"damping raised until a factor existed: {', '.join(every)}"] if every else []


def _called(name: str, i: int, w: Tensor) -> str:
    return name if w.dim() == 2 else f"{name}[{i}]"
