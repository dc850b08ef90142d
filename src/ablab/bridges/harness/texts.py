"""What the harness asks of a trained run: how likely texts are, and how they go on.

Every text begins a document: the tokenizer's start stands before it, as in training. Shapes are suffixes: B rows, T tokens,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from ablab.core.fault import CheckFailed, Fault
from ablab.model.decoder import FORWARD_TOKENS, inference
from ablab.model.generate import generate
from ablab.scoring.evaluators.evaluator import declared
from ablab.scoring.stage import trained_decoder

if TYPE_CHECKING:
    from ablab.runs.plan import Plan, Run

NEW = 256  # tokens, where a task does not say how many
KNOWN = ("until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p")


class AskedRow(NamedTuple):
    """Tokens of one forward row, and from which of its targets on they are asked for."""

    tokens: list[int]
    first: int


def opened(
    path: Path, arm: str, seed: int | None, runs: Path, scale: str | None = None, device: str = "cpu"
) -> tuple[Plan, Run]:
    """Return the plan of a study on its store, and the arm's trained run. A refusal where there is none."""
    from ablab import study as studies
    from ablab.runs import planning
    from ablab.runs.store import Store

    study = studies.load(path, scale)
    study.trained_here("a model of lm_eval")
    plan = planning.make(study, Store(runs), device=device, computes=False, say=_quiet)
    return plan, plan.trained(arm, seed, "let `ablab run` train it")


