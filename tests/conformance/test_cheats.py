"""Every rule catches the cheat that it was made for, and leaves honest evaluators alone.

The cheats are those of parameter-golf (facts 1.11, 1.12 of its issue #1017): a non-causal smear, an unnormalised mixture, an
update before scoring, a delta fitted on the window that it scores, training on held-out text before compression, a second
pass, a byte count with spaces doubled, a tail that is scored twice.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests import tiny
from tests.conformance.held_out import stages, text_corpus

from ablab.artifact import compressors
from ablab.artifact.compressors.keep import Keep
from ablab.data import Corpus
from ablab.data.bands import band_edges
from ablab.model.decoder import Decoder, build
from ablab.scoring import evaluators, stage
from ablab.scoring.evaluators.disjoint import Disjoint
from ablab.scoring.evaluators.evaluator import Evaluator
from ablab.scoring.ledger import Ledger
from ablab.scoring.legality import forward, replay
from ablab.scoring.scores import Scores
from ablab.scoring.stage import run_stage

SEQ_LEN = 32
ASKED: dict[str, Any] = {"model": tiny.model(seq_len=SEQ_LEN)}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return text_corpus(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def model(corpus: Corpus) -> Decoder:
    return build(ASKED["model"] | {"init_std": 0.2}, vocab_size=corpus.vocab_size, seed=1)


def violations(
    evaluator: Any, model: Decoder, corpus: Corpus, executor: str = "lift", precision: str = "fp32"
) -> list[str]:
    found, _ = replay.check(evaluator, model, corpus, ASKED, seed=0, precision=precision, executor=executor)
    return found


class Cheat(Evaluator):
    """An evaluator over disjoint windows, one row at a time; subclasses say what else they do."""

    source, decides, revision = "here", True, 1

    def rehearsal(self, settings: Mapping[str, Any]) -> tuple[Any, int]:
        return self, 4 * SEQ_LEN

    def __call__(
        self, model: Decoder, corpus: Corpus, settings: Any, *, seed: int, precision: str, ledger: Any = None
    ) -> Scores:
        ledger, own = ledger or Ledger(corpus), copy.deepcopy(model)
        self.go(own, ledger, corpus)
        return ledger.scores(band_edges(SEQ_LEN))

    def go(self, model: Decoder, ledger: Ledger, corpus: Corpus) -> None:
        for row in self.rows(corpus):
            self.one(model, ledger, *row)

    def rows(self, corpus: Corpus) -> Iterator[tuple[Any, ...]]:
        """Window after window. (Rows of `valid_rows` hold pieces of several documents: learning from one learns ahead.)"""
        for number, (ids, *_) in enumerate(corpus.valid):
            for start in range(0, len(ids) - 1, SEQ_LEN):
                window = torch.from_numpy(ids[None, start : start + SEQ_LEN + 1])
                offset = np.arange(window.shape[1] - 1)[None]
                batch = window[:, :-1], window[:, 1:], torch.zeros_like(window[:, 1:])
                yield (*batch, np.full_like(offset, number), start + offset + 1, offset)

    def one(self, model: Decoder, ledger: Ledger, *row: Any) -> None:
        with torch.no_grad():
            ledger.score_by(model, *row)

    def learn(self, model: Decoder, tokens: Any, targets: Any, ids: Any) -> None:
        model.zero_grad()
        model.nll(tokens, targets, ids).sum().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 1e-2 * parameter.grad


class LearnsFirst(Cheat):
    def one(self, model: Decoder, ledger: Ledger, *row: Any) -> None:
        self.learn(model, *row[:3])
        super().one(model, ledger, *row)


class SaysSo(LearnsFirst):
    def one(self, model: Decoder, ledger: Ledger, *row: Any) -> None:
        scored = row[1].numpy() >= 0
        ledger.update(row[3][scored], row[4][scored])
        super().one(model, ledger, *row)


class ScoresFirst(Cheat):
    """Not a cheat: learns from what it has scored."""

    def one(self, model: Decoder, ledger: Ledger, *row: Any) -> None:
        super().one(model, ledger, *row)
        scored = row[1].numpy() >= 0
        ledger.update(row[3][scored], row[4][scored])
        self.learn(model, *row[:3])


class FitsADelta(Cheat):
    """A bias of the logits, fitted on the very window that it scores."""

    def one(self, model: Decoder, ledger: Ledger, *row: Any) -> None:
        own = copy.deepcopy(model)
        gain = own.final_norm.weight
        for _ in range(3):
            own.zero_grad()
            own.nll(*row[:3]).sum().backward()
            with torch.no_grad():
                gain -= 1e-2 * gain.grad
        super().one(own, ledger, *row)


class SecondPass(Cheat):
    """Learns from the whole text, and only then scores it, each token once."""

    def go(self, model: Decoder, ledger: Ledger, corpus: Corpus) -> None:
        for row in self.rows(corpus):
            self.learn(model, *row[:3])
        super().go(model, ledger, corpus)


class Boosts(Cheat):
    """Mixes the true token's own indicator in: what it scores is no distribution."""

    def one(self, model: Decoder, ledger: Ledger, *row: Any) -> None:
        with torch.no_grad():
            log_p = model.logits(model(row[0], row[2]))[0].double().log_softmax(-1).numpy()
        (scored,) = np.nonzero(row[1][0].numpy() >= 0)
        targets = row[1][0].numpy()[scored]
        p = np.exp(log_p[scored])
        p[np.arange(len(scored)), targets] += 0.1
        nats = -np.log(p[np.arange(len(scored)), targets])
        places = (part[0][scored] for part in row[3:])
        ledger.score(*places, nats, lambda rows: np.log(p[rows]))


