"""Files that are no study: size, bytes, TOML, depth, values that no setting takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.study.written import BASE, edited, faults, read

from ablab.core.fault import InvalidStudy
from ablab.study import load


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (edited(('name = "toy"', 'name = "a\x00b"')), "line 3: control character '\\x00'; remove it"),
        (edited(('name = "toy"', 'name = "a\x1bb"')), "line 3: control character '\\x1b'; remove it"),
        (edited(('name = "toy"', r'name = "a\u0000b"')), "study.name: a control character in a string; remove it"),
        (edited(more='"a\\u001bb" = 1\n'), "arm.rope: 'a\\x1bb': a control character in a key; remove it"),
        (edited(('name = "toy"', 'name = "a')), "line 3, column 10: not TOML: illegal character '\\n'; see toml.io"),
        (
            edited(('name = "toy"', 'name = "a"\nname = "b"')),
            "line 4, column 11: not TOML: cannot overwrite a value; see toml.io",
        ),
        ("x", "end of document: not TOML: expected '=' after a key in a key/value pair; see toml.io"),
        ("a = 1979-02-31", "line 1, column 5: not TOML: invalid date or datetime; see toml.io"),
        ("a = " + "9" * 5000, "an integer with thousands of digits; give a smaller one"),
        ("a = " + "[" * 5000, "nested deeper than 16; a study needs no more; write it flatter"),
        ("a = " + "[" * 20 + "]" * 20, "a[0][0][0]: nested deeper than 16; a study needs no more; write it flatter"),
        ("[a]\n" + "a." * 16 + "b = 1", "line 2: nested deeper than 16; a study needs no more; write it flatter"),
        ('"a" . ' * 60_000 + "b", "larger than 262144 bytes; a study file is a page or two; is this one?"),
        ('"a".' * 60_000 + "b = 1", "line 1: nested deeper than 16; a study needs no more; write it flatter"),
        (b"[study]\n\xff", "line 2: not UTF-8; save the file as UTF-8"),
        (b"#" * 300_000, "larger than 262144 bytes; a study file is a page or two; is this one?"),
    ],
)
def test_no_study(tmp_path: Path, text: str | bytes, message: str) -> None:
    assert message in [fault.removeprefix("study.toml: ") for fault in faults(tmp_path, text)]


def test_no_file(tmp_path: Path) -> None:
    for path, message in (
        (
            tmp_path / "none.toml",
            f"{tmp_path}/none.toml: cannot be read (No such file or directory); give the path of a study file",
        ),
        (tmp_path, f"{tmp_path}: not a file; give the path of a study file"),
        (
            tmp_path / "a\0b",
            f"'{tmp_path}/a\\x00b': cannot be read (embedded null byte); give the path of a study file",
        ),
    ):
        with pytest.raises(InvalidStudy) as error:
            load(path)
        assert str(error.value) == message


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidStudy, match="not a file"):
        load(tmp_path / "pipe")


@pytest.mark.parametrize(
    "value", ["nan", "inf", "-inf", "1979-05-27", "07:32:00", "1979-05-27T07:32:00Z", "true", "'a'", "[1]", "{}"]
)
@pytest.mark.parametrize(
    "key",
    ["model.softcap", "model.d_model", "budget.batch_tokens", "decision.matters", "train.clip", "data.valid_bytes"],
)
def test_no_number_is_anything_else(tmp_path: Path, key: str, value: str) -> None:
    section, name = key.split(".")
    lines = [line for line in BASE.split("\n") if not line.startswith(f"{name} =")]
    lines.insert(lines.index(f"[{section}]") + 1, f"{name} = {value}")
    found = [fault for fault in faults(tmp_path, "\n".join(lines)) if f"{key}: " in fault]
    assert len(found) == 1, "one place, one fault"


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    text = edited(
        ("matters = 0.005", "matters = -1"),
        ("n_kv_heads = 2", "n_kv_heads = 3"),
        ("window = 16", "window = 1000"),
        ('evaluate = "disjoint"', 'evaluate = "disjiont"'),
        more='[arm.x]\ntrain.schedule = { name = "wsd", warmup = 2 }\n[modle]\n[scale.s]\nmodel.d_model = "1"\n',
    )
    places = [": ".join(fault.split(": ")[1:3]) for fault in faults(tmp_path, text)]
    assert [place.split(": ")[0] for place in places] == [
        "modle", "model.n_kv_heads", "model.local.window", "stage.pre_quant.evaluate", "arm.x", "decision.matters", "scale.s",
    ]  # fmt: skip


def test_spellings_that_are_fine(tmp_path: Path) -> None:
    plain = read(tmp_path, BASE)
    assert read(tmp_path, b"\xef\xbb\xbf" + BASE.encode()).key == plain.key
    assert read(tmp_path, BASE.replace("\n", "\r\n")).key == plain.key
    assert plain.baseline.settings["budget"]["tokens"] == 200_000
    assert (
        read(tmp_path, edited(("tokens = 200_000\n", "tokens = 2e5\n"))).baseline.settings["budget"]["tokens"]
        == 200_000
    )
    assert plain.source == BASE and plain.path == tmp_path / "study.toml"
