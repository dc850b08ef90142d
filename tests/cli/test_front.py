"""The front door: the program's version, its two names, its order of verbs, what a shell completes, and spans of time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from tests.study.written import edited, faults, read

import ablab
from ablab.cli.main import app
from ablab.core import duration


def program(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "ablab", *words]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | env)


def test_the_version_is_that_of_the_package() -> None:
    told = program("--version")
    assert (told.returncode, told.stdout) == (0, f"ablab {ablab.__version__}\n")
    project = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{ablab.__version__}"\n' in project


def test_the_package_that_is_run_calls_itself_by_its_name() -> None:
    told = program("--help")
    assert told.returncode == 0 and told.stdout.startswith("Usage: ablab [OPTIONS] COMMAND")


def test_a_study_is_checked_before_it_is_run_and_run_before_it_is_read() -> None:
    verbs = list(typer.main.get_command(app).commands)  # type: ignore[attr-defined]  # a group, of a class that typer has vendored
    assert [verb for verb in verbs if verb in ("check", "run", "report", "ladder", "export")] == [
        "check", "run", "report", "ladder", "export",
    ]  # fmt: skip


def test_a_shell_completes_verbs_and_options() -> None:
    begun = {"_ABLAB_COMPLETE": "complete_bash", "COMP_CWORD": "1", "COMP_WORDS": "ablab rep"}
    assert program(**begun).stdout.split() == ["report"]
    begun |= {"COMP_CWORD": "2", "COMP_WORDS": "ablab run --unt"}
    assert program(**begun).stdout.split() == ["--until"]
    script = program(
        "--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1"
    )  # else the caller's shell
    assert script.returncode == 0 and "complete_bash" in script.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--patience", "5s"), "add --per-run"),  # of one process nobody waits for another
        (("--patience", "0s", "--per-run", "2"), "is no span of time"),
        (("--until", "1h30"), "is no span of time"),
    ],
)
def test_a_span_that_would_do_nothing_is_refused(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(edited())
    told = program("run", str(tmp_path / "study.toml"), "--out", str(tmp_path / "runs"), *words)
    assert told.returncode == 2 and said in " ".join(told.stderr.split()) and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("600", 600), ("90s", 90), ("30m", 1800), ("1h30m", 5400), ("2d", 172_800), ("1.5h", 5400),
        ("0.5", 0.5), (" 8h ", 28_800),
        ("1h30", None), ("soon", None),
        ("", None), ("0", None), ("0s", None), ("-5", None), ("1m30", None), ("30m1h", None), ("1e3", None),
        ("nan", None), ("\u0663s", 3.0), ("²", None),
    ],
)  # fmt: skip
def test_a_span_of_time_is_read_or_is_none(text: str, seconds: float | None) -> None:
    assert duration.seconds(text) == seconds


def test_every_setting_in_seconds_takes_a_span(tmp_path: Path) -> None:
    def timed(budget: str, *limits: str) -> str:
        every = ("[train]", "[train]\nvalidate_every = 51_200")
        more = "\n[limits]\nseconds = {}\nstage_seconds = {}\n".format(*limits) if limits else ""
        return edited(("tokens = 200_000", f"seconds = {budget}"), every, more=more)

    one, other = (read(tmp_path, timed(*given)) for given in (('"1h30m"', '"2h"', '"90s"'), ("5400", "7200", "90")))
    assert one.baseline.settings == other.baseline.settings and one.limits == other.limits and one.key == other.key
    assert one.baseline.settings["budget"]["seconds"] == 5400.0
    for wrong in ('"soon"', '"0s"', "true", '""'):
        said = faults(tmp_path, timed(wrong))
        assert len(said) == 1 and said[0].startswith("study.toml: budget.seconds: ") and '"1h30m"' in said[0], said
