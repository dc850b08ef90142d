"""A Harmony build that is run again: what lies there is believed as it was written only, and every cure works."""

import json
import shutil
from pathlib import Path

import pytest
from tests.data.harmony.building import SMALL, bad_rows, build, here, jsonl, quiet, synth

from ablab.core.fault import CheckFailed
from ablab.data.harmony import crew
from ablab.data.look.verify import verify


@pytest.fixture(autouse=True)
def inline(monkeypatch) -> None:
    monkeypatch.setattr(crew, "make", here)


def refused(out: Path, *sources: object, **settings: object) -> str:
    with pytest.raises(CheckFailed) as found:
        build(list(map(str, sources)), out, **(SMALL | settings), say=quiet)  # type: ignore[arg-type]
    assert found.value.exit_code == 4
    return str(found.value)


def test_a_finished_build_is_held_to_the_number_of_failed_rows_too(tmp_path: Path) -> None:
    source, out = jsonl(tmp_path / "x.jsonl", bad_rows()), tmp_path / "out"
    manifest = build([str(source)], out, **SMALL, max_bad=4, say=quiet)
    for allowed, words in ((3, "3"), (0, "none")):
        assert refused(out, source, max_bad=allowed) == (
            f"max_bad: 4 rows failed when {out} was built, {words} may now; allow them with --max-bad 4, "
            f"or repair them (all of them: {out / 'quarantine.jsonl'}) and choose another --out, or delete this one"
        )
    assert build([str(source)], out, **SMALL, max_bad=4, say=quiet) == manifest and verify(out) == []


def test_rows_that_all_failed_are_listed_where_the_error_says(tmp_path: Path) -> None:
    rows = [row | {"query": ""} for row in synth(5)]
    source, out = jsonl(tmp_path / "x.jsonl", rows), tmp_path / "out"
    assert refused(out, source, max_bad=9) == (
        "SOURCE: no row is left: 5 failed (5 because: message 0: the user text is empty), 0 were dropped as too long; "
        "repair those that failed "
        f"(all of them: {out / 'quarantine.jsonl'}), and choose another --out or delete this one"
    )
    listed = [json.loads(line)["id"] for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert listed == [f"mock-{i}" for i in range(5)]
    jsonl(source, synth(5))
    shutil.rmtree(out)  # the cure: repaired, and the place emptied
    assert build([str(source)], out, **SMALL, say=quiet)["quarantined"] == 0


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda text: "", r"plan.json: cannot be read"),
        (lambda text: "[]", r"plan.json: holds list for its content, where an object belongs"),
        (lambda text: text.replace('"max_tokens": null', '"max_tokens": 7'), r"plan.json: was changed after it was wr"),
        (lambda text: text.replace('"inputs"', '"outputs"'), r"plan.json: does not hold inputs"),
    ],
)
def test_a_damaged_plan_names_what_to_delete(tmp_path: Path, spoil, fault: str, monkeypatch) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(crew, "make", stop)
        with pytest.raises(KeyboardInterrupt):
            build(["mock:30"], out, **SMALL, say=quiet)
    path = out / ".parts" / "plan.json"
    path.write_text(spoil(path.read_text()))
    said = refused(out, "mock:30")
    assert fault in said
    assert f"; delete {out} with all in it and build again, or choose" in said
    shutil.rmtree(out)
    assert build(["mock:30"], out, **SMALL, say=quiet)["rows"] == 30


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_edited_manifest_is_not_taken_for_a_finished_build(tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(["mock:30"], out, **SMALL, say=quiet)
    path = out / "manifest.json"
    path.write_text(path.read_text().replace('"quarantined": 0', '"quarantined": -1'))
    assert f"manifest.json: was changed after it was written (its digest differs); delete {out} " in refused(
        out, "mock:30"
    )
    path.write_text("")
    assert f"; delete {out} with all in it and build again" in refused(out, "mock:30")
