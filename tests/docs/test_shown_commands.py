"""README and docs against the program: commands that they show are parsed, flags and settings that they name exist."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from ablab.bridges.megatron import flags
from ablab.bridges.megatron.plugin import pretrain
from ablab.cli import levers
from ablab.cli import main as cli
from ablab.core.fault import InvalidStudy
from ablab.study import load
from ablab.study.layers import expand

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Flags (of --init_from the beginning) of programs that are neither ablab nor Megatron.
OTHERS = {
    *("--logdir", "--init", "--all", "--quiet", "--message", "--hard", "--force"),
    *("--nproc-per-node", "--standalone", "--kill-on-bad-exit"),  # of torchrun and srun
    *("--job-name", "--array", "--gres", "--time", "--signal", "--requeue", "--open-mode", "--output"),  # of sbatch
    *("--ntasks-per-node", "--gpus-per-node"),
    *("--model", "--tasks"),  # of lm_eval
}
BASE = """
study = { name = "base", question = "Does the page name what there is?" }
decision = { metric = "bits_per_byte", stage = "pre_quant", matters = 0.01 }
budget = { tokens = 4096, batch_tokens = 512 }
data = { source = "mock" }
model = { layers = "LG", d_model = 32, n_heads = 2, seq_len = 64, local = { window = 8 }, global = { position = "nope" } }
stage = { pre_quant = { evaluate = "disjoint" } }
[arm.a]
model.softmax = "sink"
"""


def commands() -> Iterator[tuple[str, str]]:
    """(page, line) of everything that begins with ablab: lines of blocks, and what stands between backticks."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        shown = re.findall(r"(?m)^ *(?:\$ )?(?:\.venv/bin/)?(ablab [a-z].*)$", "\n".join(blocks(text)))
        shown += re.findall(r"`(?:\.venv/bin/)?(ablab [^`\n]+)`", text)
        yield from ((page.name, line) for line in dict.fromkeys(shown))


def blocks(text: str) -> list[str]:
    """Fenced and indented blocks."""
    return re.findall(r"(?ms)^```[a-z]*\n(.*?)^```", text) + re.findall(r"(?m)^    .*$", text)


def words(line: str) -> list[str]:
    """A line as the shell gives it to the program: no comment, no explanation behind two blanks, no synopsis' brackets."""
    line = re.split(r"\s+#|\s{2,}", line)[0]
    if "'" not in line:
        line = re.sub(r"(?<= )\[|\](?= |$)", "", line)
    return shlex.split(line)[1:]


def leaf(line: str) -> tuple[Any, list[str]]:
    """The command that a line calls, and its own words."""
    command, rest = typer.main.get_command(cli.app), words(line)
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    return command, rest


@pytest.mark.parametrize(("page", "line"), list(commands()), ids=lambda value: value[:60])
def test_every_command_that_a_page_shows_is_one(page: str, line: str) -> None:
    command, rest = leaf(line)
    if line == "ablab --help" or not rest:
        return  # a command's bare name names it
    assert not hasattr(command, "commands"), f"{page}: there is no {line}"
    command.make_context(command.name, rest)


def flags_of_ablab() -> set[str]:
    found: set[str] = {"--help"}
    todo = [typer.main.get_command(cli.app)]
    while todo:
        command = todo.pop()
        todo += getattr(command, "commands", {}).values()
        found |= {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
    return found


def test_every_flag_that_a_page_names_exists() -> None:
    plugin = {flag for action in pretrain.words()._actions for flag in action.option_strings}
    known = (
        flags_of_ablab() | plugin | {name if name.startswith("--") else f"--{name}" for name in flags.FLAGS} | OTHERS
    )
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
        assert {flag for flag in named if flag not in known} <= {"--window-szie"}, page.name


def test_every_setting_that_a_page_shows_is_taken(tmp_path: Path) -> None:
    """Snippets between backticks that are TOML of a study are laid into one: no key and no lever of theirs is unknown."""
    tried = 0
    sections = ("decision", "budget", "limits", "data", "model", "train", "stage")
    for page in PAGES:
        for snippet in re.findall(r"`([a-z]+\.[a-z_.]+ = [^`]+)`", page.read_text(encoding="utf-8")):
            try:
                tree = tomllib.loads(snippet)
            except tomllib.TOMLDecodeError:
                continue  # no TOML: `group_rows = n` has a letter where a number goes
            if not set(tree) <= set(sections):
                continue
            tried += 1
            said = faults(tmp_path, snippet)
            assert not [one for one in said if re.search(r"no setting|no key|is called|unknown", one)], (snippet, said)
    assert tried >= 4
    assert any("no setting" in one for one in faults(tmp_path, 'train.loss = { name = "spans", reasonin = 1.0 }'))


def faults(folder: Path, snippet: str) -> list[str]:
    (folder / "study.toml").write_text(f"{BASE}\n[arm.b]\n{snippet}\n")
    try:
        load(folder / "study.toml")
    except InvalidStudy as refused:
        return [str(fault) for fault in refused.faults]
    return []


def test_every_lever_of_the_readme_is_in_its_slot() -> None:
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("| slot | levers |")[1].split("\n\n")[0]
    known = {name for slot in levers.table().values() for name in slot}
    for row in table.splitlines()[2:]:
        slots, listed = (cell.strip() for cell in row.strip("|").split("|"))
        for name in re.findall(r"\b[a-z]+(?:_[a-z0-9]+)+\b", re.sub(r"`[^`]*`|\([^)]*\)", "", listed)):
            assert name in known, (slots, name)


def test_no_page_and_no_study_means_two_layers_and_writes_three() -> None:
    """`LG*2` is L, G, G. Where a page or a study repeats a pair it writes brackets, or says what it does."""
    assert expand("LG*2")[0] == "LGG" and expand("(LG)*2")[0] == "LGLG"
    for path in [*PAGES, *(ROOT / "studies").glob("*.toml"), *(ROOT / "src").rglob("*.toml")]:
        for line in path.read_text(encoding="utf-8").splitlines():
            for found in re.findall(r'layers\s*=\s*"([^"]+)"', line):
                assert not re.search(r"[A-Za-z]{2,}\*\d", re.sub(r"\([^)]*\)", "()", found)), (path.name, line)


def test_every_setting_that_a_page_names_stands_in_the_reference() -> None:
    """A dotted name between backticks, `train.validate_every`: its section, and its last part as a key there."""
    reference = (ROOT / "docs/study.md").read_text(encoding="utf-8")
    keys = set(re.findall(r"(?m)^\| `([a-z_0-9]+)` \|", reference))
    for page in PAGES:
        named = re.findall(
            r"`((?:decision|budget|limits|data|model|train|stage)(?:\.[a-z_0-9]+)+)\b[^`]*`", page.read_text()
        )
        for name in named:
            assert name.endswith((".py", ".starts")) or name.split(".")[-1] in keys, (page.name, name)
