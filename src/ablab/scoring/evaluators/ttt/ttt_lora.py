"""Score-first LoRA: every document has adapters of its own; between phases the weights themselves learn."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from ablab.data import Corpus
from ablab.model.decoder import Decoder
from ablab.scoring.evaluators.evaluator import declared
from ablab.scoring.evaluators.ttt.lora import Adapters, not_adapted
from ablab.scoring.evaluators.ttt.side_by_side import SideBySide, groups
from ablab.scoring.evaluators.ttt.ttt_sgd import Descent, chunks, cosine, movable, split
from ablab.scoring.evaluators.ttt.watch import forfeit
from ablab.scoring.ledger import Ledger
from ablab.scoring.subset import input_lengths


def run(
    model: Decoder,
    corpus: Corpus,
    ledger: Ledger,
    *,
    seq_len: int,
    trained: int,
    precision: str,
    lr: float,
    chunk: int,
    rank: int,
    alpha: float | None,
    targets: Sequence[str],
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    reset: str,
    batch_documents: int,
    phases: int | None,
    prefix_documents: int | None,
    phase_lr: float,
    phase_chunk: int,
) -> dict[str, Any]:
    """Score every document into the ledger while its adapters learn; what to show. See `Ttt`.

    Sizes are those that `fit` let pass.
    """
    lengths = input_lengths(corpus)
    borders = _borders(phases, prefix_documents)
    own = copy.deepcopy(model).eval().requires_grad_(False)
    adamw: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    scale = (rank if alpha is None else alpha) / rank
    asked = max(1, min(batch_documents, len(lengths)))
    how: dict[str, Any] = {"targets": targets, "rank": rank, "scale": scale, "documents": asked}
    adapters = Adapters(own, **how, all_at_once=reset == "b", **adamw)
    side = SideBySide(own, model, adapters, corpus, ledger, seq_len, chunk, precision)
    phase_steps, fault, begin = 0, "", 0
    with declared(own, seq_len, trained), declared(model, seq_len, trained):
        for end in [*borders, len(lengths)]:
            for group in groups(lengths, begin, end, adapters.most, by_length=reset == "document"):
                adapters.begin(len(group), keep_a=reset == "b" and side.steps > 0)
                if fault := side.go(group, lengths):
                    break
            if not fault and end < len(lengths):
                fault, steps = _phase(own, corpus, lengths[:end], seq_len, phase_chunk, phase_lr, precision, ledger)
                phase_steps += steps
            begin = end
            if fault:
                forfeit(ledger, corpus, seq_len, fault)
                break
    left = not_adapted(own)
    return {
        "adapted": {"tensors": adapters.tensors, "numbers": adapters.size, "per": "document"},
        "side_by_side": adapters.most,
        "steps": side.steps,
        "chunk_nats": side.by_chunk(),
        **({"phases": {"documents": borders, "steps": phase_steps}} if borders else {}),
        **({"not_adapted": f"{left} matrices of experts"} if left else {}),
    }


def fit(seq_len: int, chunk: int) -> None:
    """ValueError where a chunk is longer than what is read at once."""
    if chunk > seq_len:
        raise ValueError(f"chunk = {chunk} is more than seq_len {seq_len}; give at most {seq_len}")


def fit_text(lengths: list[int], chunk: int, *, phases: int | None, prefix_documents: int | None, moves: bool) -> None:
    """ValueError where phases reach beyond the text, or nothing is adapted though it should be (moves)."""
    if prefix_documents is not None and prefix_documents > len(lengths):
        raise ValueError(
            f"prefix_documents = {prefix_documents} is more than the {len(lengths)} held-out documents; give at most that"
        )
    if moves and max(lengths, default=0) <= chunk:
        what = "nothing is adapted" if phases is None else "no adapter learns"
        cure = "give a smaller chunk" if chunk > 1 else "give longer held-out documents"
        raise ValueError(f"no document is longer than chunk = {chunk}, so {what}; {cure}")


def _borders(phases: int | None, prefix: int | None) -> list[int]:
    """After how many documents the weights themselves learn."""
    if phases is None or prefix is None:
        return []
    return [prefix * (i + 1) // phases for i in range(phases)]


def _phase(
    model: Decoder,
    corpus: Corpus,
    lengths: list[int],
    seq_len: int,
    chunk: int,
    lr: float,
    precision: str,
    ledger: Ledger,
) -> tuple[str, int]:
    """One epoch over the first documents, all of them scored, by the weights themselves; what is wrong, and the steps."""
    moving = movable(model, ())
    descent = Descent(model, moving, ledger, momentum=0.9, clip=1.0, precision=precision)
    every, fault = list(chunks(lengths, seq_len, seq_len, chunk)), ""
    for number, cuts in enumerate(every):
        # The last of several has rate 0.
        if fault or (number and number == len(every) - 1):
            break
        fault = descent.learn(split(corpus, cuts, seq_len, None, moving), lr * cosine(number, len(every)), 1)
    model.requires_grad_(False)
    for parameter in moving.values():
        parameter.grad = None
    return (f"in a phase over {len(lengths)} documents: {fault}" if fault else ""), descent.steps
