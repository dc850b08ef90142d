"""A trained run as lm-evaluation-harness asks it: log-likelihoods are ablab's own nll, and texts go on by ablab's cache."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ablab.bridges import harness
from ablab.bridges.harness import __main__ as command
from ablab.bridges.harness.texts import RunOnTexts, opened
from ablab.cli.sample import continued
from ablab.core.fault import CheckFailed, InvalidStudy
from ablab.launch.study import Lab
from ablab.model.decoder import inference

CLOSE = 1e-5  # nats of a token: other rows lie beside it


@pytest.fixture(scope="module", params=["baseline", "grape"])
def texts(request: pytest.FixtureRequest, trained: Lab) -> RunOnTexts:
    return RunOnTexts(*opened(trained.path, request.param, 0, trained.out))


def nll(texts: RunOnTexts, text: str, behind: str = "") -> np.ndarray:
    """Nats of each token of a text, read whole, with or without something before it."""
    ids = [texts.corpus.bos_id, *texts.corpus.tokenizer.encode(behind + text)[0].tolist()]
    rows = torch.tensor([ids])
    with inference(texts.decoder, "fp32"):
        found = texts.decoder.nll(rows[:, :-1], rows[:, 1:], torch.zeros_like(rows[:, :-1]))
    kept: np.ndarray = found[0, len(texts.corpus.tokenizer.encode(behind)[0]) if behind else 0 :].double().numpy()
    return kept


def test_whole_texts_have_the_nats_that_the_stage_gave_them(texts: RunOnTexts, trained: Lab) -> None:
    plan = trained.plan(computes=False)
    arm = "grape" if "log_freq" in " ".join(texts.decoder.state_dict()) else "baseline"
    key = plan.runs[arm, 0].score_keys["plain"]
    result = plan.store.scored(key)
    assert result is not None
    scored = plan.store.scores(key, result)
    documents = list(texts.corpus.valid)
    short = [i for i, document in enumerate(documents) if len(document.ids) <= texts.length]
    assert len(short) >= 3
    found = texts.whole([texts.corpus.tokenizer.decode(documents[i].ids[1:].tolist()) for i in short])
    np.testing.assert_allclose(found, [-scored.nats[i] for i in short], rtol=0, atol=50 * CLOSE)


def test_a_continuation_has_the_nats_of_its_tokens_behind_its_context(texts: RunOnTexts) -> None:
    pairs = [
        ("The 3th text", " is no other"),
        ("", "As 3 times 3"),
        ("A context ", "of blanks"),
        ("nothing", ""),
        ("é", "ü€"),
    ]
    found = texts.continuations(pairs)
    for (context, continuation), (total, likeliest) in zip(pairs, found, strict=True):
        kept = context.rstrip()
        blanks = context[len(kept) :]
        wanted = nll(texts, blanks + continuation, kept) if continuation else np.zeros(0)
        assert total == pytest.approx(-wanted.sum(), abs=CLOSE * max(1, len(wanted)))
        assert likeliest is (not continuation)
    said = texts.until("The 3th text", {"max_gen_toks": 8})
    assert texts.continuations([("The 3th text", said)])[0][1]  # what greedy decoding wrote is the likeliest


def test_what_is_longer_than_a_row_is_cut_at_its_front_and_scored_once(texts: RunOnTexts) -> None:
    text = "The 7th text is no other, as 7 times 7 is 49. " * 4
    ids, length = texts.corpus.tokenizer.encode(text)[0].tolist(), texts.length
    assert len(ids) > 2 * length
    wanted = nll(texts, text[:length]).sum()
    for first in range(length, len(ids), length):
        end = min(first + length, len(ids))
        rows = torch.tensor([[texts.corpus.bos_id, *ids][end - length : end + 1]])
        with inference(texts.decoder, "fp32"):
            found = texts.decoder.nll(rows[:, :-1], rows[:, 1:], torch.zeros_like(rows[:, :-1]))
        wanted += float(found[0, length - (end - first) :].double().sum())
    assert texts.whole([text]) == [pytest.approx(-wanted, abs=CLOSE * len(ids))]
    rows = torch.tensor([ids[-length - 1 :]])  # a start no longer fits before the text
    with inference(texts.decoder, "fp32"):
        found = texts.decoder.nll(rows[:, :-1], rows[:, 1:], torch.zeros_like(rows[:, :-1]))
    short = float(found[0, -5:].double().sum())
    assert texts.continuations([(text[:-5], text[-5:])])[0][0] == pytest.approx(-short, abs=5 * CLOSE)


def test_texts_go_on_by_the_cache_to_a_stop(texts: RunOnTexts, trained: Lab) -> None:
    plan = trained.plan(computes=False)
    run = plan.runs["grape" if "log_freq" in " ".join(texts.decoder.state_dict()) else "baseline", 0]
    [wanted] = continued(plan, run, ["The 3th"], 24, temperature=0.0)["samples"]
    whole = texts.until("The 3th", {"max_gen_toks": 24})
    assert whole == wanted["text"] and len(whole) > 2
    assert (
        texts.until("The 3th", {"until": ["\x00never", whole[2]], "max_gen_toks": 24}) == whole[: whole.index(whole[2])]
    )
    assert texts.until("The 3th", {"do_sample": True, "temperature": 5.0, "max_gen_toks": 24}) != whole
    with pytest.raises(CheckFailed, match="num_beams is nothing that ablab's decoding knows"):
        texts.until("The", {"num_beams": 4})
    with pytest.raises(CheckFailed, match="leaves no room"):
        texts.until("The", {"max_gen_toks": 64})


class FakeLM:
    """What the class of the harness has that ours uses."""


def put_in(monkeypatch: pytest.MonkeyPatch, ended: list[Any]) -> None:
    """Put modules in the place of the harness: its base class, its table of models, its command."""
    table: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {
        "lm_eval": {},
        "lm_eval.api": {},
        "lm_eval.api.model": {"LM": FakeLM},
        "lm_eval.api.registry": {"register_model": lambda name: lambda made: table.setdefault(name, made)},
        "lm_eval.__main__": {"cli_evaluate": lambda: ended.append(table["ablab"])},
    }
    for name, holds in parts.items():
        module = ModuleType(name)
        vars(module).update(holds)
        monkeypatch.setitem(sys.modules, name, module)


def test_the_command_puts_the_model_into_the_table_of_the_harness(
    trained: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[Any] = []
    put_in(monkeypatch, ended)
    monkeypatch.setattr(sys, "argv", ["ablab", "--model", "ablab"])
    assert command.main() == 0 and sys.argv[-2:] == ["--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["ablab", "--model=ablab", "--device=cuda"])
    assert command.main() == 0 and sys.argv[1:] == ["--model=ablab", "--device=cuda"]
    made = ended[0](study=str(trained.path), arm="baseline", runs=str(trained.out), batch_size="auto", max_batch_size=4)
    assert issubclass(ended[0], FakeLM) and made.texts.rows == 4
    assert made.tokenizer_name == made.texts.corpus.fingerprint
    ask = [SimpleNamespace(args=("The 3th", " text")), SimpleNamespace(args=("", "As 3"))]
    assert made.loglikelihood(ask) == made.texts.continuations([one.args for one in ask])
    assert made.loglikelihood_rolling([SimpleNamespace(args=("As 3",))]) == made.texts.whole(["As 3"])
    assert made.generate_until([SimpleNamespace(args=("The", {"max_gen_toks": 3}))]) == [
        made.texts.until("The", {"max_gen_toks": 3})
    ]
    with pytest.raises(CheckFailed, match="ablab has no sed"):
        ended[0](study=str(trained.path), arm="baseline", sed=1)
    for wrong, said in (({"batch_size": 0}, "no number of rows"), ({"max_batch_size": "many"}, "no number of rows"),
                        ({"max_length": 0}, "no number of tokens")):  # fmt: skip
        with pytest.raises(CheckFailed, match=said):
            ended[0](study=str(trained.path), arm="baseline", runs=str(trained.out), **wrong)
    with pytest.raises(InvalidStudy, match="no arm is called 'none'"):
        ended[0](study=str(trained.path), arm="none", runs=str(trained.out))


def test_without_the_harness_the_command_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    assert command.main() == CheckFailed.exit_code
    assert "lm_eval: is not installed" in capsys.readouterr().err
    with pytest.raises(CheckFailed, match="pip install"):
        harness.model()
