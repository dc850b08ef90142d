"""What the words of [runner] may say: placeholders, literal braces, names that ablab sets itself, files of a run's folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import foreign

from ablab.core.fault import InvalidStudy
from ablab.judging import program as judged
from ablab.judging.logs.found import NoScore
from ablab.study import load, placeholders, runner


def settings(tmp_path: Path, **keys: str):  # type: ignore[no-untyped-def]
    file = tmp_path / "study.toml"
    file.write_text(foreign.changed(foreign.STUDY, **keys))
    asked = load(file).runner
    assert asked is not None
    return asked


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"command": '"train --seed={sed} --s={seed}"'}, r"runner.command: {sed} stands for nothing; did you mean 'seed'"),
        ({"command": '"train --seed={seed} --out={Out}"'}, r"{Out} stands for nothing; did you mean 'out'\?"),
        ({"command": '"train --seed={ seed }"'}, r"{ seed } stands for nothing; did you mean 'seed'\?"),
        ({"command": '"train --seed={seed"'}, r"runner.command: has a { with no other half, at character 14; close it"),
        ({"command": '"train --seed=seed}"'}, "has a } with no other half, at character 18"),
        ({"command": '"train {seed} --o={}"'}, r"{} stands for nothing; known: out, seed; write {{}} for braces"),
        ({"command": '"train {{seed}}"'}, "never says {seed}: every seed would be the same run"),
        ({"args.x": '"{sede}"'}, r"runner.args.x: {sede} stands for nothing; did you mean 'seed'"),
        ({"env.X": '"{output}"'}, "runner.env.X: {output} stands for nothing"),
        ({"resume": '"--from={ou}"'}, r"runner.resume: {ou} stands for nothing; did you mean 'out'"),
        ({"log": "{ json = '{out}/{sed}.json', field = 'x' }"}, r"runner.log: {sed} stands for nothing"),
        ({"log": "{ regex = '{seed} loss (.*)' }"}, r"runner.log.regex: {seed} is not filled in here"),
        ({"log": "{ json = '{out}/a.json', field = '{seed}.loss' }"}, r"runner.log.field: {seed} is not filled in here"),
    ],
)  # fmt: skip
def test_a_brace_that_stands_for_nothing_is_refused_with_the_near_name(
    tmp_path: Path, keys: dict[str, str], told: str
) -> None:
    with pytest.raises(InvalidStudy, match=told):
        settings(tmp_path, **keys)


def test_braces_written_twice_reach_the_program_once_and_have_a_key_of_their_own(tmp_path: Path) -> None:
    keys = {"command": """'train --seed={seed} --o="{{\\"a\\": 1}}" {{seed}}'""", "env.X": '"{{}}{out}"'}
    asked = settings(tmp_path, **keys)
    assert runner.argv(asked, 3, "/there") == ["train", "--seed=3", '--o={"a": 1}', "{seed}"]
    assert runner.variables(asked, 3, "/there") == {"X": "{}/there"}
    assert runner.argv(asked) == ["train", "--seed={seed}", '--o={{"a": 1}}', "{{seed}}"]
    shell = settings(tmp_path, command='"${{HOME}}/train {seed} {out}"', shell="true")
    assert runner.argv(shell, 3, "/a {b}") == ["/bin/sh", "-c", "${HOME}/train 3 '/a {b}'"]
    assert placeholders.fill("{{{seed}}}", 3, "") == "{3}" and placeholders.faults("", "{{{seed}}}") == []


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"env.ABLAB_RUN": '"x"'}, "runner.env.ABLAB_RUN: is set by ablab itself, for every run; rename it"),
        ({"env.CUDA_VISIBLE_DEVICES": '"0"', "gpus": "1"}, "runner.env.CUDA_VISIBLE_DEVICES: is set by ablab itself"),
    ],
)
def test_a_variable_that_ablab_sets_itself_is_refused(tmp_path: Path, keys: dict[str, str], told: str) -> None:
    with pytest.raises(InvalidStudy, match=told):
        settings(tmp_path, **keys)


def test_an_arm_cannot_set_it_either_and_without_gpus_theirs_is_free(tmp_path: Path) -> None:
    assert settings(tmp_path, **{"env.CUDA_VISIBLE_DEVICES": '"0"'})["env"] == {"CUDA_VISIBLE_DEVICES": "0"}
    (tmp_path / "study.toml").write_text(foreign.STUDY + '[arm.x]\nrunner.env.ABLAB_RUN = "x"\n')
    with pytest.raises(InvalidStudy, match=r"runner\.env\.ABLAB_RUN: is set by ablab itself"):
        load(tmp_path / "study.toml")


@pytest.mark.parametrize(
    "name",
    [
        "{out}//proc/self/environ",
        "{out}/../x",
        "{out}/a/../../x",
        "{out}/a//b",
        "/tmp/x",
        "{out}",
        "{out}/",
        "x{out}/y",
    ],
)
@pytest.mark.parametrize(
    "way", ["json = '{}', field = 'a'", "regex = '(.)', file = '{}'", "reader = 'nanogpt', file = '{}'"]
)
def test_a_log_that_does_not_lie_below_the_runs_folder_is_refused(tmp_path: Path, name: str, way: str) -> None:
    with pytest.raises(InvalidStudy, match=r"does not lie below \{out\}"):
        settings(tmp_path, log=f"{{ {way.replace('{}', name)} }}")


def test_a_log_that_is_a_link_out_of_the_runs_folder_is_no_score_and_one_within_is(tmp_path: Path) -> None:
    asked = settings(tmp_path, log="{ json = '{out}/log_{seed}.json', field = 'loss' }")
    out = tmp_path / "run" / "out"
    out.mkdir(parents=True)
    (tmp_path / "elsewhere.json").write_text('{"loss": 1.0}')
    (out / "log_3.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(NoScore, match=r"leads out of the run's folder, to .*elsewhere\.json"):
        judged.read(asked, "loss", tmp_path / "run", 3)
    (out / "log_3.json").unlink()
    (out / "last.json").write_text('{"loss": 2.0}')
    (out / "log_3.json").symlink_to("last.json")
    assert judged.read(asked, "loss", tmp_path / "run", 3).value == 2.0
    (out / "log_3.json").unlink()
    (out / "log_3.json").symlink_to("log_3.json")  # a ring
    with pytest.raises(NoScore, match="cannot be read"):
        judged.read(asked, "loss", tmp_path / "run", 3)
