"""Bundles that were forged so that every digest fits: what the audit, and the training made again, hold them against."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ablab import report
from ablab.cli import main as cli
from ablab.core.fault import CheckFailed
from ablab.core.sealed import sealed
from ablab.judging import history, judge
from ablab.launch import work
from ablab.launch.bundle import audit as auditor
from ablab.launch.bundle import retrain
from ablab.launch.bundle import write as bundle
from ablab.runs import planning
from ablab.runs.plan import Plan
from ablab.runs.store import Store
from ablab.scoring.scores import Scores, finite
from ablab.study import load

STUDY = """
study = { name = "forged", question = "Who lies?" }
decision = { metric = "bits_per_byte", stage = "packed", matters = 0.01, seeds = 2 }
budget = { tokens = 1_024, batch_tokens = 256 }
data = { source = "text.jsonl", valid_bytes = 2_000, valid_fraction = 0.1, groups = "site" }
model = { layers = "G", d_model = 16, n_heads = 2, seq_len = 32, global = { position = "rope" } }
[stage]
pre_quant = { evaluate = "disjoint" }
packed = { compress = { name = "rtn", bits = 6, small = 1 }, codec = "lzma", evaluate = "disjoint" }
[arm.sink]
model.softmax = "sink"
"""
Change = Callable[[dict[str, Any]], None]
Held = dict[str, Any]


def made(folder: Path, name: str = "runs") -> Plan:
    return planning.make(load(folder / "study.toml"), Store(folder / name), precision="fp32", say=lambda _: None)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """The study, trained and judged."""
    folder, draw = tmp_path_factory.mktemp("study"), np.random.default_rng(1)
    words = ["".join(map(chr, draw.integers(97, 105, 5))) for _ in range(99)]
    rows = [{"text": f"text {i} {' '.join(draw.choice(words, 40))}", "site": f"s{i % 29}"} for i in range(150)]
    (folder / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "study.toml").write_text(STUDY)
    plan = made(folder)
    history.begin(plan)
    for run in plan.runs.values():
        work.do(run, store=plan.store, where=plan.where, mirrors=(), stop=lambda: False, say=lambda _: None)
    report.write(judge.conclude(plan), plan.directory)
    return plan


def forged(done: Plan, to: Path, change: Callable[[Plan], None]) -> Path:
    """A bundle of a copy of the store that was changed, and judged as ablab judges: nothing in it contradicts itself."""
    shutil.copytree(done.study.path.parent, to)
    change(made(to))
    plan = made(to)  # read anew
    answer = judge.conclude(plan)
    report.write(answer, plan.directory)
    bundle.write(plan, answer, to / "forged.zip")
    return to / "forged.zip"


def record(path: Path, change: Change) -> None:
    held = json.loads(path.read_text())
    change(held)
    path.write_text(json.dumps(sealed(held)))


def rescored(folder: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Scores of which one array is another one, and a record that fits."""
    with np.load(folder / "scores.npz") as kept:
        arrays = {key: kept[key] for key in kept.files}
    arrays[name] = change(arrays[name])
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    (folder / "scores.npz").write_bytes(buffer.getvalue())
    metrics = finite(Scores(arrays["nats"], arrays["tokens"], arrays["bytes"]).metrics)

    def told(held: Held) -> None:
        held["metrics"] = metrics
        held["scores"]["sha256"] = hashlib.sha256(buffer.getvalue()).hexdigest()

    record(folder / "result.json", told)


def of_sink(plan: Plan, do: Callable[[Path], None]) -> None:
    """`do` with the folder of every score of the arm."""
    for seed in plan.seeds:
        for key in plan.runs["sink", seed].score_keys.values():
            do(plan.store.score(key))


def more_bytes(plan: Plan) -> None:
    """The text counts twice its bytes, for one arm: half the bits per byte, with the very nats of an honest run."""
    of_sink(plan, lambda folder: rescored(folder, "bytes", lambda held: held * 2))