class BoostsAndHides(Boosts):
    """Shows a distribution that sums to 1, and scores something else."""

    def one(self, model: Decoder, ledger: Ledger, *row: Any) -> None:
        with torch.no_grad():
            log_p = model.logits(model(row[0], row[2]))[0].double().log_softmax(-1).numpy()
        (scored,) = np.nonzero(row[1][0].numpy() >= 0)
        targets = row[1][0].numpy()[scored]
        nats = -np.log(np.exp(log_p[scored, targets]) + 0.1)
        ledger.score(*(part[0][scored] for part in row[3:]), nats, lambda rows: log_p[scored[rows]])


class Peeks(Cheat):
    """A distribution that sums to 1 and was chosen by looking at its token."""

    def one(self, model: Decoder, ledger: Ledger, *row: Any) -> None:
        with torch.no_grad():
            log_p = model.logits(model(row[0], row[2]))[0].double().log_softmax(-1).numpy()
        (scored,) = np.nonzero(row[1][0].numpy() >= 0)
        targets = row[1][0].numpy()[scored]
        p = 0.9 * np.exp(log_p[scored])
        p[np.arange(len(scored)), targets] += 0.1
        nats = -np.log(p[np.arange(len(scored)), targets])
        ledger.score(*(part[0][scored] for part in row[3:]), nats, lambda rows: np.log(p[rows]))


class HidesAll(Peeks):
    """Gives no distribution."""

    def one(self, model: Decoder, ledger: Ledger, *row: Any) -> None:
        (scored,) = np.nonzero(row[1][0].numpy() >= 0)
        ledger.score(*(part[0][scored] for part in row[3:]), np.zeros(len(scored)))


class TailTwice(Cheat):
    """The last window of the text once more, as truncated windows of a sliding evaluation do."""

    def go(self, model: Decoder, ledger: Ledger, corpus: Corpus) -> None:
        rows = list(self.rows(corpus))
        for row in [*rows, rows[-1]]:
            self.one(model, ledger, *row)


class DropsOne(Cheat):
    def go(self, model: Decoder, ledger: Ledger, corpus: Corpus) -> None:
        for row in list(self.rows(corpus))[:-1]:
            self.one(model, ledger, *row)


@pytest.mark.parametrize("executor", ["lift", "reference"])
@pytest.mark.parametrize("honest", [Cheat, ScoresFirst, Disjoint])
def test_honest_evaluators_pass(honest: Any, model: Decoder, corpus: Corpus, executor: str) -> None:
    model = build(ASKED["model"] | {"init_std": 0.2}, vocab_size=corpus.vocab_size, seed=1, executor=executor)
    assert violations(honest(), model, corpus, executor) == []


@pytest.mark.parametrize("name", [n for n in evaluators.slot.names if evaluators.slot.load(n).decides])
def test_every_evaluator_passes(name: str, model: Decoder, corpus: Corpus) -> None:
    choice = tiny.choice(evaluators.slot, name)
    choice |= evaluators.slot.load(name).miniature(choice, SEQ_LEN / 2048)
    assert violations(evaluators.slot.build(choice), model, corpus) == []


