"""Score-first LoRA: every document has adapters of its own; between phases the weights themselves learn."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from ablab.core.lever import Choice, value_of, value_or_none
from ablab.data import Corpus
from ablab.model.decoder import Decoder
from ablab.records.settings import Settings
from ablab.runtime.machine import dtype_of
from ablab.scoring.evaluators.evaluator import Evaluator, declared, input_lengths, made, sizes, within
from ablab.scoring.evaluators.ttt import descent, lora
from ablab.scoring.evaluators.ttt.descent import Descent, chunks, cosine, movable, split
from ablab.scoring.evaluators.ttt.lora import TARGETS, Adapters, Pairs, not_adapted
from ablab.scoring.evaluators.ttt.side_by_side import SideBySide, groups
from ablab.scoring.evaluators.ttt.watch import forfeit
from ablab.scoring.ledger import Ledger
from ablab.training.roles import decays, not_negative

CHUNK, RANK = 48, 96  # tokens, and the rank of ablab's own adapters: parameter-golf's
SHORT = 32  # tokens: seq_len of a miniature at least


@dataclass(frozen=True)
class Adapted:
    """What is adapted, and how: x A B alpha / rank is added to each matrix. Raises ValueError for settings out of range.

    rank: of a pair A, B; default: 96
    alpha: the pair's scale, times the rank; default: as adapters.rank
    targets: attn (projections and output), mlp, head; stacked experts, routers and gates are not adapted
    """

    rank: int | None = None
    alpha: float | None = None
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self) -> None:
        sizes(**{"adapters.rank": self.rank})
        if self.alpha is not None and self.alpha <= 0:
            raise ValueError(f"adapters.alpha = {self.alpha} is not positive; give a number above 0")
        odd = [target for target in self.targets if target not in TARGETS]
        if odd or not self.targets or len(set(self.targets)) < len(self.targets):
            what = f"'{odd[0]}' is no target" if odd else "each target stands once, and there is one at least"
            raise ValueError(f"adapters.targets: {what}; choose among {', '.join(TARGETS)}")


@dataclass(frozen=True)
class AdamW:
    """AdamW on the adapters: one step after each chunk but the last. Raises ValueError for settings outside their range.

    lr: learning rate
    betas: decays of the running means of the gradient and of its square
    eps: added to the root of the second
    weight_decay: decoupled decay; without a scored token a chunk only decays the adapters
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.0, 0.999)
    eps: float = 1e-10
    weight_decay: float = 0.5

    def __post_init__(self) -> None:
        not_negative(**{"optimizer.lr": self.lr, "optimizer.weight_decay": self.weight_decay})
        decays(**{"optimizer.betas": self.betas})
        if self.eps <= 0:
            raise ValueError(f"optimizer.eps = {self.eps} is not positive; give a number above 0")


