"""F21, F22: the checks look at the scores that are kept, in the batches, the precision and the calls that made them.

Each cheat is honest in every small evaluation that goes before, by its size, its shape, its precision or its number.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests import tiny
from tests.conformance.held_out import stages, text_corpus
from tests.conformance.test_cheats import Boosts, Cheat, DropsOne, FitsADelta, LearnsFirst, Peeks, SecondPass, TailTwice

from ablab.data import Corpus
from ablab.model import decoder as decoder_module
from ablab.model.decoder import Decoder, build
from ablab.records.run import Where
from ablab.scoring import evaluators, stage
from ablab.scoring.evaluators.disjoint import Disjoint
from ablab.scoring.scores import Scores

SEQ_LEN = 32


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Some 3,000 held-out tokens: twenty times a rehearsal. A replay reads all before it, so that time goes by the square."""
    return text_corpus(tmp_path_factory.mktemp("text"), documents=20)


def run(
    tmp_path: Path, corpus: Corpus, *, precision: str = "fp32", evaluate: Any = "disjoint", **model: Any
) -> dict[str, Any]:
    settings = tiny.settings(model=tiny.model(seq_len=SEQ_LEN, **model))
    settings["stage"] = stages(one={"evaluate": evaluate})
    made = build(settings["model"] | {"init_std": 0.2}, vocab_size=corpus.vocab_size, seed=1)
    save_file(dict(made.state_dict()), tmp_path / "weights.safetensors", {"tokenizer": corpus.fingerprint})
    here: dict[str, Any] = {
        "weights": tmp_path / "weights.safetensors",
        "corpus": corpus,
        "folders": {"one": tmp_path / "one"},
    }
    return stage.run_stage(settings, "one", **here, seed=0, where=Where("cpu", precision, "lift", 4))


# ---- models that look ahead under a condition

Batch = torch.Tensor
plain_forward, plain_logits = Decoder.forward, Decoder.logits


class Counted:
    """Calls of every model together, as a counter in a module of the code would have them."""

    calls = 0


def after(calls: int) -> Callable[[Batch, Batch], bool]:
    return lambda tokens, hidden: Counted.calls > calls


def autocast(tokens: Batch, hidden: Batch) -> bool:
    return torch.is_autocast_enabled("cpu")


CONDITIONS: dict[str, Callable[[Batch, Batch], bool]] = {
    "16 rows and more": lambda tokens, hidden: len(tokens) >= 16,
    "1000 tokens and more": lambda tokens, hidden: tokens.numel() >= 1000,
    "no fp64": lambda tokens, hidden: hidden.dtype != torch.float64,
    "no fp64 and 16 rows": lambda tokens, hidden: hidden.dtype != torch.float64 and len(tokens) >= 16,
    "inference mode": lambda tokens, hidden: torch.is_inference_mode_enabled() and len(tokens) >= 16,
}


def leaks(
    monkeypatch: pytest.MonkeyPatch, when: Callable[[Batch, Batch], bool], dim: int = 1, size: float = 0.5
) -> None:
    """Every hidden state gets some of what stands after it (dim 1), or in the row below (dim 0)."""

    def forward(self: Decoder, tokens_BT: Batch, ids_BT: Batch, *rest: Any, **named: Any) -> Batch:
        hidden = plain_forward(self, tokens_BT, ids_BT, *rest, **named)
        Counted.calls += 1
        return hidden + size * hidden.roll(-1, dim) if when(tokens_BT, hidden) else hidden

    Counted.calls = 0
    monkeypatch.setattr(Decoder, "forward", forward)


LATER = "C1 causal: what comes later, or stands beside, moves a score that is kept by"
AGAIN = "C1 causal: text still to come, changed, moves a kept score by"
OWN = "C1 causal: a kept distribution depends on its own token, by"
SCORER = "C2 scorer: a kept score differs from its distribution by"


def says(found: dict[str, Any], what: str) -> bool:
    return any(violation.startswith(what) for violation in found["violations"])