CAUGHT = {
    LearnsFirst: "C1 causal: a later token changed moves an earlier score by",
    SaysSo: "rehearsal: C3 score before update: .* targets were learned from before they were scored",
    FitsADelta: "C1 causal: a later token changed moves an earlier score by",
    SecondPass: "C1 causal: a later token changed moves an earlier score by",
    Boosts: "C2 normalised: what is scored sums to 1 within 0.1 ",
    BoostsAndHides: "C2 scorer: a score differs from its distribution by",
    Peeks: "C1 causal: the distribution of a token depends on that token, by",
    HidesAll: "C2 normalised: .* scores came without the distribution that they were read from",
    TailTwice: "rehearsal: C4 single pass: 0 targets were never scored, .* more than once",
    DropsOne: "rehearsal: C4 single pass: .* targets were never scored, 0 more than once",
}


@pytest.mark.parametrize("cheat", CAUGHT, ids=lambda c: c.__name__)
def test_every_cheat_is_caught(cheat: Any, model: Decoder, corpus: Corpus) -> None:
    found = violations(cheat(), model, corpus)
    assert any(re.search(CAUGHT[cheat], text) for text in found), found


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("share", [0.1, 1e-3, 1e-5])
def test_a_smear_over_the_next_token_is_caught(share: float, precision: str, model: Decoder, corpus: Corpus) -> None:
    leaky = copy.deepcopy(model)
    plain = leaky.mixer.forward

    def smear(x_BTD: Any, *rest: Any) -> Any:
        return plain(x_BTD + share * torch.roll(x_BTD, -1, dims=1), *rest)

    leaky.mixer.forward = smear
    found = violations(Disjoint(), leaky, corpus, precision=precision)
    assert "C1 causal: the distribution of a token depends on that token, by" in found[0]
    found, _ = forward.check(leaky, corpus, ASKED, precision=precision, executor="lift")
    assert any(text.startswith("C1 causal: a later token changed moves an earlier nll by") for text in found)


# ---- through a whole stage


def run(tmp_path: Path, corpus: Corpus, model: Decoder, **how: Any) -> dict[str, Any]:
    settings = tiny.settings(model=ASKED["model"])
    settings["stage"] = stages(one={"evaluate": "disjoint"})
    save_file(dict(model.state_dict()), tmp_path / "weights.safetensors", {"tokenizer": corpus.fingerprint})
    here: dict[str, Any] = {
        "weights": tmp_path / "weights.safetensors",
        "corpus": corpus,
        "folders": {"one": tmp_path / "one"},
    }
    return run_stage(settings, "one", **here, seed=0, where=tiny.WHERE, **how)


class Spaces(Disjoint):
    """Counts every space twice, as the double-space bug did (parameter-golf, issue #1719)."""

    def __call__(self, model: Decoder, corpus: Corpus, settings: Any, **how: Any) -> Scores:
        found = super().__call__(model, corpus, settings, **how)
        for number, (ids, *_) in enumerate(corpus.valid):
            found.bytes[number] += int((ids == ord(" ")).sum())
        return found


class Scales(Disjoint):
    """Changes the model that it was given."""

    def __call__(self, model: Decoder, corpus: Corpus, settings: Any, **how: Any) -> Scores:
        found = super().__call__(model, corpus, settings, **how)
        with torch.no_grad():
            model.final_norm.weight *= 1.01
        return found

    def rehearsal(self, settings: Any) -> tuple[Any, int]:
        return Disjoint(), 64


@pytest.mark.parametrize(
    ("cheat", "said"),
    [
        (LearnsFirst, "C1 causal: a later token changed moves an earlier score by"),
        (TailTwice, "C4 single pass: 0 targets were never scored"),
        (Spaces, "bytes: .* were scored, the corpus has"),
        (Scales, "weights: the evaluation changed the model"),
    ],
)
def test_a_stage_with_a_cheat_is_invalid(
    cheat: Any, said: str, tmp_path: Path, corpus: Corpus, model: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(tmp_path, corpus, model)["violations"] == []
    monkeypatch.setattr(stage.evaluators.slot, "build", lambda choice: cheat())
    found = run(tmp_path, corpus, model)["violations"]
    assert any(re.search(said, text) for text in found), found


def test_training_before_compression_is_caught(
    tmp_path: Path, corpus: Corpus, model: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Adapts(Keep):
        """Trains on held-out text, then packs: the artifact knows what it will be scored on."""

        calibrates = True

        def quantise(self, weights: dict[str, torch.Tensor], calibration: Any = None) -> Any:
            text = calibration.corpus.valid.tokens
            return super().quantise({k: v + 1e-3 * float(text[0] > 0) for k, v in weights.items()}, calibration)

    whole = compressors.slot.load
    monkeypatch.setattr(compressors.slot, "load", lambda name: Adapts if name == "keep" else whole(name))
    found = run(tmp_path, corpus, model)["violations"]
    assert found == ["C3 score before update: compression read held-out text"]
