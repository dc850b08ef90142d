"""ablab data build harmony, inspect, verify, vocab: words, exit codes, and no torch anywhere."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.data.harmony.building import bad_rows, here, jsonl
from typer.testing import CliRunner

from ablab.cli import data as data_commands
from ablab.cli.main import app
from ablab.core.fault import CheckFailed
from ablab.data import vocabulary
from ablab.data.harmony import crew
from ablab.data.harmony.build import BuildProgress

SOURCE = Path(__file__).resolve().parents[3] / "src"
BUILD = ("data", "build", "harmony")
HANG = 600  # seconds: a guard against a process that never ends, not a time that anything is expected to take


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory) -> dict[str, str]:
    """An environment in which importing torch fails, here and in every process that is started."""
    folder = tmp_path_factory.mktemp("poison")
    (folder / "torch.py").write_text("raise ImportError('torch must not be imported')")
    return os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{SOURCE}"}


def ablab(*words: object, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    code = "from ablab.cli.main import main; main()"
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=HANG)


@pytest.fixture(scope="module")
def built(tmp_path_factory, poisoned: dict[str, str]) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("built") / "out"
    words = ("mock:200", "--out", out, "--valid-fraction", "0.1", "--check-every", "50", "--workers", "1")
    done = ablab(*BUILD, *words, env=poisoned)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_a_build_ends_with_what_there_is_and_what_to_do_next(built: tuple[Path, str]) -> None:
    out, text = built
    manifest = json.loads((out / "manifest.json").read_text())
    train, valid = (manifest["splits"][name]["rows"] for name in ("train", "valid"))
    assert train + valid == 200 and valid > 0
    assert f"  rows         200: {train} train, {valid} valid\n" in text
    assert "tokens/s" in text and ": reasoning " in text and "  set aside    none\n" in text
    assert f"  compared     {manifest['checked']} rows with openai-harmony: equal ids\n" in text
    assert text.endswith(f"next: ablab data inspect {out}\n")


def test_inspect_and_verify_need_no_torch(built: tuple[Path, str], poisoned: dict[str, str]) -> None:
    out, _ = built
    shown = ablab("data", "inspect", out, env=poisoned)
    assert shown.returncode == 0 and "<|start|>user<|message|>" in shown.stdout, shown.stderr
    checked = ablab("data", "verify", out, env=poisoned)
    assert (checked.returncode, checked.stdout) == (0, f"{out}: all is well\n"), checked.stderr


def run(*words: object) -> tuple[int, str]:
    """The command in this process; its exit code where it ends by itself, 4 where main() would say so."""
    found = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(found.exception, CheckFailed):
        return found.exception.exit_code, str(found.exception)
    return found.exit_code, found.output


def test_verify_names_a_changed_file_in_words_and_in_json(built: tuple[Path, str], tmp_path: Path) -> None:
    out = shutil.copytree(built[0], tmp_path / "out")
    path = out / "train" / "shard_00000_span.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"\2")
    code, text = run("data", "verify", out)
    assert code == 4 and "shard_00000_span.bin: was changed: sha256" in text
    found = CliRunner().invoke(app, ["data", "verify", str(out), "--json"])
    assert isinstance(found.exception, CheckFailed) and str(found.exception) == text  # main() says it on stderr
    assert "shard_00000_span.bin" in json.loads(found.stdout)["faults"][0]["place"]
    code, text = run("data", "verify", built[0], "--json")
    assert (code, json.loads(text)) == (0, {"place": str(built[0]), "faults": [], "warnings": []})
    assert run("data", "verify", tmp_path / "nothing")[0] == 4


def test_verify_takes_the_size_of_a_vocabulary(built: tuple[Path, str]) -> None:
    prefix = built[0] / "train" / "shard_00000_tokens"
    assert run("data", "verify", prefix, "--vocab-size", 201_088)[0] == 0
    code, text = run("data", "verify", prefix, "--vocab-size", 1000)
    assert code == 4 and "outside of the vocabulary of 1,000" in text
    assert run("data", "verify", prefix, "--vocab-size", 0)[0] == 2


def test_inspect_can_be_json(built: tuple[Path, str]) -> None:
    code, text = run("data", "inspect", built[0], "--json", "--document", 3)
    assert code == 0 and json.loads(text)["sample"]["document"] == 3
    code, text = run("data", "inspect", built[0], "--document", 9999)
    assert code == 4 and "has no document 9999" in text


def test_a_build_can_be_json(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(crew, "make", here)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    code, text = run(*BUILD, "mock:30", "--out", tmp_path / "out", "--json")
    assert code == 0 and json.loads(text) == json.loads((tmp_path / "out" / "manifest.json").read_text())


@pytest.mark.parametrize(
    "words",
    [
        ("mock",),
        ("--out", "x"),
        ("mock", "--out", "x", "--valid-fraction", "1.5"),
        ("mock", "--out", "x", "--max-rows", "0"),
    ],
)
def test_usage_errors_have_exit_code_2(words: tuple[str, ...], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*BUILD, *words)[0] == 2
    assert not list(tmp_path.iterdir())


def test_names_that_mean_nothing_have_exit_code_3_and_bad_rows_4(tmp_path: Path, poisoned: dict[str, str]) -> None:
    done = ablab(*BUILD, "no.parquet", "--out", tmp_path / "out", env=poisoned)
    assert done.returncode == 3 and done.stderr.startswith("error: SOURCE: 'no.parquet' matches no file; ")
    source = jsonl(tmp_path / "x.jsonl", bad_rows())
    done = ablab(*BUILD, source, "--out", tmp_path / "out", "--workers", 1, env=poisoned)
    assert done.returncode == 4 and "x.jsonl: line 4 (id mock-3): message 0: the user text is empty" in done.stderr
    done = ablab(*BUILD, source, "--out", tmp_path / "out", "--workers", 1, "--max-bad", 4, env=poisoned)
    assert done.returncode == 0 and "  set aside    4 quarantined (why: " in done.stdout


# The command, which waits once two units are done: whoever watches it finds it at work, however slow either is.
HELD = """
import sys
import time
from ablab.cli import data as data_commands

