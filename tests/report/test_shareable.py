"""Pages that are passed on name the code and the baseline's settings, and no path of the machine that made them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests import finished_store

import ablab
from ablab import report
from ablab.bridges.golf import export as golf
from ablab.check import facts as check
from ablab.check import miniature
from ablab.judging.judge import conclude
from ablab.report.shareable import shareable
from ablab.runs.given_up import give_up
from ablab.runs.plan import Plan
from ablab.runtime import provenance

STORE, STUDY = Path("/home/a user/runs"), Path("/home/a user/studies")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/home/a user/studies/texts/a b.jsonl", "texts/a b.jsonl"),
        ("data.source: [/home/a user/studies/a.jsonl] -> none", "data.source: [a.jsonl] -> none"),
        ("/home/a user/runs/train/0a1b: is in use", "runs/train/0a1b: is in use"),
        ("cannot read '/mnt/disk/private/x.bin'; check the path", "cannot read 'x.bin'; check the path"),
        (f'File "{Path(ablab.__file__).parent}/train.py", line 7', 'File "ablab/train.py", line 7'),
        (f"{sys.prefix}/share/ablab/o200k_base.tiktoken", "share/ablab/o200k_base.tiktoken"),
        ("12 nats/token at https://host/a/b and 1/2", "12 nats/token at https://host/a/b and 1/2"),
        ("weights ~/x, ./y/z and ../y/z", "weights ~/x, ./y/z and ../y/z"),
    ],
)
def test_a_path_becomes_the_name_that_the_study_gives_it(text: str, said: str) -> None:
    assert shareable(text, folder=STUDY, root=STORE) == said
    assert shareable({text: [text, 1, None, 0.5, True]}, folder=STUDY, root=STORE) == {said: [said, 1, None, 0.5, True]}


def test_two_files_of_one_name_stay_two() -> None:
    told = shareable(
        {"before": "/mnt/one/w/x.pt", "after": "/mnt/two/w/x.pt", "said": "read /mnt/two/w/x.pt, /mnt/y/z.pt"}
    )
    assert told == {"before": "one/w/x.pt", "after": "two/w/x.pt", "said": "read two/w/x.pt, z.pt"}


def finished(folder: Path, elsewhere: Path) -> Plan:
    """A finished study of files inside and outside of its folder, one run of which was given up with a traceback."""
    text = finished_store.STUDY.replace('source = "mock"', f'source = ["texts/a b.jsonl", "{elsewhere}/c.jsonl"]')
    plan = finished_store.fill(finished_store.plan(folder, text))
    run = plan.runs["wide", plan.seeds[-1]]
    (plan.store.train(run.train_key) / "done.json").unlink()
    fault = f'Traceback\n  File "{ablab.__file__}", line 1\nOSError: {plan.store.root}/train/x and {elsewhere}/c.jsonl'
    give_up(plan, run, fault)
    return plan


def leaks(text: str, *places: Path) -> list[str]:
    own = [*places, Path(ablab.__file__).parent, Path(sys.prefix), Path.home(), Path(__file__).parents[2]]
    return [str(place) for place in own if f"{place}/" in text]


def test_no_page_names_a_path_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, elsewhere = tmp_path / "a study", tmp_path / "elsewhere" / "private"
    folder.mkdir()
    plan = finished(folder, elsewhere)
    answer = conclude(plan)
    report.write(answer, plan.directory)
    for name in ("verdict.json", "report.html", "report.md"):
        text = (plan.directory / name).read_text()
        assert not leaks(text, tmp_path), name
        assert "texts/a b.jsonl" in text and "c.jsonl" in text, name
    assert answer == json.loads((plan.directory / "verdict.json").read_text())
    assert "OSError: runs/train/x and c.jsonl" in json.dumps(answer["runs"])
    rehearsed = {name: SimpleNamespace(losses=[1.0], fault=None, untested=()) for name in plan.study.with_baseline}
    monkeypatch.setattr(miniature, "check", lambda *_: rehearsed)
    assert not leaks(json.dumps(check.facts(plan, lambda _: None)), tmp_path)


def test_no_file_of_an_exported_folder_names_one(tmp_path: Path) -> None:
    text = finished_store.STUDY.replace('source = "mock"', f'source = "{tmp_path}/private/c.jsonl"')
    plan = finished_store.fill(finished_store.plan(tmp_path, text))
    for path in golf.export(plan, "int5", tmp_path / "out", author="A", github_id="a"):
        assert not leaks(path.read_text(), tmp_path), path


def test_the_report_has_the_baseline_and_the_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "of_ablab", lambda: "0123456789ab, changed since")
    monkeypatch.setattr(provenance, "of_study", lambda path: "ba9876543210")
    plan = finished_store.fill(finished_store.plan(tmp_path))
    answer = conclude(plan)
    report.write(answer, plan.directory)
    model = answer["baseline"]["model"]
    assert (model["d_model"], model["local"]["position"]["name"], model["local"]["window"]) == (
        32,
        "rope",
        "all tokens",
    )
    assert answer["environment"]["commit"] == "0123456789ab, changed since"
    for name in ("report.html", "report.md"):
        text = (plan.directory / name).read_text()
        for said in (
            "The baseline",
            "model.d_model",
            "train.optimizer",
            "adamw (lr=0.002",
            "stage.ttt.evaluate",
            "sgd",
        ):
            assert said in text, (name, said)
        assert "0123456789ab, changed since" in text and "ba9876543210" in text


def test_runs_of_more_than_one_commit_are_told(tmp_path: Path) -> None:
    plan = finished_store.fill(finished_store.plan(tmp_path))
    seen: dict[str, Any] = {}
    trained = type(plan.store).trained

    def two(store: Any, key: str) -> Any:
        done = trained(store, key)
        return done and {**done, "code": seen.setdefault(key, f"commit{len(seen) % 2}")}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(plan.store), "trained", two)
        assert "runs come from more than one commit of ablab: commit0; commit1" in conclude(plan)["notes"]


def git(folder: Path, *words: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


def test_commits_are_those_of_the_repository_that_tracks_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, other = tmp_path / "sub" / "a study.toml", tmp_path / "sub" / "other.toml"
    study.parent.mkdir()
    study.write_text("a")
    assert provenance.of_study(study) is None
    git(tmp_path, "init", "-q")
    assert provenance.of_study(study) is None  # there is a repository around it, which does not know the file
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "a")
    found = provenance.of_study(study)
    assert found is not None and len(found) == provenance.DIGITS and int(found, 16)
    other.write_text("b")
    assert provenance.of_study(study) == found and provenance.of_study(other) is None
    assert provenance.commit(study, study.parent) == found + provenance.CHANGED  # of a package new files count too
    study.write_text("c")
    assert provenance.of_study(study) == found + provenance.CHANGED
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    assert provenance.of_study(study) == found + provenance.CHANGED
    monkeypatch.setenv("PATH", "")
    assert provenance.of_study(study) is None  # without git nothing is known