class RunOnTexts:
    """A trained run that answers about texts.

    length: the most tokens that a token is read behind, itself counted; None is the arm's seq_len. rows: of one
    forward pass at most; None is as many as usual.
    """

    def __init__(self, plan: Plan, run: Run, *, length: int | None = None, rows: int | None = None) -> None:
        self.corpus, self.trained = plan.corpus(run), run.settings["model"]["seq_len"]
        self.length, self.rows = self.trained if length is None else length, rows or FORWARD_TOKENS
        if self.length < 1:
            fault = f"{self.length} is no number of tokens"
            raise CheckFailed(Fault("max_length", fault, "give one from 1 on, or leave it out for the arm's seq_len"))
        weights = plan.store.train(run.train_key) / "weights.safetensors"
        self.decoder = trained_decoder(run.settings, weights, self.corpus, seed=run.seed, where=plan.where)
        self.precision = plan.where.precision
        for part in self.decoder.parts().values():
            part.within(self.length - 1)

    def continuations(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Return (log-probability in nats, whether greedy decoding gives it) of each (context, continuation).

        Blanks at a context's end count as the continuation's, as the harness has it.
        """
        asked = []
        for context, continuation in pairs:
            kept = context.rstrip()
            whole, before = self._encode(context + continuation), self._encode(kept) if kept else []
            asked.append(AskedRow([self.corpus.bos_id, *whole], len(before)))
        return self._together(asked)

    def whole(self, texts: Sequence[str]) -> list[float]:
        """Return the log-probability in nats of each text: every token once, behind as many before it as `length` lets."""
        return [
            total for total, _ in self._together([AskedRow([self.corpus.bos_id, *self._encode(t)], 0) for t in texts])
        ]

    def until(self, context: str, how: dict[str, object] | None = None) -> str:
        """Continue a text by the cache: to one of `until`, a document's end, or `max_gen_toks` tokens; greedily at rest."""
        asked = dict(how or {})
        if unknown := sorted(set(asked) - set(KNOWN)):
            fault = f"{', '.join(unknown)} is nothing that ablab's decoding knows"
            raise CheckFailed(Fault("generate_until", fault, f"use {', '.join(KNOWN)}"))
        stops, new = asked.get("until") or [], int(str(asked.get("max_gen_toks", NEW)))
        stops = [stops] if isinstance(stops, str) else [str(stop) for stop in stops]  # type: ignore[attr-defined]
        if new >= self.length:
            fault = f"max_gen_toks = {new} leaves no room for a text within {self.length} tokens"
            raise CheckFailed(Fault("generate_until", fault, "give a larger max_length in --model_args"))
        warmth = float(str(asked.get("temperature", 1.0))) if asked.get("do_sample") else 0.0
        top_k, top_p = (None if asked.get(key) is None else float(str(asked[key])) for key in ("top_k", "top_p"))
        tokens = [self.corpus.bos_id, *self._encode(context)][-(self.length - new) :]
        with inference(self.decoder, self.precision), declared(self.decoder, self.length, self.trained):
            made = generate(
                self.decoder, [tokens], new, temperature=warmth, top_k=None if top_k is None else int(top_k),
                top_p=top_p, stop=[self.corpus.bos_id],
            )  # fmt: skip
        row = made.tokens[0]
        text = self.corpus.tokenizer.decode(row[:-1] if row[-1] == self.corpus.bos_id else row)
        ends = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
        return text[: min(ends)] if ends else text

    def _encode(self, text: str) -> list[int]:
        """Return a text's tokens, without a document's start."""
        ids: list[int] = self.corpus.tokenizer.encode(text)[0].tolist() if text else []
        return ids

    def _together(self, asked: Sequence[AskedRow]) -> list[tuple[float, bool]]:
        """Do what `_scored` does with what is asked for cut into windows of `length`, each ending with what it asks for."""
        windows, owners = list[AskedRow](), list[int]()
        for owner, (tokens, begin) in enumerate(asked):
            for first in range(begin, len(tokens) - 1, self.length):
                end = min(first + self.length, len(tokens) - 1)
                over = max(0, end - self.length)
                windows.append(AskedRow(tokens[over : end + 1], first - over))
                owners.append(owner)
        sums, likeliest = [0.0] * len(asked), [True] * len(asked)
        for owner, (total, all_likeliest) in zip(owners, self._scored(windows), strict=True):
            sums[owner] += total
            likeliest[owner] &= all_likeliest
        return list(zip(sums, likeliest, strict=True))

    def _scored(self, asked: Sequence[AskedRow]) -> list[tuple[float, bool]]:
        """Return (sum of log-probabilities, whether all are the likeliest) of the targets asked for, in the order asked."""
        out = [(0.0, True)] * len(asked)
        with inference(self.decoder, self.precision) as device, declared(self.decoder, self.length, self.trained):
            for batch in self._batches(asked):
                longest = max(len(asked[i].tokens) for i in batch)
                tokens_BT = torch.zeros(len(batch), longest, dtype=torch.int64)
                ids_BT = torch.ones_like(tokens_BT)  # what stands behind a text is a document of its own
                for row, i in enumerate(batch):
                    tokens_BT[row, : len(asked[i].tokens)] = torch.tensor(asked[i].tokens)
                    ids_BT[row, : len(asked[i].tokens)] = 0
                hidden = self.decoder(tokens_BT[:, :-1].to(device), ids_BT[:, :-1].to(device))
                for row, i in enumerate(batch):
                    first, end = asked[i].first, len(asked[i].tokens) - 1
                    z_TV = self.decoder.logits(hidden[row, first:end])
                    targets_T = tokens_BT[row, first + 1 : end + 1].to(device)
                    nll_T = torch.nn.functional.cross_entropy(z_TV, targets_T, reduction="none")
                    out[i] = -float(nll_T.double().sum()), bool((z_TV.argmax(-1) == targets_T).all())
        return out

    def _batches(self, asked: Sequence[AskedRow]) -> Iterator[list[int]]:
        """Yield rows that go through the model together, the longest first."""
        left = sorted(range(len(asked)), key=lambda i: -len(asked[i].tokens))
        while left:
            count = max(1, min(self.rows, FORWARD_TOKENS // len(asked[left[0]].tokens)))
            yield left[:count]
            left = left[count:]


def _quiet(_: str) -> None:
    """Say nothing: the harness has the terminal."""