@dataclass(frozen=True)
class Phases:
    """When the weights themselves learn: one epoch of SGD (cosine, momentum 0.9, clip 1, 32,768 tokens a step) over all
    that is scored, for the documents after it; #1610, there longest first. Raises ValueError for settings out of range.

    count: phases, at as many even steps through the first documents; 0 is none
    prefix_documents: the documents that they go over; needed where there are phases; default: no documents
    lr: peak learning rate of a phase
    """

    count: int = 0
    prefix_documents: int | None = None
    lr: float = 0.001

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"phases.count = {self.count} is no number of phases; give 0 or more")
        not_negative(**{"phases.lr": self.lr})
        sizes(**{"phases.prefix_documents": self.prefix_documents})
        if self.count and self.prefix_documents is None:
            fault = f"phases.count = {self.count} go over no documents"
            raise ValueError(f"{fault}; give phases.prefix_documents = {self.count} or more")
        idle = [name for name in ("prefix_documents", "lr") if getattr(self, name) != getattr(type(self), name)]
        if not self.count and idle:
            fault = f"phases.{idle[0]} = {getattr(self, idle[0])} acts on nothing without phases"
            raise ValueError(f"{fault}; add phases.count = 1, or remove it")
        if (self.prefix_documents or self.count) < self.count:
            fault = (
                f"phases.prefix_documents = {self.prefix_documents} leaves a phase of {self.count} without a document"
            )
            raise ValueError(f"{fault}; give at least {self.count}")

    @property
    def borders(self) -> list[int]:
        """After how many documents the weights themselves learn."""
        return [(self.prefix_documents or 0) * (i + 1) // self.count for i in range(self.count)]


class TttLora(Evaluator):
    """Trains low-rank adapters on each document, chunk by chunk after the scores; no other document moves them.

    Every matrix in `targets` has a pair of its own each time that a loop meets it; A (d_in, rank) starts uniform within
    1/sqrt(d_in), B at zero: one draw for every run, arm and document, so that nothing depends on the seed. A chunk is scored
    at the end of up to seq_len tokens of its document; then its mean moves the document's adapters. Balancing losses of
    mixtures are off, routers' biases stay. Divergence (see Watch) ends the scores: NaN from there on, every token still
    accounted for. extra: {"adapted": {"tensors", "numbers"}, "side_by_side", "steps", "chunk_nats", ...}. ValueError for
    settings that do not fit each other or the text.

    chunk (tokens): scored, then learned from; at most seq_len; default: 48
    adapters: which matrices, and the rank; a number is the rank
    optimizer: AdamW; a number is its lr
    phases: when the weights themselves learn
    reset: document starts each from the same draw; b lets A go on from the document that was at the same place side by side
        before, as in #1767; scores then depend on batch_documents, and more than memory holds is refused
    batch_documents: that go side by side
    seq_len (tokens): of a window, declared to the position schemes; default: the trained one
    documents: of the held-out text, the same for all arms; default: all
    """

    source = "openai/parameter-golf #1530, #1610 (phases), #1767"
    revision: ClassVar[int] = 3  # 3: a lever of its own

    def __init__(
        self,
        *,
        chunk: int | None = None,
        adapters: Adapted = Adapted(),
        optimizer: AdamW = AdamW(),
        phases: Phases = Phases(),
        reset: Literal["document", "b"] = "document",
        batch_documents: int = 64,
        seq_len: int | None = None,
        documents: int | None = None,
    ) -> None:
        super().__init__(documents=documents, seq_len=seq_len)
        sizes(chunk=chunk, batch_documents=batch_documents)
        self.chunk, self.adapters, self.optimizer, self.phases = chunk, adapters, optimizer, phases
        self.reset, self.batch_documents = reset, batch_documents
        self.rehearsed = False  # on little text: adapting nothing there says nothing of the whole

    @staticmethod
    def miniature(choice: Choice, long: float) -> Choice:
        """Return the settings for lengths that are `long` times these; few, short steps."""
        small = Evaluator.miniature(choice, long)
        own = value_or_none(small, "seq_len", int) or SHORT
        adapters, phases = (value_of(choice, part, dict[str, object]) for part in ("adapters", "phases"))
        rank, chunk = value_or_none(adapters, "rank", int), value_or_none(choice, "chunk", int)
        small["chunk"] = min(own, CHUNK // 4)
        if chunk is not None:
            small["chunk"] = min(own, SHORT, max(8, chunk // 4))
        # Matrices of a miniature have as few as 8 rows; ablab's own rank is for any model, so 1 fits them all.
        small["adapters"] = {**adapters, "rank": max(1, min(8, rank, round(rank * long))) if rank else 1}
        documents = value_or_none(choice, "documents", int)
        if choice["reset"] == "b" and (documents is None or documents > value_of(choice, "batch_documents", int)):
            small["batch_documents"] = 1  # a miniature's few documents would all go side by side, and A go on to none
        if phases["count"]:
            small["phases"] = {**phases, "count": 1, "prefix_documents": 1}
        return small

    def rehearsal(self, settings: Settings) -> tuple[Self, int]:
        """Return the same on little text, and how many tokens of it: a few chunks, an update after each."""
        seq_len, small = self.window(settings), self.of_all()
        self._fit_sizes(seq_len)
        small.rehearsed = True
        small.chunk = max(min(self.chunk or CHUNK, max(1, seq_len // 2)), seq_len // 8, 1)
        small.adapters = replace(self.adapters, rank=min(8, self.adapters.rank or 8))
        if self.phases.count:
            small.phases = replace(self.phases, count=1, prefix_documents=1)
        return small, 3 * (seq_len + 2 * small.chunk) // 2

    def fit(self, settings: Settings, corpus: Corpus, model: Decoder | None = None) -> None:
        """Refuse settings that do not fit the model or the text; only lengths and sizes are read."""
        seq_len, lengths = self.window(settings), input_lengths(corpus, self.documents)
        self._fit_sizes(seq_len)
        within(settings, corpus, model, min(seq_len, max(lengths, default=0)))
        given = self.adapters.rank is not None and not self.rehearsed
        lora.fit(made(settings, corpus, model), **self._pairs(lengths), given=given)
        prefix = self.phases.prefix_documents
        if prefix is not None and prefix > len(lengths):
            fault = f"phases.prefix_documents = {prefix} is more than the {len(lengths)} held-out documents"
            raise ValueError(f"{fault}; give at most that")
        chunk = self._chunk(seq_len)
        if self.optimizer.lr and not self.rehearsed and max(lengths, default=0) <= chunk:
            what = "no adapter learns" if self.phases.count else "nothing is adapted"
            cure = "give a smaller chunk" if chunk > 1 else "give longer held-out documents"
            raise ValueError(f"no document is longer than chunk = {chunk}, so {what}; {cure}")

    def _fit_sizes(self, seq_len: int) -> None:
        """Refuse a chunk longer than what is read at once."""
        if self.chunk is not None and self.chunk > seq_len:
            raise ValueError(f"chunk = {self.chunk} is more than seq_len {seq_len}; give at most {seq_len}")

    def _chunk(self, seq_len: int) -> int:
        """Return the chunk that was asked for, or ablab's own."""
        return self.chunk or min(CHUNK, seq_len)

    def _pairs(self, lengths: list[int]) -> Pairs:
        """Say which adapters there are, and how many documents have theirs at once."""
        asked = max(1, min(self.batch_documents, len(lengths)))
        rank, targets = self.adapters.rank or RANK, self.adapters.targets
        return {"targets": targets, "rank": rank, "documents": asked, "all_at_once": self.reset == "b"}

    def score(
        self, model: Decoder, corpus: Corpus, ledger: Ledger, settings: Settings, precision: str
    ) -> dict[str, object]:
        """Hand every target's score to the ledger while adapters learn; the model is left alone: a copy adapts."""
        dtype_of(precision)
        seq_len, trained, lengths = self.window(settings), settings["model"]["seq_len"], input_lengths(corpus)
        pairs, alpha = self._pairs(lengths), self.adapters.alpha
        own = copy.deepcopy(model).eval().requires_grad_(False)
        scale = 1.0 if alpha is None else alpha / pairs["rank"]
        adapters = Adapters(own, **pairs, scale=scale, **vars(self.optimizer))
        side = SideBySide(own, model, adapters, corpus, ledger, seq_len, self._chunk(seq_len), precision)
        borders, phase_steps, fault, begin = self.phases.borders, 0, "", 0
        with declared(own, seq_len, trained), declared(model, seq_len, trained):
            for end in [*borders, len(lengths)]:
                for group in groups(lengths, begin, end, adapters.most, by_length=self.reset == "document"):
                    adapters.begin(len(group), keep_a=self.reset == "b" and side.steps > 0)
                    if fault := side.go(group, lengths):
                        break
                if not fault and end < len(lengths):
                    fault, steps = self._phase(own, corpus, lengths[:end], seq_len, precision, ledger)
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

    def _phase(
        self, model: Decoder, corpus: Corpus, lengths: list[int], seq_len: int, precision: str, ledger: Ledger
    ) -> tuple[str, int]:
        """Train an epoch over the first documents, all scored, by the weights themselves; what is wrong, and the steps."""
        moving = movable(model, ())
        taught = Descent(model, moving, ledger, momentum=0.9, clip=1.0, precision=precision)
        chunk = max(1, descent.CHUNK // seq_len) * seq_len
        every, fault = list(chunks(lengths, seq_len, seq_len, chunk)), ""
        for number, cuts in enumerate(every):
            # The last of several has rate 0.
            if fault or (number and number == len(every) - 1):
                break
            steps = split(corpus, cuts, seq_len, None, moving)
            fault = taught.learn(steps, self.phases.lr * cosine(number, len(every)), 1)
        model.requires_grad_(False)
        for parameter in moving.values():
            parameter.grad = None
        return (f"in a phase over {len(lengths)} documents: {fault}" if fault else ""), taught.steps
