"""One stage of a run: weights to bytes to scores, and every way in which its files can be wrong."""

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import tiny
from tests.conformance.held_out import stages, text_corpus

from ablab.artifact import codecs, compressors
from ablab.artifact import pack as artifact
from ablab.artifact.blob import RESULT
from ablab.artifact.compressors.calibration import Calibration
from ablab.core.fault import CheckFailed
from ablab.core.files import read_json
from ablab.data import Corpus
from ablab.model.decoder import Decoder, build
from ablab.records.result import Result
from ablab.records.run import Where
from ablab.scoring import stage
from ablab.scoring.evaluators.disjoint import Disjoint
from ablab.scoring.scores import Scores, finite
from ablab.scoring.stage import run_stage

SEQ_LEN = 64


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return text_corpus(tmp_path_factory.mktemp("text"))


def asked(**table: Any) -> dict[str, Any]:
    few = {"name": "needle", "items": 2}
    default = {
        "pre": {"evaluate": "disjoint"},
        "again": {"after": "pre", "evaluate": "disjoint"},
        "needle": {"evaluate": few},
    }
    settings = tiny.settings(model=tiny.model(seq_len=SEQ_LEN))
    settings["stage"] = stages(**(table or default))
    return settings


@pytest.fixture
def weights(tmp_path: Path, corpus: Corpus) -> Path:
    model = build(asked()["model"], vocab_size=corpus.vocab_size, seed=7)
    keep(dict(model.state_dict()), tmp_path / "weights.safetensors", corpus)
    return tmp_path / "weights.safetensors"


def keep(tensors: dict[str, Any], path: Path, corpus: Corpus) -> None:
    """Weights as a training leaves them: with the hash of their tokenizer."""
    save_file(tensors, path, {"tokenizer": corpus.fingerprint})


def read_stage(out: Path) -> tuple[Any, Scores]:
    """What a stage left in `out`, as judging reads it."""
    result = read_json(out / RESULT, form=Result)
    return result, Scores.load(out, result)


def run(name: str, weights: Path, corpus: Corpus, settings: dict[str, Any] | None = None, **how: Any) -> dict[str, Any]:
    settings = settings or asked()
    folders = {known: weights.parent / known for known in settings["stage"]}
    how = {"seed": 1, "where": tiny.WHERE, **how}
    return run_stage(settings, name, weights=weights, corpus=corpus, folders=folders, **how)


def packed(compress: dict[str, Any], tensors: dict[str, Any], calibration: Any = None, codec: str = "raw") -> bytes:
    return artifact.pack(compress, tiny.choice(codecs.slot, codec), tensors, calibration)[0]


def small(name: str) -> dict[str, Any]:
    """A compressor at the size of this model: its matrices are not passed through."""
    sizes = {"small": 200, **({"tokens": 512} if name == "gptq" else {})}
    choice: dict[str, Any] = tiny.choice(compressors.slot, {"name": name, **(sizes if name != "keep" else {})})
    return choice


@pytest.mark.parametrize("codec", codecs.slot.names)
@pytest.mark.parametrize("name", compressors.slot.names)
def test_a_file_scores_as_its_weights_did_in_memory(name: str, codec: str, weights: Path, corpus: Corpus) -> None:
    """Packed, written, read and unpacked: exact for every compressor and codec, and sizes are those of files."""
    tensors, choice = load_file(weights), small(name)
    stage_of = {"one": {"compress": choice, "codec": codec, "evaluate": "disjoint"}}
    settings = asked(**stage_of, again={"after": "one", "evaluate": "disjoint"})
    settings["stage"]["again"] |= {k: settings["stage"]["one"][k] for k in ("compress", "codec")}
    result, other = (run(stage_name, weights, corpus, settings) for stage_name in ("one", "again"))

    def fresh() -> Decoder:
        model = build(settings["model"], vocab_size=corpus.vocab_size, seed=1)
        model.load_state_dict(tensors)
        return model

    calibration = Calibration(fresh, corpus, SEQ_LEN, seed=1, precision="fp32")
    lever = compressors.slot.build(choice)
    found = lever.quantise(dict(tensors), calibration)
    model = fresh()
    model.load_state_dict(lever.restore(found.parts, found.meta))
    in_memory = Disjoint()(model, corpus, settings, seed=1, precision="fp32")
    assert np.array_equal(read_stage(weights.parent / "one")[1].nats, in_memory.nats)
    assert np.array_equal(read_stage(weights.parent / "again")[1].nats, in_memory.nats)
    size = (weights.parent / "one" / "blob").stat().st_size
    assert result["model_bytes"] == result["bytes"] == other["bytes"] == size and result["violations"] == []
    assert result["artifact"] == other["artifact"] and result["artifact"]["raw_bytes"] > 0
    assert (name == "keep") == np.array_equal(
        in_memory.nats, Disjoint()(fresh(), corpus, settings, seed=1, precision="fp32").nats
    )