class Held(data_commands._Bar):
    def __call__(self, progress):
        super().__call__(progress)
        if progress.units == 2:
            print("held", flush=True)
            time.sleep(3600)

data_commands._Bar = Held
if __name__ == "__main__":
    from ablab.cli.main import main
    main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_build_as_resumable(number: int, tmp_path: Path, poisoned: dict[str, str]) -> None:
    out = tmp_path / "out"
    words = [*BUILD, "mock:300", "--out", str(out), "--rows-per-shard", "50", "--workers", "1"]
    command, pipe = [sys.executable, "-c", HELD, *words], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=poisoned) as child:
        try:
            assert child.stdout and "held\n" in iter(child.stdout.readline, "")
            second = ablab(*words, env=poisoned)  # while the first is at work
            child.send_signal(number)
            _, errors = child.communicate(timeout=HANG)
        finally:
            child.kill()
    assert second.returncode == 4 and "is in use by pid" in second.stderr
    assert (child.returncode, errors) == (75, "interrupted; run the same command to go on\n")
    assert not (out / "manifest.json").exists() and len(list(out.glob(".parts/unit_*.json"))) >= 2
    assert not list(out.glob("**/.*.part"))


def test_vocab_installs_the_right_file_and_no_other(tmp_path: Path) -> None:
    to = tmp_path / "there" / "vocab"
    code, text = run("data", "vocab", vocabulary.default_path(), "--to", to)
    assert code == 0 and to.read_bytes() == vocabulary.read() and str(to) in text
    (tmp_path / "wrong").write_text("x")
    code, text = run("data", "vocab", tmp_path / "wrong", "--to", tmp_path / "other")
    assert code == 4 and text.startswith("vocab: ") and "sha256" in text
    assert not (tmp_path / "other").exists()


def test_help_is_short_and_names_the_fields() -> None:
    assert run("data", "--help")[1].count("\n") < 20
    text = run(*BUILD, "--help")[1]
    assert "messages_json" in text and "--max-bad" in text and text.count("\n") < 50


def test_progress_is_plain_lines_where_there_is_no_terminal(capsys, monkeypatch) -> None:
    monkeypatch.setattr(data_commands, "PLAIN_SECONDS", 0.0)
    with data_commands._shown(quiet=False) as (say, progress):
        progress(BuildProgress(rows=1500, tokens=3_000_000, kept=500, total=4000, units=2, of_units=8, seconds=2.0))
        say("unit 1 is damaged")
    wanted = "2,000 of 4,000 rows, 3.0 M tokens, 1.50 M tokens/s\nunit 1 is damaged\n"
    assert capsys.readouterr().out == wanted
    with data_commands._shown(quiet=True) as (say, progress):
        progress(BuildProgress(1, 1, 0, 1, 0, 1, 1.0))
        say("nothing")
    assert capsys.readouterr().out == ""