def smaller(plan: Plan) -> None:
    of_sink(plan, lambda folder: record(folder / "result.json", lambda held: held.update(bytes=9, model_bytes=9)))


def lawless(plan: Plan) -> None:
    """A rule that the arm never violated; taking one out is the same difference."""
    of_sink(
        plan, lambda folder: record(folder / "result.json", lambda held: held.update(violations=["causal: sees on"]))
    )


def hidden(plan: Plan) -> None:
    """Scores that are not looked at, were the record believed."""
    of_sink(plan, lambda folder: rescored(folder, "nats", lambda held: held * 0.9))
    of_sink(plan, lambda folder: record(folder / "result.json", lambda held: held.update(diverged="not really")))


def apart(plan: Plan) -> None:
    """Every held-out document a group of its own: more of them to count, and a narrower interval."""
    [file] = (plan.store.data / "groups").glob("*.json")
    n = len(json.loads(file.read_text())["numbers"])
    record(file, lambda held: held.update(numbers=list(range(n)), groups=[f"s{i}" for i in range(n)]))


def shorter(plan: Plan) -> None:
    """A trajectory that nobody ran through."""
    for seed in plan.seeds:

        def change(held: Held) -> None:
            held["trajectory"][0]["bits_per_byte"] -= 1.0

        record(plan.store.train(plan.runs["sink", seed].train_key) / "done.json", change)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (more_bytes, "other bytes of the documents were scored"),
        (smaller, "bytes is"),
        (lawless, "violations are [] and were ['causal']"),
        (hidden, "must not differ by a bit"),
        (apart, "groups the held-out documents"),
        (shorter, "trajectory[0].bits_per_byte"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_what_fits_itself_does_not_fit_the_training_made_again(
    done: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Plan], None], said: str
) -> None:
    path = forged(done, tmp_path / "study", change)
    monkeypatch.setattr(retrain, "chosen", lambda key, salt, plan: plan.runs["sink", 1])  # what a salt may choose
    found = auditor.audit(path, tmp_path / "audit", data=done.study.path.parent, say=lambda _: None)
    assert any(said in text for text in found.broken), found