def test_code_counts_to_the_artifact(weights: Path, corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text('"""Says hello."""\n\nprint("hello")  # loudly\n')
    settings = asked(one={"code": str(tmp_path / "train.py"), "evaluate": "disjoint"})
    result = run("one", weights, corpus, settings)
    assert result["code_bytes"] == artifact.code_bytes(tmp_path / "train.py") > 0
    assert result["bytes"] == result["model_bytes"] + result["code_bytes"]
    settings["stage"]["one"]["code"] = str(tmp_path / "none.py")
    with pytest.raises(CheckFailed, match=r"stage.one.code: .*none.py"):
        run("one", weights, corpus, settings)


def test_windows_hold_for_one_evaluation_only(weights: Path, corpus: Corpus) -> None:
    settings = asked(
        plain={"evaluate": "disjoint"},
        same={"evaluate": "disjoint", "windows": {"local": 8}},
        less={"evaluate": "disjoint", "windows": {"local": 4}},
        all={"evaluate": "disjoint", "windows": {"local": 0}},
        again={"evaluate": "disjoint"},
    )
    nats = {}
    for name in settings["stage"]:
        run(name, weights, corpus, settings)
        nats[name] = read_stage(weights.parent / name)[1].nats
    assert np.array_equal(nats["plain"], nats["same"]) and np.array_equal(nats["plain"], nats["again"])
    trained = asked()["model"]
    for name, window in (("less", 4), ("all", None)):
        trained["kinds"]["L"]["window"] = window
        model = build(trained, vocab_size=corpus.vocab_size, seed=7)
        assert np.array_equal(nats[name], Disjoint()(model, corpus, settings, seed=1, precision="fp32").nats)
        assert not np.array_equal(nats[name], nats["plain"])


def test_a_stage_whose_training_diverges_says_so(weights: Path, corpus: Corpus) -> None:
    ttt = {"name": "ttt_sgd", "chunk": SEQ_LEN, "optimizer": {"lr": 1.0, "clip": 0.0}}
    result = run("wild", weights, corpus, asked(wild={"evaluate": ttt}))
    assert result["diverged"] and result["metrics"] == {"nats_per_token": None, "bits_per_byte": None}
    assert result["violations"] == []
    assert np.isnan(read_stage(weights.parent / "wild")[1].nats).all()


@pytest.mark.parametrize("kind", ["pickle", "cut", "flipped"])
def test_damaged_bytes_of_another_stage_are_refused(kind: str, weights: Path, corpus: Corpus) -> None:
    run("pre", weights, corpus)
    path = weights.parent / "pre" / "blob"
    blob = path.read_bytes()
    bad = {
        "pickle": pickle.dumps({"a": 1}),
        "cut": blob[:-5],
        "flipped": blob[:99] + bytes([blob[99] ^ 1]) + blob[100:],
    }
    path.write_bytes(bad[kind])
    with pytest.raises(CheckFailed, match=r"stage 'again' would not evaluate the bytes that stage 'pre' counted"):
        run("again", weights, corpus)


def test_result_says_everything(weights: Path, corpus: Corpus) -> None:
    result = run("pre", weights, corpus)
    out = weights.parent / "pre"
    assert json.loads((out / "result.json").read_text()) == result
    assert result["violations"] == [] and result["probe"] is None and result["stage"] == "pre"
    assert result["bytes"] == len(packed({"name": "keep"}, load_file(weights))) == (out / "blob").stat().st_size
    assert result["blob"] == hashlib.sha256((out / "blob").read_bytes()).hexdigest()
    assert result["seconds"] == pytest.approx(sum(result["timing"].values())) and result["peak_bytes"] > 1 << 20
    assert result["bands"]["edges"] == [0, 1, 2, 4, 8, 16, 32, 64]
    again, scores = read_stage(out)
    assert again == result
    assert result["metrics"] == {"nats_per_token": scores.nats_per_token, "bits_per_byte": scores.bits_per_byte}
    assert sorted(path.name for path in out.iterdir()) == ["blob", "result.json", "scores.npz", "source.json"]


def test_file_scores_as_memory(weights: Path, corpus: Corpus) -> None:
    run("pre", weights, corpus)
    model = build(asked()["model"], vocab_size=corpus.vocab_size, seed=7)
    in_memory = Disjoint()(model, corpus, asked(), seed=1, precision="fp32")
    assert np.array_equal(read_stage(weights.parent / "pre")[1].nats, in_memory.nats)


def test_scores_do_not_depend_on_the_seed_of_the_stage(weights: Path, corpus: Corpus) -> None:
    one = run("pre", weights, corpus)
    assert run("pre", weights, corpus, seed=99)["scores"] == one["scores"]


@pytest.mark.parametrize("precision, executor", [("bf16", "lift"), ("fp32", "reference"), ("fp64", "reference")])
def test_precisions_and_executors_agree(precision: str, executor: str, weights: Path, corpus: Corpus) -> None:
    where = Where("cpu", precision, executor, 4)
    plain, other = run("pre", weights, corpus), run("pre", weights, corpus, where=where)
    assert other["violations"] == [] and other["blob"] == plain["blob"]
    close = 1e-2 if precision == "bf16" else 1e-6
    assert other["metrics"]["nats_per_token"] == pytest.approx(plain["metrics"]["nats_per_token"], rel=close)


def test_probe_is_no_metric(weights: Path, corpus: Corpus) -> None:
    result = run("needle", weights, corpus)
    assert result["metrics"] == {"nats_per_token": None, "bits_per_byte": None} and result["violations"] == []
    assert {"score", "acc", "induction", "passkey", "chance", "items"} <= result["probe"].keys()
    assert read_stage(weights.parent / "needle")[1].extra == result["probe"]
    assert not (weights.parent / "needle" / "blob").exists()  # no stage is built on it


# ---- after


def test_after_scores_the_same_bytes(weights: Path, corpus: Corpus) -> None:
    first, second = run("pre", weights, corpus), run("again", weights, corpus)
    assert (first["blob"], first["bytes"], first["metrics"]) == (second["blob"], second["bytes"], second["metrics"])
    assert not (weights.parent / "again" / "blob").exists()


def test_after_packs_again_where_the_bytes_were_not_kept(weights: Path, corpus: Corpus) -> None:
    first = run("pre", weights, corpus)
    (weights.parent / "pre" / "blob").unlink()
    assert run("again", weights, corpus)["blob"] == first["blob"]


def test_after_does_not_need_the_weights_where_bytes_are_kept(weights: Path, corpus: Corpus) -> None:
    first = run("pre", weights, corpus)
    weights.unlink()
    assert run("again", weights, corpus)["metrics"] == first["metrics"]


def test_after_refuses_other_bytes(weights: Path, corpus: Corpus) -> None:
    run("pre", weights, corpus)
    blob = weights.parent / "pre" / "blob"
    blob.write_bytes(packed({"name": "keep"}, {k: v + 1 for k, v in load_file(weights).items()}))
    with pytest.raises(CheckFailed, match="stage 'again' would not evaluate the bytes that stage 'pre' counted"):
        run("again", weights, corpus)
    assert not (weights.parent / "again").exists()


def test_a_chain_of_after_ends_at_its_root(weights: Path, corpus: Corpus) -> None:
    settings = asked(
        pre={"evaluate": "disjoint"},
        b={"after": "pre", "evaluate": "disjoint"},
        c={"after": "b", "evaluate": {"name": "disjoint", "documents": 2}},
    )
    first = run("pre", weights, corpus, settings)
    third = run("c", weights, corpus, settings)
    assert third["blob"] == first["blob"] and third["violations"] == []
    assert len(read_stage(weights.parent / "c")[1].nats) == 2


@pytest.mark.parametrize(
    "table, text",
    [
        ({"a": "b", "b": "a"}, "stage.b.after: 'a' stands after itself; break the circle"),
        ({"a": "nowhere"}, "stage.a.after: there is no stage 'nowhere'; known: a"),
    ],
)
def test_broken_chains_are_refused(table: dict[str, str], text: str, weights: Path, corpus: Corpus) -> None:
    settings = asked(**{name: {"after": after, "evaluate": "disjoint"} for name, after in table.items()})
    with pytest.raises(CheckFailed, match=text):
        run("a", weights, corpus, settings)


# ---- violations are words, not exceptions


def sabotage(monkeypatch: pytest.MonkeyPatch, kind: type[Decoder]) -> None:
    def built(*args: Any, **how: Any) -> Decoder:
        model = build(*args, **how)
        model.__class__ = kind
        return model

    monkeypatch.setattr(stage, "build", built)


def test_violations_are_returned(weights: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    class Future(Decoder):
        def forward(self, tokens_BT: torch.Tensor, ids_BT: torch.Tensor, *rest: Any) -> torch.Tensor:
            return super().forward(tokens_BT, ids_BT, *rest) + self.embed(tokens_BT.roll(-1, 1))

    sabotage(monkeypatch, Future)
    violations = run("pre", weights, corpus)["violations"]
    assert violations[0].startswith("C1 causal: a later token changed moves an earlier nll by ")
    assert read_stage(weights.parent / "pre")[1].violations == violations


def test_a_model_that_learns_while_it_is_scored_is_named(
    weights: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Learner(Decoder):
        def nll(self, *batch: torch.Tensor) -> torch.Tensor:
            self.final_norm.weight.mul_(1 + 1e-6)
            return super().nll(*batch)

    sabotage(monkeypatch, Learner)
    assert "weights: the evaluation changed the model" in run("pre", weights, corpus)["violations"]


def test_a_report_that_no_reader_would_take_is_refused_and_not_written(
    weights: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, told = Disjoint.score, {"updates": "often"}
    monkeypatch.setattr(Disjoint, "score", lambda *parts: {**real(*parts), **told})
    with pytest.raises(CheckFailed) as raised:
        run("pre", weights, corpus)
    fault = "it holds 'often' for extra.updates, where a whole number belongs"
    cure = "report that under another name, or as ablab.records.result has it"
    said = "stage.pre: its evaluator or compressor reports what no result holds"
    assert str(raised.value) == f"{said} ({fault}); {cure}"
    assert not (weights.parent / "pre" / "result.json").exists()
    told = {"how_often": "often"}
    assert run("pre", weights, corpus)["extra"] == told
    told = {"updates": 3}
    assert run("pre", weights, corpus)["extra"] == read_stage(weights.parent / "pre")[1].extra == told


def test_lost_documents_are_named(weights: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Disjoint.__call__

    def short(self: Disjoint, *args: Any, **how: Any) -> Scores:
        found = real(self, *args, **how)
        return Scores(found.nats, found.tokens - (np.arange(len(found.tokens)) == 3), found.bytes // 2)

    monkeypatch.setattr(Disjoint, "__call__", short)
    violations = run("pre", weights, corpus)["violations"]
    total = corpus.valid.n_targets
    assert violations[0].startswith(f"tokens: {total - 1} were scored, the corpus has {total} (first at document 3: ")
    assert violations[1].startswith("bytes: ")


def test_weights_that_are_not_finite_are_no_exception(weights: Path, corpus: Corpus) -> None:
    keep({k: v * float("nan") for k, v in load_file(weights).items()}, weights, corpus)
    result = run("pre", weights, corpus)
    assert result["metrics"] == {"nats_per_token": None, "bits_per_byte": None} and result["violations"]
    assert np.isnan(read_stage(weights.parent / "pre")[1].nats).all()


# ---- files that are wrong


@pytest.mark.parametrize("how", ["truncated", "edited", "missing"])
def test_scores_that_are_not_those_scored(how: str, weights: Path, corpus: Corpus) -> None:
    run("pre", weights, corpus)
    out = weights.parent / "pre"
    path = out / "scores.npz"
    found = Scores.load(out, json.loads((out / "result.json").read_text()))
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "edited":
        found.nats[0] -= 1
        found.save(out)
    else:
        path.unlink()
    fault = "cannot be read" if how == "missing" else "is not the file that was scored"
    with pytest.raises(CheckFailed, match=rf"scores\.npz: {fault}.*; delete .*pre to have the stage run again"):
        read_stage(out)


def test_a_result_cut_short_is_named(weights: Path, corpus: Corpus) -> None:
    run("pre", weights, corpus)
    path = weights.parent / "pre" / "result.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(CheckFailed, match=r"result\.json: cannot be read .*; delete it to have it made again"):
        read_stage(weights.parent / "pre")


@pytest.mark.parametrize("how", ["missing", "truncated"])
def test_weights_that_cannot_be_read(how: str, weights: Path, corpus: Corpus) -> None:
    if how == "missing":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(
        CheckFailed, match=r"weights\.safetensors: cannot be read .*; delete its directory to train again"
    ):
        run("pre", weights, corpus)


@pytest.mark.parametrize("made, said", [("0" * 64, "made with the tokenizer 000000000000"), ("", "made with no known")])
def test_weights_of_another_tokenizer_are_not_scored(weights: Path, corpus: Corpus, made: str, said: str) -> None:
    save_file(load_file(weights), weights, {"tokenizer": made} if made else None)
    with pytest.raises(
        CheckFailed, match=rf"weights.safetensors: {said}.*this corpus has {corpus.fingerprint[:12]}; score"
    ):
        run("pre", weights, corpus)


def test_weights_of_another_model(weights: Path, corpus: Corpus) -> None:
    tensors = load_file(weights)
    tensors["strange"] = tensors.pop("final_norm.weight")
    keep(tensors, weights, corpus)
    with pytest.raises(CheckFailed, match=r"the weights are of another model .*final_norm\.weight.*strange"):
        run("pre", weights, corpus)


def test_settings_that_do_not_fit_name_the_stage(weights: Path, corpus: Corpus) -> None:
    settings = asked(far={"evaluate": {"name": "needle", "lengths": [4096]}})
    with pytest.raises(CheckFailed, match=r"stage\.far\.evaluate: needle: lengths: 4096 is more than seq_len 64; give"):
        run("far", weights, corpus, settings)


def test_nothing_is_left_by_a_stage_that_fails(weights: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Scores, directory: Path) -> dict[str, str]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Scores, "save", full)
    with pytest.raises(OSError):
        run("needle", weights, corpus)
    assert not (weights.parent / "needle" / "result.json").exists()


# ---- scores


def test_scores_come_back_as_saved(tmp_path: Path) -> None:
    scores = Scores(
        np.array([0.1, np.nan]), np.array([3, 0]), np.array([5, 0]), {"edges": [0, 1]}, {"x": [1, None]}, ["C1: no"]
    )
    saved = scores.save(tmp_path)
    assert scores.save(tmp_path) == saved
    back = Scores.load(tmp_path, {"scores": saved, "metrics": finite(scores.metrics)})
    assert np.array_equal(back.nats, scores.nats, equal_nan=True) and back.tokens.tolist() == [3, 0]
    assert (back.bands, back.extra, back.violations) == (scores.bands, scores.extra, scores.violations)
    assert (back.nats.dtype, back.tokens.dtype, back.bytes.dtype) == (np.float64, np.int64, np.int64)


def test_scores_that_hold_something_else(tmp_path: Path) -> None:
    np.savez(tmp_path / "scores.npz", nats=np.zeros(2))
    digest = hashlib.sha256((tmp_path / "scores.npz").read_bytes()).hexdigest()
    with pytest.raises(CheckFailed, match="does not hold scores"):
        Scores.load(tmp_path, {"scores": {"sha256": digest}})


def test_scores_with_a_pickle_are_refused(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "scores.npz", nats=np.array([{}], dtype=object), tokens=np.zeros(1), bytes=np.zeros(1), json=b"{}"
    )
    digest = hashlib.sha256((tmp_path / "scores.npz").read_bytes()).hexdigest()
    with pytest.raises(CheckFailed, match="does not hold scores"):
        Scores.load(tmp_path, {"scores": {"sha256": digest}})


def test_scores_of_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="give one entry per document to each"):
        Scores(np.zeros(2), np.zeros(3), np.zeros(2))


def test_finite_makes_plain_json() -> None:
    made = finite(
        {1: np.float32(0.5), "a": [np.nan, np.inf, np.int64(3), (True, None)], "b": np.arange(2), "c": np.bool_(True)}
    )
    assert made == {"1": 0.5, "a": [None, None, 3, [True, None]], "b": [0, 1], "c": True}
    assert json.loads(json.dumps(made, allow_nan=False)) == made
