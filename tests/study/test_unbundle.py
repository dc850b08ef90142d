"""A stack taken apart: the arms of its parts, as text to paste and as a study of their own, both of which load."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.study.written import edited, read
from typer.testing import CliRunner

from ablab.cli.main import app
from ablab.core import toml
from ablab.core.fault import InvalidStudy
from ablab.study import unbundle

STACK = """
[arm.stack]
together = "what the record had"
model.local.window = 32
model.local.position = { theta = 5e5, name = "rope" }
model.softcap = 15.0
train.optimizer.lr = 1e-3
"""
OTHER = """
[arm.wide]
model.d_model = 128
[arm.pair]
on = "stack"
together = "two more"
model.seq_len = 128
train.ema = 0.9
[factorial.f]
model.local.window = [16, 32]
model.softcap = [0, 15.0]
[scale.small]
only = ["wide", "stack"]
budget.tokens = 100_000
[scale.small.arm.stack]
model.softcap = 10.0
[scale.small.arm.wide]
model.d_model = 96
"""


def test_each_part_alone_and_all_but_one(tmp_path: Path) -> None:
    text = edited(more=STACK)
    study = read(tmp_path, text)
    found = unbundle.unbundle(tmp_path / "study.toml", "stack")
    assert list(found.arms) == [
        "only_window", "only_position", "only_softcap", "only_lr",
        "without_window", "without_position", "without_softcap", "without_lr",
    ]  # fmt: skip
    apart = read(tmp_path, f"{text}\n{found.toml}")
    whole = {change.path: change.after for change in study.arms["stack"].changes}
    for label, path in zip(("window", "position", "softcap", "lr"), whole, strict=True):
        only, rest = ({c.path: c.after for c in apart.arms[f"{kind}_{label}"].changes} for kind in ("only", "without"))
        assert only == {path: whole[path]}
        assert rest == {other: after for other, after in whole.items() if other != path}
    assert apart.arms["without_lr"].because == "stack without train.optimizer.lr"


def test_settings_of_one_lever_are_parts_of_their_own_and_names_stay_free(tmp_path: Path) -> None:
    """What an arm merges into a lever counts setting by setting; an arm on another arm is taken apart on that one."""
    more = (
        STACK
        + OTHER.split("[factorial.f]")[0]
        + (
            '[arm.only_lr]\nmodel.qk_norm = false\n[arm.tuned]\ntogether = "t"\ntrain.optimizer = { lr = 1e-3, decay = 0.2 }\n'
        )
    )
    text = edited(more=more)
    read(tmp_path, text)
    tuned = unbundle.unbundle(tmp_path / "study.toml", "tuned")
    assert list(tuned.arms) == ["only_lr_2", "only_decay"]  # of two parts the other alone is all but one
    pair = unbundle.unbundle(tmp_path / "study.toml", "pair")
    study = read(tmp_path, f"{text}\n{tuned.toml}\n{pair.toml}")
    assert [c.path for c in study.arms["only_lr_2"].changes] == ["train.optimizer.lr"]
    assert (pair.on, study.arms["only_ema"].on) == ("stack", "stack")


def test_what_cannot_be_taken_apart(tmp_path: Path) -> None:
    read(tmp_path, edited(more=STACK + OTHER))
    for name, said in (
        ("wide", "arm 'wide': changes one setting: there is nothing to take apart; name an arm that stacks"),
        ("stak", "arm 'stak': the file has no such arm; did you mean 'stack'?"),
        ("window=32", "arm 'window=32': is a cell of a factorial, which takes it apart already; read its interactions"),
    ):
        with pytest.raises(InvalidStudy) as refused:
            unbundle.unbundle(tmp_path / "study.toml", name)
        assert str(refused.value).startswith(f"study.toml: {said}")


def test_the_command_prints_arms_or_writes_a_study_that_loads(tmp_path: Path) -> None:
    text = edited(("matters = 0.005", 'matters = 0.005\ntie = ["prefer wide", "lowest"]'), more=STACK + OTHER)
    read(tmp_path, text)
    file, to = str(tmp_path / "study.toml"), tmp_path / "apart.toml"
    printed = CliRunner().invoke(app, ["unbundle", file, "stack"])
    assert printed.exit_code == 0 and printed.stdout == unbundle.unbundle(tmp_path / "study.toml", "stack").toml
    assert CliRunner().invoke(app, ["unbundle", file, "stack", "--to", str(to)]).exit_code == 0
    for scale in (None, "small"):
        study = read(tmp_path, to.read_text(encoding="utf-8"), scale)
        assert (study.name, len(study.arms), study.factorials) == ("toy_stack", 9, {})
        assert study.decision["tie"] == ["lowest"]
    again = CliRunner().invoke(app, ["unbundle", file, "stack", "--to", str(to)])
    assert again.exit_code != 0 and "is there already; name another file" in str(again.exception)
    elsewhere = CliRunner().invoke(app, ["unbundle", file, "stack", "--to", str(tmp_path / "there" / "x.toml")])
    assert "lies elsewhere than the study" in str(elsewhere.exception)


PROGRAM = """
[study]
name = "toy"
question = "?"
[decision]
metric = "val_loss"
matters = 0.01
seeds = 3
[runner]
command = "python train.py --seed={seed}"
directory = "there"
log = "nanogpt"
[runner.args]
x = true
"optim.lr" = 0.001
name = "a"
"""


def test_arguments_with_dots_and_other_signs_are_parts_of_their_own(tmp_path: Path) -> None:
    """Hydra's arguments have dots, and so may not be split at them; one that is called name makes no lever of the table."""
    more = (
        '[arm.pc]\ntogether = "a record"\nrunner.args.x = false\nrunner.args."optim.lr" = 0.002\n'
        'runner.args."optim lr" = "\\U0001F600\\""\nrunner.args.name = "b"\n'
    ).replace("optim lr", "a+b")
    text = PROGRAM + more
    study = read(tmp_path, text)
    found = unbundle.unbundle(tmp_path / "study.toml", "pc")
    assert list(found.arms) == [
        "only_x", "only_optim_lr", "only_a_b", "only_name", "without_x", "without_optim_lr", "without_a_b", "without_name",
    ]  # fmt: skip
    apart = read(tmp_path, f"{text}\n{found.toml}")
    whole = {change.path: change.after for change in study.arms["pc"].changes}
    assert list(whole) == ["runner.args.x", 'runner.args."optim.lr"', 'runner.args."a+b"', "runner.args.name"]
    for label, path in zip(("x", "optim_lr", "a_b", "name"), whole, strict=True):
        only, rest = ({c.path: c.after for c in apart.arms[f"{kind}_{label}"].changes} for kind in ("only", "without"))
        assert only == {path: whole[path]}
        assert rest == {other: after for other, after in whole.items() if other != path}
    alone = read(tmp_path, unbundle.study_of(tmp_path / "study.toml", found).replace("toy", "toy2"))
    assert alone.arms["pc"].settings == study.arms["pc"].settings and len(alone.arms) == 9


def test_no_file_is_left_of_a_study_that_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(tmp_path, edited(more=STACK))
    to = tmp_path / "apart.toml"
    monkeypatch.setattr(unbundle, "study_of", lambda *_: "[study]\n")
    command = ["unbundle", str(tmp_path / "study.toml"), "stack", "--to", str(to)]
    assert isinstance(CliRunner().invoke(app, command).exception, InvalidStudy) and not to.exists()


@given(
    st.lists(st.text(), min_size=1, max_size=4),
    st.recursive(
        st.text() | st.integers(-(10**9), 10**9) | st.booleans() | st.floats(allow_nan=False),
        lambda one: st.lists(one, max_size=3),
    ),
)
@settings(deadline=None)
def test_what_is_written_is_what_is_read(keys: list[str], value: object) -> None:
    assert toml.parted(toml.joined(keys)) == tuple(keys)
    tree: dict[str, object] = {}
    for key in reversed(keys):
        tree = {key: tree or value}
    for text in (toml.written(tree), "\n".join(toml.dotted(tree)), f"x = {toml.spell(tree)}"):
        read_back = tomllib.loads(text)
        assert read_back in (tree, {"x": tree})