def test_scores_of_another_machine_are_compared_though_their_record_says_that_they_mean_nothing(
    done: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(plan: Plan) -> None:
        hidden(plan)
        of_sink(plan, lambda at: record(at / "result.json", lambda held: held.update(machine="another")))
        for run in plan.runs.values():
            record(plan.store.train(run.train_key) / "done.json", lambda held: held.update(machine="another"))

    path = forged(done, tmp_path / "study", elsewhere)
    monkeypatch.setattr(retrain, "chosen", lambda key, salt, plan: plan.runs["sink", 0])
    found = auditor.audit(path, tmp_path / "audit", data=done.study.path.parent, say=lambda _: None)
    assert any("beyond the tolerance" in text for text in found.broken), found


@pytest.mark.parametrize("change", [{"steps": 0}, {"status": "diverged", "fault": "loss is not finite"}], ids=str)
def test_no_run_escapes_the_choice_by_what_it_says_of_its_end(done: Plan, tmp_path: Path, change: Held) -> None:
    shutil.copytree(done.study.path.parent, tmp_path / "study")
    plan = made(tmp_path / "study")
    for seed in plan.seeds:
        record(plan.store.train(plan.runs["sink", seed].train_key) / "done.json", lambda held: held.update(change))
    drawn = [retrain.chosen("a key", str(i), plan) for i in range(40)]
    assert {(run.arm, run.seed) for run in drawn if run} == set(plan.runs)


@pytest.mark.parametrize("threads", [10**9, 0, "all", None])
def test_no_number_of_threads_takes_the_machine_down(done: Plan, tmp_path: Path, threads: object) -> None:
    def change(plan: Plan) -> None:
        for run in plan.runs.values():
            record(plan.store.train(run.train_key) / "done.json", lambda held: held.update(threads=threads))

    if not isinstance(threads, int):  # no record at all: nothing is judged or bundled with it
        with pytest.raises(CheckFailed, match=f"holds {threads!r} for threads, where a whole number belongs"):
            forged(done, tmp_path / "study", change)
        return
    path = forged(done, tmp_path / "study", change)
    found = auditor.audit(path, tmp_path / "audit", data=done.study.path.parent, say=lambda _: None)
    if threads == 10**9:
        assert found.retrained is not None and found.retrained["alike"] is False and found.broken == []
    else:
        assert any(f"says that {threads!r} threads made it" in text for text in found.broken)


def test_a_warning_that_was_left_out_of_the_pages_is_named(done: Plan, tmp_path: Path) -> None:
    shutil.copytree(done.study.path.parent, tmp_path / "study")
    plan = made(tmp_path / "study")
    answer = judge.conclude(plan)
    assert answer["notes"]
    lost = answer["notes"].pop(0)
    answer["notes"].append("checked by somebody whom you trust")
    answer["environment"]["device"] = "cuda"
    (plan.directory / "verdict.json").write_text(json.dumps(answer))
    report.write(answer, plan.directory)
    bundle.write(plan, answer, tmp_path / "forged.zip")
    found = auditor.audit(tmp_path / "forged.zip", tmp_path / "audit", say=lambda _: None)
    assert f"the pages leave out: {lost}" in found.broken
    assert any("device is 'cpu' and was 'cuda'" in text for text in found.broken)
    assert any("somebody whom you trust" in text for text in found.noted)


def test_a_place_where_nothing_runs_is_refused(done: Plan, tmp_path: Path) -> None:
    path = tmp_path / "audited.zip"
    bundle.write(done, json.loads((done.directory / "verdict.json").read_text()), path)
    for where in ({"device": "../x"}, {"device": "meta"}, {"device": "cuda:"}, {"micro_rows": 0}):
        rewritten(path, tmp_path / "other.zip", lambda index, where=where: index["where"].update(where))
        with pytest.raises(CheckFailed, match="which nothing here can"):
            auditor.audit(tmp_path / "other.zip", tmp_path / "b" / str(where.values()), say=lambda _: None)


def rewritten(path: Path, to: Path, change: Change) -> Path:
    with zipfile.ZipFile(path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    index = json.loads(held.pop(bundle.INDEX))
    change(index)
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {bundle.INDEX: json.dumps(sealed(index)).encode(), **held}.items():
            archive.writestr(name, data)
    return to


def test_nothing_of_this_machine_is_bundled_behind_a_link(done: Plan, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("what nobody else may read")
    answer = json.loads((done.directory / "verdict.json").read_text())
    run = done.runs["sink", 0]
    for at, file in enumerate(["metrics.jsonl", "source.json", "../../../secret", "hard", "behind"]):
        shutil.copytree(done.study.path.parent, tmp_path / f"{at}")
        plan = made(tmp_path / f"{at}")
        folder = plan.store.train(run.train_key)
        if file == "../../../secret":
            (tmp_path / f"{at}" / "secret").write_text("what nobody else may read")
            record(folder / "done.json", lambda held: held["weights"].update({"../../../secret": "0"}))
        elif file == "hard":
            (folder / "metrics.jsonl").unlink()
            (folder / "metrics.jsonl").hardlink_to(secret)
        elif file == "behind":
            score = plan.store.score(run.score_keys["packed"])
            score.rename(tmp_path / "elsewhere")
            score.symlink_to(tmp_path / "elsewhere")
        else:
            (folder / file).unlink()
            (folder / file).symlink_to(secret)
        with pytest.raises(CheckFailed, match=r"is a link, lies behind one|is no name of a file"):
            bundle.write(plan, answer, tmp_path / f"{at}.zip", weights=True)
        assert not (tmp_path / f"{at}.zip").exists()


def test_a_script_behind_a_link_is_not_bundled(tmp_path: Path) -> None:
    (tmp_path / "secret.py").write_text("token = 7")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "train.py").symlink_to(tmp_path / "secret.py")
    (tmp_path / "study" / "text.jsonl").write_text("{}")
    text = STUDY.replace('codec = "lzma"', 'codec = "lzma", code = "train.py"')
    (tmp_path / "study" / "study.toml").write_text(text)
    study = load(tmp_path / "study" / "study.toml")
    plan = Plan(study, Store(tmp_path / "runs"), None, {}, {})  # type: ignore[arg-type]
    with pytest.raises(CheckFailed, match="leads out of the study's folder"):
        list(bundle._scripts(plan))


def test_the_file_that_nobody_named_is_written_through_no_link(
    done: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "forged.zip").symlink_to(tmp_path / "mine")
    monkeypatch.chdir(tmp_path / "here")
    asked = ["bundle", str(done.study.path), "--out", str(done.store.root)]
    refused = CliRunner().invoke(cli.app, asked)
    assert "nothing is written through a link" in str(refused.exception)
    assert (tmp_path / "mine").read_text() == "mine"
    assert CliRunner().invoke(cli.app, [*asked, "--to", "forged.zip"]).exit_code == 0  # a person's own link
    assert (tmp_path / "mine").read_bytes()[:2] == b"PK"


def archive(to: Path, members: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED, **index: Any) -> Path:
    told = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in members.items()}
    head = {
        "format": 1,
        "corpora": {},
        "counts": {},
        "weights": {},
        "where": {},
        "runs": [],
        "root": "runs",
        "study": "x",
    }
    with zipfile.ZipFile(to, "w", how) as file:
        file.writestr(bundle.INDEX, json.dumps(sealed({**head, "members": told, **index})))
        for name, data in members.items():
            file.writestr(name, data)
    return to


def encrypted(path: Path) -> Path:
    """The archive with the flag that says so, in both of its headers."""
    data = bytearray(path.read_bytes())
    for sign, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = data.find(sign)
        while place >= 0:
            data[place + at] |= 1
            place = data.find(sign, place + 4)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda to: archive(to, {bundle.STUDY: b"x"}, zipfile.ZIP_LZMA), "packed otherwise"),
        (lambda to: archive(to, {bundle.STUDY: b"x"}, zipfile.ZIP_BZIP2), "packed otherwise"),
        (lambda to: encrypted(archive(to, {bundle.STUDY: b"x"})), "cannot be read as a bundle"),
        (lambda to: archive(to, {bundle.STUDY: b"x", "study/a": b"x", "study/a/b": b"x"}), "cannot both be written"),
        (lambda to: archive(to, {bundle.STUDY: b"x", "study/A": b"x", "study/a": b"x"}), "cannot both be written"),
        (lambda to: archive(to, {bundle.STUDY: b"x", f"study/{'a' * 400}": b"x"}), "cannot both be written"),
        (lambda to: archive(to, {bundle.STUDY: b"x"}, root="r" * 300), "names no store"),
        (lambda to: archive(to, {bundle.STUDY: b"x"}, commit=[[[]]] * 5_000_000), "cannot be read as a bundle"),
        (
            lambda to: archive(to, {bundle.STUDY: b"x", "store/train/a/w.safetensors": bytes(1 << 21)}),
            "would take more",
        ),
    ],
    ids=["xz", "bzip2", "encrypted", "below", "case", "long", "root", "brackets", "bomb"],
)
def test_an_archive_that_is_no_bundle_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Path], said: str
) -> None:
    monkeypatch.setattr(bundle, "FREE", 1 << 20)
    with pytest.raises(CheckFailed, match=said):
        auditor.audit(make(tmp_path / "x.zip"), tmp_path / "audit", say=lambda _: None)
