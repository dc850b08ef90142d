"""Score-first test-time training: each piece of the held-out text is scored, and only then learned from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from ablab.data import Corpus
from ablab.model.decoder import Decoder
from ablab.runtime.machine import dtype_of
from ablab.scoring.evaluators.evaluator import Evaluator
from ablab.scoring.evaluators.ttt import lora, ttt_lora, ttt_sgd
from ablab.scoring.evaluators.ttt.lora import TARGETS
from ablab.scoring.ledger import Ledger
from ablab.scoring.receptive import made, within
from ablab.scoring.subset import input_lengths
from ablab.training.roles import decays, not_negative

# Every default is parameter-golf's (#1413 for sgd, #1530 for lora); None stands for what depends on another setting.
OF_SGD: dict[str, Any] = {"epochs": 3, "momentum": 0.9, "clip": 1.0, "freeze": (), "stride": None, "batch_tokens": None}
OF_LORA: dict[str, Any] = {
    "rank": 96,
    "alpha": None,
    "targets": TARGETS,
    "betas": (0.0, 0.999),
    "eps": 1e-10,
    "weight_decay": 0.5,
    "reset": "document",
    "batch_documents": 64,
    "phases": None,
    "prefix_documents": None,
    "phase_lr": 0.001,
}
LR = {"sgd": 0.005, "lora": 1e-4}
CHUNK = {"sgd": 32_768, "lora": 48}  # tokens
SHORT = 32  # tokens: seq_len of a miniature at least
LEAST = 4  # chunks of a text, where the chunk's size is left to ablab


class Ttt(Evaluator):
    """Test-time training on a copy of the weights; a setting of the other `adapt` raises.

    Both: `lr`; `seq_len` (default: the trained one), declared to the position schemes; `documents` as in disjoint; `chunk`
    tokens are scored, then learned from. Balancing losses of mixtures are off, routers' biases stay. Nothing depends on the
    seed: lora's start is one draw for every run, arm and document.

    adapt = "sgd": all weights, over the text in its order. `chunk` (a multiple of seq_len; default 32,768 tokens in whole
    windows, fewer where the text would have less than 4 chunks) takes the windows whose first scored token it holds; after
    its scores (all but the last chunk's) `epochs` (3) over what it scored, in windows of seq_len, in order: SGD at lr
    (0.005) 0.5 (1 + cos(pi c / (C - 1))), `momentum` (0.9, goes on from chunk to chunk), gradient norm `clip` (1.0; 0
    never), one step per `batch_tokens` (default: per chunk and epoch). `freeze`: roles (embedding, head, matrix, scalar) or
    beginnings of names that stay. `stride` scores as `sliding` does.

    adapt = "lora": every document has adapters of its own, from the same start, and no other document moves them. x A B
    alpha / rank is added to each matrix in `targets` ("attn": projections and output, "mlp", "head"), a pair of its own
    each time that a loop meets it; A (d_in, `rank` 96) uniform within 1/sqrt(d_in), B zero, `alpha` default rank. Stacked
    experts, routers and gates are not adapted. A chunk (48, at most seq_len) is scored at the end of up to seq_len tokens
    of its document; then, unless it is the last, its mean moves the document's adapters by one AdamW step (lr 1e-4, `betas`
    0 and 0.999, `eps` 1e-10, `weight_decay` 0.5; without a scored token it only decays them).
    `batch_documents` (64) go side by side. reset = "b": A goes on from the document that was at the same place side by
    side before, as in #1767; scores then depend on batch_documents, and more than memory holds is refused. `phases` over
    `prefix_documents`: at each of so many even steps through the first documents one epoch of SGD (`phase_lr` 0.001,
    cosine, momentum 0.9, clip 1, 32,768 tokens a step) over all that is scored moves the weights themselves, for the documents
    after it; #1610, there longest first.

    Divergence (see Watch) ends the scores: NaN from there on, every token still accounted for.
    extra: {"adapted": {"tensors", "numbers"}, "side_by_side", "steps", ...}. ValueError for settings that do not fit each
    other or the text.
    """

    source = "openai/parameter-golf #461, #1413 (sgd), #1530 (lora), #1610 (phases)"
    revision: ClassVar[int] = 2  # 2: chunks left to ablab are as many tokens whatever seq_len is

    def __init__(
        self,
        *,
        adapt: Literal["sgd", "lora"] = "sgd",
        chunk: int | None = None,
        lr: float | None = None,
        seq_len: int | None = None,
        documents: int | None = None,
        epochs: int | None = None,
        momentum: float | None = None,
        clip: float | None = None,
        freeze: tuple[str, ...] | None = None,
        stride: int | None = None,
        batch_tokens: int | None = None,
        rank: int | None = None,
        alpha: float | None = None,
        targets: tuple[str, ...] | None = None,
        betas: tuple[float, float] | None = None,
        eps: float | None = None,
        weight_decay: float | None = None,
        reset: Literal["document", "b"] | None = None,
        batch_documents: int | None = None,
        phases: int | None = None,
        prefix_documents: int | None = None,
        phase_lr: float | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name != "self" and value is not None}
        _refuse_idle(given)
        _refuse_impossible(given)
        self.given, self.adapt, self.documents, self.seq_len = given, adapt, documents, seq_len
        self.rehearsed = False  # on little text: adapting nothing there says nothing of the whole

    @staticmethod
    def miniature(choice: Mapping[str, Any], long: float) -> dict[str, Any]:
        """The settings for lengths that are `long` times these; few, short steps."""
        small: dict[str, Any] = {"documents": None}
        length = choice["seq_len"]
        if length is not None:
            small["seq_len"] = max(4, round(length * long))
        own = small.get("seq_len", SHORT)
        if choice["stride"] is not None:
            small["stride"] = max(1, round(choice["stride"] * long))
        if choice["chunk"] is not None:
            scaled = round(choice["chunk"] * long) if length is None else max(1, choice["chunk"] // length) * own
            # A longer chunk than 512 would leave one or two of a miniature's text; the default is then as many windows as fit.
            of_sgd = None if scaled > 512 else max(4, scaled)
            small["chunk"] = min(own, SHORT, max(8, choice["chunk"] // 4)) if choice["adapt"] == "lora" else of_sgd
        elif choice["adapt"] == "lora":
            small["chunk"] = min(own, CHUNK["lora"] // 4)
        if choice["batch_tokens"] is not None:
            scaled = round(choice["batch_tokens"] * long)
            if length is not None:  # a window at least, a chunk at most
                scaled = min(max(own, scaled), small.get("chunk") or max(own, scaled))
            small["batch_tokens"] = max(4, scaled) if scaled <= 256 else None
        if choice["adapt"] == "lora":
            # Matrices of a miniature have as few as 8 rows; ablab's own rank is for any model, so 1 fits them all.
            small["rank"] = max(1, min(8, choice["rank"], round(choice["rank"] * long))) if choice["rank"] else 1
        most = choice["batch_documents"] or OF_LORA["batch_documents"]
        if choice["reset"] == "b" and (choice["documents"] is None or choice["documents"] > most):
            small["batch_documents"] = 1  # a miniature's few documents would all go side by side, and A go on to none
        if choice["phases"] is not None:
            small |= {"phases": 1, "prefix_documents": 1}
        return small

    def rehearsal(self, settings: Mapping[str, Any]) -> tuple[Evaluator, int]:
        """The same on little text, and how many tokens of it: a few chunks, an update after each."""
        seq_len, asked = self.window(settings), dict(self.given, documents=None)
        self._fit_sizes(seq_len)
        if self.adapt == "sgd":
            asked |= {"chunk": seq_len, "batch_tokens": None, "epochs": min(1, asked.get("epochs", 1))}
            if self.given.get("stride"):
                asked["stride"] = min(seq_len, max(self.given["stride"], seq_len // 4))
            return _rehearsed(asked), 4 * seq_len
        chunk = min(asked.get("chunk", CHUNK["lora"]), max(1, seq_len // 2))
        asked |= {"chunk": max(chunk, seq_len // 8, 1), "rank": min(8, asked.get("rank", 8))}
        if "phases" in asked:
            asked |= {"phases": 1, "prefix_documents": 1}
        return _rehearsed(asked), 3 * (seq_len + 2 * asked["chunk"]) // 2

    def fit(self, settings: Mapping[str, Any], corpus: Corpus, model: Decoder | None = None) -> None:
        """ValueError for settings that do not fit the model or the text; only lengths and sizes are read."""
        seq_len, lengths = self.window(settings), input_lengths(corpus, self.documents)
        self._fit_sizes(seq_len)
        within(settings, corpus, model, min(seq_len, max(lengths, default=0)))
        moves = bool(self.given.get("lr", LR[self.adapt])) and not self.rehearsed
        chunk = self._chunk(seq_len, lengths)
        if self.adapt == "sgd":
            own = self._own(OF_SGD)
            if own["freeze"]:
                ttt_sgd.moved(made(settings, corpus, model), own["freeze"])
            if moves and own["epochs"]:
                ttt_sgd.fit_text(lengths, seq_len, own["stride"] or seq_len, chunk, given="chunk" in self.given)
            return
        own = self._own(OF_LORA)
        asked = max(1, min(own["batch_documents"], len(lengths)))
        how: dict[str, Any] = {"targets": own["targets"], "rank": own["rank"], "documents": asked}
        given = "rank" in self.given and not self.rehearsed
        lora.fit(made(settings, corpus, model), **how, given=given, all_at_once=own["reset"] == "b")
        phases = {name: own[name] for name in ("phases", "prefix_documents")}
        ttt_lora.fit_text(lengths, chunk, **phases, moves=moves)

    def _fit_sizes(self, seq_len: int) -> None:
        """ValueError for settings that do not fit the length of a window."""
        if self.adapt == "sgd":
            ttt_sgd.fit(seq_len, *(self.given.get(name) for name in ("chunk", "stride", "batch_tokens")))
        else:
            ttt_lora.fit(seq_len, self.given.get("chunk", 1))

    def _chunk(self, seq_len: int, lengths: list[int]) -> int:
        """The chunk that was asked for, or ablab's own."""
        usual = CHUNK[self.adapt]
        windows = min(usual // seq_len, sum(lengths) // (LEAST * seq_len))
        own = max(1, windows) * seq_len if self.adapt == "sgd" else min(usual, seq_len)
        return int(self.given.get("chunk", own))

    def score(
        self, model: Decoder, corpus: Corpus, ledger: Ledger, settings: Mapping[str, Any], precision: str
    ) -> dict[str, Any]:
        """Hand every target's score to the ledger, chunk by chunk; the model is left alone: a copy adapts."""
        dtype_of(precision)
        seq_len, trained = self.window(settings), settings["model"]["seq_len"]
        sizes = {"seq_len": seq_len, "trained": trained, "precision": precision}
        lr, chunk = self.given.get("lr", LR[self.adapt]), self._chunk(seq_len, input_lengths(corpus))
        if self.adapt == "sgd":
            extra = ttt_sgd.run(model, corpus, ledger, lr=lr, chunk=chunk, **sizes, **self._own(OF_SGD))
        else:
            own = self._own(OF_LORA) | {"phase_chunk": max(1, CHUNK["sgd"] // seq_len) * seq_len}
            extra = ttt_lora.run(model, corpus, ledger, lr=lr, chunk=chunk, **sizes, **own)
        return extra

    def _own(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self.given.get(name, default) for name, default in defaults.items()}


def _rehearsed(asked: Mapping[str, Any]) -> Ttt:
    small = Ttt(**asked)
    small.rehearsed = True
    return small


def _refuse_idle(given: Mapping[str, Any]) -> None:
    """ValueError for a setting that acts on nothing beside the others."""
    other, wrong = ("lora", OF_LORA) if given["adapt"] == "sgd" else ("sgd", OF_SGD)
    for name, value in given.items():
        if name in wrong:
            raise ValueError(
                f'{name} = {_shown(value)} acts on nothing under adapt = "{given["adapt"]}"; '
                f'remove it, or use adapt = "{other}"'
            )
    if "phases" in given and "prefix_documents" not in given:
        raise ValueError(f"phases = {given['phases']} go over no documents; give prefix_documents")
    for name in ("prefix_documents", "phase_lr"):
        if name in given and "phases" not in given:
            raise ValueError(f"{name} = {given[name]} acts on nothing without phases; add phases = 1, or remove it")


def _refuse_impossible(given: Mapping[str, Any]) -> None:
    """ValueError for numbers outside their range."""
    for name in ("chunk", "seq_len", "documents", "stride", "batch_tokens", "rank", "batch_documents", "phases"):
        if given.get(name, 1) < 1:
            raise ValueError(f"{name} = {given[name]} is no size; give at least 1")
    if given.get("epochs", 0) < 0:
        raise ValueError(f"epochs = {given['epochs']} is no number of epochs; give 0 or more")
    not_negative(**{name: given.get(name) for name in ("lr", "clip", "phase_lr", "weight_decay")})
    decays(**{name: given[name] for name in ("momentum", "betas") if name in given})
    for name in ("alpha", "eps"):
        if given.get(name, 1) <= 0:
            raise ValueError(f"{name} = {given[name]} is not positive; give a number above 0")
    if "targets" in given:
        odd = [target for target in given["targets"] if target not in TARGETS]
        if odd or not given["targets"] or len(set(given["targets"])) < len(given["targets"]):
            what = f"'{odd[0]}' is no target" if odd else "each target stands once, and there is one at least"
            raise ValueError(f"targets: {what}; choose among {', '.join(TARGETS)}")
    if given.get("prefix_documents", given.get("phases", 0)) < given.get("phases", 0):
        raise ValueError(
            f"prefix_documents = {given['prefix_documents']} leaves a phase of {given['phases']} without a document; "
            f"give at least {given['phases']}"
        )
    if given["adapt"] == "sgd" and "seq_len" in given:
        ttt_sgd.fit(given["seq_len"], given.get("chunk"), given.get("stride"), given.get("batch_tokens"))


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(list(value) if isinstance(value, tuple) else value)