@pytest.mark.parametrize("when", CONDITIONS)
def test_a_look_ahead_under_a_condition_is_seen_in_what_is_kept(
    when: str, tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaks(monkeypatch, CONDITIONS[when])
    found = run(tmp_path, corpus)
    assert says(found, LATER), found["violations"]


def test_a_look_ahead_of_bf16_alone_is_seen(tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    leaks(monkeypatch, lambda tokens, hidden: autocast(tokens, hidden) and len(tokens) >= 16)
    found = run(tmp_path, corpus, precision="bf16")
    assert says(found, LATER), found["violations"]


@pytest.mark.parametrize("dim", [1, 0])
def test_a_leak_between_places_or_rows_that_begins_late_is_seen(
    dim: int, tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that the checks call before, and the first passes that are kept, are clean."""
    monkeypatch.setattr(decoder_module, "FORWARD_TOKENS", 64)
    leaks(monkeypatch, after(0), dim)
    before = []
    check = stage.legal
    monkeypatch.setattr(
        stage, "legal", lambda *parts, **named: (check(*parts, **named), before.append(Counted.calls))[0]
    )
    run(tmp_path, corpus)
    leaks(monkeypatch, after(before[0] + 20), dim)
    found = run(tmp_path, corpus)
    assert Counted.calls > before[0] + 50
    assert found["violations"] and all("kept" in violation for violation in found["violations"]), found["violations"]
    assert says(found, LATER), found["violations"]


def test_every_second_pass_that_leaks_is_seen(tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_module, "FORWARD_TOKENS", 64)
    leaks(monkeypatch, lambda tokens, hidden: len(tokens) == 2 and Counted.calls % 2 == 0)
    found = run(tmp_path, corpus)
    assert says(found, LATER), found["violations"]


def test_text_that_is_known_from_an_earlier_pass_is_seen(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that remembers what it has read gives the same again where the beginning is the same."""

    def forward(self: Decoder, tokens_BT: Batch, ids_BT: Batch, *rest: Any, **named: Any) -> Batch:
        hidden = plain_forward(self, tokens_BT, ids_BT, *rest, **named)
        known = self.__dict__.setdefault("known", {})
        for row, own in enumerate(tokens_BT.tolist()):
            for at in range(len(own) - 1):
                if len(own) > 16 and len(tokens_BT) >= 16:
                    ahead = known.setdefault(tuple(own[: at + 1]), own[at + 1])
                    hidden[row, at] = hidden[row, at] + 4 * self.head_weight[ahead]
        return hidden

    monkeypatch.setattr(Decoder, "forward", forward)
    found = run(tmp_path, corpus)
    assert says(found, OWN) or says(found, AGAIN), found["violations"]


def test_a_head_that_looks_ahead_over_many_places_is_seen(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def logits(self: Decoder, hidden: Batch) -> Batch:
        z = plain_logits(self, hidden)
        return z + 0.5 * z.roll(-1, 0) if hidden.dim() == 2 and len(hidden) >= 1000 else z

    monkeypatch.setattr(Decoder, "logits", logits)
    found = run(tmp_path, corpus)
    assert says(found, SCORER), found["violations"]


def test_rows_that_are_normalised_together_are_seen(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(self: Decoder, tokens_BT: Batch, ids_BT: Batch, *rest: Any, **named: Any) -> Batch:
        hidden = plain_forward(self, tokens_BT, ids_BT, *rest, **named)
        return hidden - hidden.mean(0, keepdim=True) if len(hidden) >= 16 else hidden

    monkeypatch.setattr(Decoder, "forward", forward)
    found = run(tmp_path, corpus)
    assert says(found, LATER) and says(found, "C1 alone: tokens read alone differ from those kept by"), found[
        "violations"
    ]


# ---- evaluators that are honest in their rehearsal


class AtScale(Cheat):
    """Honest on little text; `honest` is what it rehearses."""

    def rehearsal(self, settings: Any) -> tuple[Any, int]:
        return Cheat(), 4 * SEQ_LEN


def at_scale(cheat: type[Cheat]) -> Any:
    return type("At", (AtScale, cheat), {})()


class Flatters(Disjoint):
    """Hands in scores, and hands back better ones."""

    def __call__(self, *parts: Any, **how: Any) -> Scores:
        found = super().__call__(*parts, **how)
        found.nats *= 0.9
        return found


class Beside(Disjoint):
    """Scores where no check sees it."""

    def __call__(self, *parts: Any, **how: Any) -> Scores:
        return super().__call__(*parts, **(how | {"ledger": None}))

    def rehearsal(self, settings: Any) -> tuple[Any, int]:
        return Disjoint(), 64


CAUGHT: dict[str, tuple[Any, str]] = {
    "learns first": (at_scale(LearnsFirst), AGAIN),
    "fits a delta": (at_scale(FitsADelta), AGAIN),
    "second pass": (at_scale(SecondPass), AGAIN),
    "boosts": (at_scale(Boosts), "C2 normalised: what is kept sums to 1 within 0.1"),
    "peeks": (at_scale(Peeks), OWN),
    "tail twice": (at_scale(TailTwice), "C4 single pass: 0 targets were never scored"),
    "drops one": (at_scale(DropsOne), "C4 single pass:"),
    "flatters": (Flatters(), "C4 ledger: scores are not those that were handed in (first at document 0:"),
    "beside": (Beside(), "C4 ledger: scores are not those that were handed in (first at document 0:"),
}


@pytest.mark.parametrize("cheat", CAUGHT)
def test_an_evaluator_that_cheats_beyond_its_rehearsal_is_seen(
    cheat: str, tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator, said = CAUGHT[cheat]
    monkeypatch.setattr(stage.evaluators.slot, "build", lambda choice: evaluator)
    found = run(tmp_path, corpus)
    assert says(found, said), found["violations"]
    assert not any(violation.startswith("rehearsal") for violation in found["violations"])


# ---- honest ones pass

HONEST: list[Any] = [name for name in evaluators.slot.names if name != "needle"]
HONEST += [{"name": "needle", "items": 2}, {"name": "disjoint", "documents": 3}]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("asked", HONEST, ids=str)
def test_every_evaluator_passes(asked: Any, precision: str, tmp_path: Path, corpus: Corpus) -> None:
    choice = tiny.choice(evaluators.slot, asked)
    if choice["name"] in ("ttt_sgd", "ttt_lora", "sliding"):
        choice |= evaluators.slot.load(choice["name"]).miniature(choice, SEQ_LEN / 2048)
    found = run(tmp_path, corpus, precision=precision, evaluate=choice)
    assert found["violations"] == []
    assert found["checked"]["kept_later"] == 0.0
    decides = {"kept_before", "kept_at", "kept_mass", "kept_score"} <= set(found["checked"])
    assert decides == (choice["name"] != "needle")
