"""A bundle of a study that was really trained: nothing of the machine is in it, and whatever is changed in it is found."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import random
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
from ablab.core.fault import CheckFailed, Refused
from ablab.core.sealed import sealed
from ablab.judging import history, judge
from ablab.launch import work
from ablab.launch.bundle import audit as auditor
from ablab.launch.bundle import retrain
from ablab.launch.bundle import write as bundle
from ablab.runs import planning
from ablab.runs.plan import Plan
from ablab.runs.store import Store
from ablab.scoring.scores import Scores
from ablab.study import load, trusted
from ablab.training.metrics import Mirrored
from ablab.training.mirrors import Copy

STUDY = """
study = { name = "sealed", question = "Does a sink help?" }
decision = { metric = "nats_per_token", stage = "packed", matters = 0.01, seeds = 2 }
budget = { tokens = 2_048, batch_tokens = 256 }
data = { source = "text.jsonl", valid_bytes = 3_000, valid_fraction = 0.1, groups = "site" }
model = { layers = "G", d_model = 16, n_heads = 2, seq_len = 32, global = { position = "rope" } }
[stage]
pre_quant = { evaluate = "disjoint" }
packed = { compress = { name = "rtn", bits = 6 }, codec = "zlib", code = "train.py", evaluate = "disjoint" }
[arm.sink]
model.softmax = "sink"
"""
Index = dict[str, Any]
Members = dict[str, bytes]


def texts(path: Path, seed: int = 1) -> None:
    draw = random.Random(seed)
    words = ["".join(draw.choice("abcdefgh") for _ in range(5)) for _ in range(99)]
    rows = [
        {"text": f"text {i} " + " ".join(draw.choice(words) for _ in range(40)), "site": f"s{i % 29}"}
        for i in range(150)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path]:
    """The study, trained and judged, and its bundle."""
    folder = tmp_path_factory.mktemp("study")
    texts(folder / "text.jsonl")
    (folder / "train.py").write_text("print('counted')\n")
    (folder / "study.toml").write_text(STUDY.replace("zlib", "lzma"))
    plan = planning.make(load(folder / "study.toml"), Store(folder / "runs"), precision="fp32", say=lambda _: None)
    history.begin(plan)
    for run in plan.runs.values():
        work.do(run, store=plan.store, where=plan.where, mirrors=(), stop=lambda: False, say=lambda _: None)
    answer = judge.conclude(plan)
    report.write(answer, plan.directory)
    bundle.write(plan, answer, folder / "sealed.zip")
    return plan, folder / "sealed.zip"


def taken(path: Path) -> tuple[Index, Members]:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    return json.loads(members.pop(bundle.INDEX)), members


def forged(path: Path, to: Path, change: Callable[[Members], None]) -> Path:
    """A bundle with other members whose index and digests were made to fit: what nothing but looking closer finds."""
    index, members = taken(path)
    change(members)
    told = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in members.items()}
    return written(sealed({**index, "members": told}), members, to)


def written(index: Index, members: Members, to: Path) -> Path:
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {bundle.INDEX: json.dumps(index).encode(), **members}.items():
            archive.writestr(name, data)
    return to


def of(plan: Plan, arm: str, seed: int, stage: str) -> str:
    return f"store/score/{plan.runs[arm, seed].score_keys[stage]}"


def record(members: Members, name: str, change: Callable[[dict[str, Any]], None], *, seal: bool = True) -> None:
    held = json.loads(members[name])
    change(held)
    members[name] = json.dumps(sealed(held) if seal else held, indent=1).encode()


def rescored(members: Members, name: str, shift: float) -> None:
    """The scores of a stage, every document `shift` nats per token worse, and a record that says so."""
    with np.load(io.BytesIO(members[f"{name}/scores.npz"])) as held:
        arrays = {key: held[key] for key in held.files}
    arrays["nats"] = arrays["nats"] + shift * arrays["tokens"]
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    members[f"{name}/scores.npz"] = buffer.getvalue()
    scores = Scores(arrays["nats"], arrays["tokens"], arrays["bytes"])

    def told(result: dict[str, Any]) -> None:
        result["metrics"] = scores.metrics
        result["scores"]["sha256"] = hashlib.sha256(buffer.getvalue()).hexdigest()

    record(members, f"{name}/result.json", told)


def test_an_honest_bundle_holds_and_its_training_is_the_same_bit_for_bit(
    done: tuple[Plan, Path], tmp_path: Path
) -> None:
    plan, path = done
    found = auditor.audit(path, tmp_path, data=plan.study.path.parent, salt="mine", say=lambda _: None)
    assert (found.broken, found.noted, len(found.held)) == ([], [], 9)
    assert found.retrained is not None and found.retrained["alike"] is True
    assert found.retrained["differences"] == {"pre_quant": 0.0, "packed": 0.0}
    assert "bit for bit" in found.retrained["sentence"]


def test_no_member_names_a_folder_of_the_machine_and_none_holds_text_or_weights(done: tuple[Plan, Path]) -> None:
    plan, path = done
    index, members = taken(path)
    for name, data in {**members, "index": json.dumps(index).encode()}.items():
        assert str(plan.study.path.parent).encode() not in data, name
    held = plan.study.path.parent / "text.jsonl"
    secret = json.loads(held.read_text().splitlines()[0])["text"][:20].encode()
    assert not any(secret in data for data in members.values())
    assert not any(name.endswith((".safetensors", ".tokens", ".bytes")) for name in members)


def test_two_bundles_of_one_judgement_are_the_same_bytes_and_weights_come_when_asked(
    done: tuple[Plan, Path], tmp_path: Path
) -> None:
    plan, _ = done
    answer = json.loads((plan.directory / "verdict.json").read_text())
    first, second, heavy = (tmp_path / name for name in ("a.zip", "b.zip", "c.zip"))
    bundle.write(plan, answer, first)
    bundle.write(plan, answer, second)
    assert first.read_bytes() == second.read_bytes()
    index = bundle.write(plan, answer, heavy, weights=True)
    assert sum(name.endswith("weights.safetensors") for name in index["members"]) == len(plan.runs)
    assert auditor.audit(heavy, tmp_path / "audit", say=lambda _: None).broken == []


def winner(members: Members, plan: Plan) -> None:
    record(members, "store/studies/sealed/verdict.json", lambda held: held.update(winner="sink"), seal=False)


def delta(members: Members, plan: Plan) -> None:
    def shift(held: dict[str, Any]) -> None:
        held["arms"][1]["delta"] = -0.5

    record(members, "store/studies/sealed/verdict.json", shift, seal=False)


def level(members: Members, plan: Plan) -> None:
    def shift(held: dict[str, Any]) -> None:
        held["metrics"]["nats_per_token"] -= 0.001

    record(members, of(plan, "sink", 0, "packed") + "/result.json", shift)


def scores(members: Members, plan: Plan) -> None:
    name = of(plan, "sink", 1, "pre_quant")
    members[f"{name}/scores.npz"] = members[of(plan, "baseline", 1, "pre_quant") + "/scores.npz"]


def unsealed(members: Members, plan: Plan) -> None:
    name = f"store/train/{plan.runs['sink', 1].train_key}/done.json"
    record(members, name, lambda held: held.update(seconds=0.1), seal=False)


def both(members: Members, plan: Plan) -> None:
    """Scores and records moved together: only the verdict, which was not, tells."""
    for seed in plan.seeds:
        rescored(members, of(plan, "sink", seed, "packed"), -0.05)


def loss(members: Members, plan: Plan) -> None:
    name = f"store/train/{plan.runs['sink', 0].train_key}/metrics.jsonl"
    members[name] = members[name].replace(b'"loss": ', b'"loss": 1', 1)


def cut(members: Members, plan: Plan) -> None:
    name = f"store/train/{plan.runs['sink', 0].train_key}/metrics.jsonl"
    members[name] = b"".join(members[name].splitlines(keepends=True)[:-1])


def decision(members: Members, plan: Plan) -> None:
    lines = members["store/decisions.jsonl"].splitlines(keepends=True)
    members["store/decisions.jsonl"] = b"".join([lines[0].replace(b'"ended": 0', b'"ended": 1', 1), *lines[1:]])


def page(members: Members, plan: Plan) -> None:
    name = "store/studies/sealed/report.html"
    members[name] = members[name].replace(b"inconclusive", b"better", 1)
    assert b"better" in members[name]


def seeds(members: Members, plan: Plan) -> None:
    """A run that is left out: its record is gone, and the verdict still counts it."""
    for name in [name for name in members if plan.runs["sink", 1].train_key in name]:
        del members[name]


def odd(members: Members, plan: Plan) -> None:
    record(members, "store/studies/sealed/verdict.json", lambda held: held.update(data=7, arms=None), seal=False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (winner, "winner is"),
        (delta, "arms[1].delta is"),
        (level, "does not come to what result.json says of it"),
        (scores, "is not the file that was scored"),
        (unsealed, "was changed after it was written"),
        (both, "judged again, "),
        (loss, "metrics.jsonl: line 1 is not what was written there"),
        (cut, "metrics.jsonl: its end is missing"),
        (decision, "decisions.jsonl: line 1 is not what was written there"),
        (page, "report.html is not the page of its verdict.json"),
        (seeds, "judged again, "),
        (odd, "cannot be looked through"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_what_was_changed_is_found_though_every_hash_was_made_to_fit(
    done: tuple[Plan, Path], tmp_path: Path, change: Callable[[Members, Plan], None], said: str
) -> None:
    plan, path = done
    other = forged(path, tmp_path / "other.zip", lambda members: change(members, plan))
    found = auditor.audit(other, tmp_path / "audit", say=lambda _: None)
    assert any(said in text for text in found.broken), found.broken


def test_a_flipped_byte_a_cut_and_another_index_are_refused(done: tuple[Plan, Path], tmp_path: Path) -> None:
    _, path = done
    index, members = taken(path)
    data, name = path.read_bytes(), next(name for name in members if name.endswith("metrics.jsonl"))
    (tmp_path / "cut.zip").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.zip").write_text("no archive")
    written(index, {**members, name: members[name][:-1] + b" "}, tmp_path / "flipped.zip")
    written(index, {k: v for k, v in members.items() if k != name}, tmp_path / "missing.zip")
    written(index, {**members, "store/extra.json": b"{}"}, tmp_path / "extra.zip")
    written({**index, "commit": "another"}, members, tmp_path / "index.zip")
    written(sealed({**index, "format": 2}), members, tmp_path / "format.zip")
    for one in sorted(tmp_path.glob("*.zip")):
        with pytest.raises(CheckFailed) as refused:
            auditor.audit(one, tmp_path / one.stem, say=lambda _: None)
        assert str(refused.value).startswith(str(one)), one.name


@pytest.mark.parametrize(
    "name",
    [
        "../out",
        "/tmp/out",
        "store/../../out",
        "store/.hidden/x",
        "elsewhere/x",
        "store//x",
        "store/a\\..\\b",
        "store/x/",
    ],
)
def test_no_member_is_written_outside(done: tuple[Plan, Path], tmp_path: Path, name: str) -> None:
    _, path = done
    other = forged(path, tmp_path / "other.zip", lambda members: members.update({name: b"written"}))
    with pytest.raises(CheckFailed, match="lists a member that no bundle has"):
        auditor.audit(other, tmp_path / "audit", say=lambda _: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.zip"]


def test_an_audit_runs_no_lever_file(done: tuple[Plan, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one that lies in the bundle, nor one that the auditor once allowed where it lies."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    mine = tmp_path / "mine.py"
    mine.write_text(f"open({str(tmp_path / 'ran.txt')!r}, 'w')\n")
    trusted.allow(mine)
    for number, file in enumerate((str(mine), "theirs.py")):

        def change(members: Members, file: str = file) -> None:
            members[bundle.STUDY] = f"levers.from = [{json.dumps(file)}]\n".encode() + members[bundle.STUDY]
            members["study/theirs.py"] = mine.read_bytes()

        other = forged(done[1], tmp_path / f"other{number}.zip", change)
        with pytest.raises(CheckFailed, match="names lever files, whose code a bundle does not carry"):
            auditor.audit(other, tmp_path / f"audit{number}", say=lambda _: None)
    assert not (tmp_path / "ran.txt").exists()


def test_a_member_that_expands_beyond_what_the_index_says_is_not_read_to_its_end(
    done: tuple[Plan, Path], tmp_path: Path
) -> None:
    index, members = taken(done[1])
    name = next(name for name in members if name.endswith("metrics.jsonl"))
    other = written(index, {**members, name: bytes(64 << 20)}, tmp_path / "other.zip")
    assert other.stat().st_size < 1 << 20
    with pytest.raises(CheckFailed, match="is not the file that was bundled"):
        auditor.audit(other, tmp_path / "audit", say=lambda _: None)
    largest = max(path.stat().st_size for path in (tmp_path / "audit").rglob("*") if path.is_file())
    assert largest <= max(one["size"] for one in index["members"].values())
    huge = {key: dict(told, size=1 << 50) if key == name else told for key, told in index["members"].items()}
    with pytest.raises(CheckFailed, match="would take more than"):
        auditor.audit(written(sealed({**index, "members": huge}), members, tmp_path / "huge.zip"), tmp_path / "b")


def test_other_data_are_told_from_the_bundled_ones(done: tuple[Plan, Path], tmp_path: Path) -> None:
    plan, path = done
    data = tmp_path / "data"
    data.mkdir()
    texts(data / "text.jsonl", seed=2)
    (data / "train.py").write_bytes((plan.study.path.parent / "train.py").read_bytes())
    found = auditor.audit(path, tmp_path / "audit", data=data, say=lambda _: None)
    assert len(found.broken) == 1 and "the data at hand are another corpus" in found.broken[0]
    with pytest.raises(Refused, match=r"text\.jsonl"):
        auditor.audit(path, tmp_path / "again", data=tmp_path / "audit", say=lambda _: None)


@pytest.mark.parametrize(("shift", "holds"), [(1e-4, True), (0.02, False)])
def test_scores_of_another_machine_are_held_to_the_tolerance_and_of_this_one_to_the_bit(
    done: tuple[Plan, Path], tmp_path: Path, shift: float, holds: bool
) -> None:
    plan, _ = done
    run, elsewhere = plan.runs["sink", 0], Store(tmp_path / "again")
    key = run.score_keys["packed"]
    for before, after in (
        (plan.store.train(run.train_key), elsewhere.train(run.train_key)),
        *((plan.store.score(one), elsewhere.score(one)) for one in run.score_keys.values()),
    ):
        after.mkdir(parents=True)
        for name in ("done.json", "result.json", "scores.npz"):
            if (before / name).exists():
                (after / name).write_bytes((before / name).read_bytes())
    members = {f"{key}/{name}": (elsewhere.score(key) / name).read_bytes() for name in ("result.json", "scores.npz")}
    rescored(members, key, shift)
    for name, data in members.items():
        (elsewhere.root / "score" / name).write_bytes(data)
    here = retrain.compared(plan, run, elsewhere, 0.005)
    assert not here["holds"] and here["alike"] and here["differences"]["packed"] == pytest.approx(shift)
    at = elsewhere.train(run.train_key) / "done.json"
    told = json.loads(at.read_text())
    at.write_text(json.dumps(sealed({**told, "machine": "another one"})))
    there = retrain.compared(plan, run, elsewhere, 0.005)
    assert (there["holds"], there["alike"]) == (holds, False)
    at.write_text(json.dumps(sealed({**told, "token_hash": "0" * 32})))
    assert "other tokens" in retrain.compared(plan, run, elsewhere, 0.005)["sentence"]


def test_every_run_can_be_chosen_and_the_word_of_the_auditor_changes_it(done: tuple[Plan, Path]) -> None:
    plan, path = done
    key = taken(path)[0]["digest"]
    drawn = [retrain.chosen(key, str(i), plan) for i in range(40)]
    assert {(run.arm, run.seed) for run in drawn if run} == set(plan.runs)
    assert retrain.chosen(key, "", plan) == retrain.chosen(key, "", plan)


def test_the_commands(done: tuple[Plan, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, path = done
    monkeypatch.chdir(tmp_path)
    call = CliRunner().invoke
    asked = ["bundle", str(plan.study.path), "--out", str(plan.store.root), "--to", "mine.zip", "--json"]
    made = call(cli.app, asked)
    assert made.exit_code == 0 and json.loads(made.stdout)["runs"] == 4, made.output
    seen = call(cli.app, ["audit", "mine.zip", "--json"])
    assert seen.exit_code == 0 and json.loads(seen.stdout)["holds"], seen.output
    assert json.loads(seen.stdout)["bundle"] == json.loads(made.stdout)["bundle"]
    assert call(cli.app, ["audit", "mine.zip", "--salt", "x"]).exit_code == 2
    assert call(cli.app, ["audit", "mine.zip", "--data", "nowhere"]).exit_code == 2
    forged(path, tmp_path / "other.zip", lambda members: winner(members, plan))
    broken = call(cli.app, ["audit", "other.zip"])
    assert isinstance(broken.exception, CheckFailed) and "broken   judged again, winner" in broken.stdout


def test_weights_trained_elsewhere_are_known_by_their_hash(done: tuple[Plan, Path], tmp_path: Path) -> None:
    plan, _ = done
    folder = tmp_path / "study"
    folder.mkdir()
    texts(folder / "text.jsonl")
    for arm in ("baseline", "sink"):
        weights = plan.store.train(plan.runs[arm, 0].train_key) / "weights.safetensors"
        (folder / f"{arm}.safetensors").write_bytes(weights.read_bytes())
    text = (
        STUDY[: STUDY.index("[stage]")]
        .replace('stage = "packed"', 'stage = "pre_quant"')
        .replace("seeds = 2", "seeds = 1")
    )
    text = text.replace('"sealed"', '"taken"')
    text += 'train.weights = ["baseline.safetensors"]\n'
    text += '[arm.sink]\nmodel.softmax = "sink"\ntrain.weights = ["sink.safetensors"]\n'
    text += 'together = "its weights were trained with it"\n'
    (folder / "study.toml").write_text(text)
    other = planning.make(load(folder / "study.toml"), Store(folder / "runs"), precision="fp32", say=lambda _: None)
    history.begin(other)
    for run in other.runs.values():
        work.do(run, store=other.store, where=other.where, mirrors=(), stop=lambda: False, say=lambda _: None)
    answer = judge.conclude(other)
    report.write(answer, other.directory)
    bundle.write(other, answer, tmp_path / "taken.zip")
    found = auditor.audit(tmp_path / "taken.zip", tmp_path / "audit", data=folder, say=lambda _: None)
    assert found.broken == [] and "trained elsewhere" in found.noted[0]
    assert dataclasses.asdict(found)["retrained"] is None


def test_results_of_other_code_are_told(done: tuple[Plan, Path], tmp_path: Path) -> None:
    plan, path = done
    name = f"store/train/{plan.runs['sink', 0].train_key}/done.json"

    def older(members: Members) -> None:
        record(members, name, lambda held: held["source"].update({"softmaxes/sink.py": "0" * 16}))

    found = auditor.audit(forged(path, tmp_path / "other.zip", older), tmp_path / "audit", say=lambda _: None)
    assert any("made by other code" in text and "softmaxes/sink.py" in text for text in found.noted), found.noted


def test_a_bundle_whose_store_is_called_as_the_second_one_is_trained_again_all_the_same(
    done: tuple[Plan, Path], tmp_path: Path
) -> None:
    plan, path = done
    index, members = taken(path)
    names = [name for name in members if name.endswith("/done.json")]
    for name in names:  # weights that nobody trained
        record(members, name, lambda held: held["weights"].update({"weights.safetensors": "0" * 64}))
    told = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in members.items()}
    other = written(sealed({**index, "root": "again", "members": told}), members, tmp_path / "other.zip")
    found = auditor.audit(other, tmp_path / "audit", data=plan.study.path.parent, say=lambda _: None)
    assert len(found.broken) == 1 and "must not differ by a bit" in found.broken[0], found
    assert any("with --salt WORD" in text for text in found.noted)


def test_a_study_that_was_never_run_has_nothing_to_bundle(
    done: tuple[Plan, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["bundle", str(done[0].study.path), "--out", str(tmp_path / "empty")]
    found = CliRunner().invoke(cli.app, asked)
    assert isinstance(found.exception, CheckFailed) and "no training of it has ended" in str(found.exception)
    assert not list(tmp_path.glob("*.zip"))


def test_no_file_of_a_store_is_waited_for(done: tuple[Plan, Path], tmp_path: Path) -> None:
    """Each kind of file in turn is a pipe: whoever reads or extends it refuses it, or does without, and ends."""
    shutil.copytree(done[0].study.path.parent, tmp_path / "made")
    names = {path.name: path for path in sorted((tmp_path / "made" / "runs").rglob("*")) if path.is_file()}
    assert {"metrics.jsonl", "done.json", "scores.npz", "verdict.json", "train.tokens"} <= names.keys()
    refused = set()
    for name, path in names.items():
        kept = path.with_name("kept")
        path.rename(kept)
        os.mkfifo(path)
        for do in (judged, resumed, mirrored):
            try:
                do(tmp_path / "made", path)
            except (Refused, OSError) as error:
                refused.add(name)
                assert name in str(error), (do, error)
        path.unlink(missing_ok=True)
        kept.rename(path)
    assert {"metrics.jsonl", "done.json", "result.json", "scores.npz", "train.tokens"} <= refused, refused


def made_in(folder: Path) -> Plan:
    return planning.make(load(folder / "study.toml"), Store(folder / "runs"), precision="fp32", say=lambda _: None)


def judged(folder: Path, _: Path) -> None:
    plan = made_in(folder)
    answer = judge.conclude(plan)
    report.write(answer, plan.directory)
    bundle.write(plan, answer, folder / "again.zip")


def resumed(folder: Path, path: Path) -> None:
    """The run that the file belongs to is made again: half of it is there."""
    plan = made_in(folder)
    for run in plan.runs.values():
        if run.train_key == path.parent.name and path.name != "done.json":
            (path.parent / "done.json").rename(folder / "done.json")
            try:
                work.do(run, store=plan.store, where=plan.where, mirrors=(), stop=lambda: False, say=lambda _: None)
            finally:
                (folder / "done.json").rename(path.parent / "done.json")


def mirrored(_: Path, path: Path) -> None:
    if path.name == "metrics.jsonl":
        list(Copy("tensorboard", Mirrored(("tensorboard",)), path.parent, {}).rows())
