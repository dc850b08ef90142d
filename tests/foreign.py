"""A program that is not ours, in nanoGPT's manner: plain Python, milliseconds a run; and the study over it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from ablab.launch.study import Lab
from ablab.runs.plan import Plan

PYTHON = shlex.quote(sys.executable)
TRAIN = """
import os, pathlib, random, sys, time
from model import gain                      # a module beside the script, as nanoGPT has it

told = dict(word.lstrip("-").split("=", 1) if "=" in word else (word.lstrip("-"), "") for word in sys.argv[1:])
seed, out, width = int(told["seed"]), pathlib.Path(told["out_dir"]), int(told.get("n_embd", 384))
draws, arm = random.Random(seed), random.Random(f"{seed} {width} {sorted(told)} {os.environ.get('SLOPE')}")
first = 0
if told.get("init_from") == "resume":
    first = int((out / "ckpt.pt").read_text())
    print(f"Resuming training from {out}")
elif "init_from" in told:
    raise SystemExit(f"no way to start is called {told['init_from']}")
print("tokens per iteration will be: 16,384")
common = draws.gauss(0, 0.02)
for step in range(250, 1001, 250):
    if step <= first:
        continue
    loss = 4 - step / 400 + common + arm.gauss(0, 0.002) - gain(width, os.environ.get("SLOPE"))
    print(f"step {step}: train loss {loss - 0.1:.4f}, val loss {loss:.4f}")
    (out / "ckpt.pt").write_text(str(step))
    if step == 500 and "hold" in told:
        (out / "held").touch()
        while (out / "held").exists() or "for_ever" in told:
            time.sleep(0.01)
"""
MODEL = """
def gain(width, slope):
    return 0.05 * (width > 384) + 0.02 * (slope == "0.3")
"""
STUDY = f"""
[study]
name = "foreign"
question = "Does a wider model pay?"
[decision]
metric = "val_loss"
matters = 0.01
seeds = 3
[runner]
command = "{PYTHON} train.py --seed={{seed}} --out_dir={{out}}"
directory = "../program"
log = "nanogpt"
[arm.wide]
runner.args.n_embd = 512
"""


def git(folder: Path, *words: str) -> None:
    who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    subprocess.run(["git", *words], cwd=folder, env={**os.environ, **who}, check=True, capture_output=True)


def write(tmp_path: Path, study: str = STUDY, **files: str) -> Path:
    """A checkout with one commit in `program`, the study in `study`; returns the study's file. files: more of the checkout."""
    program, folder = tmp_path / "program", tmp_path / "study"
    program.mkdir(parents=True)
    folder.mkdir()
    for name, text in {"train.py": TRAIN, "model.py": MODEL, ".gitignore": "*.bin\n__pycache__\n", **files}.items():
        (program / name).parent.mkdir(parents=True, exist_ok=True)
        (program / name).write_text(text)
    git(program, "init", "--quiet")
    git(program, "add", "--all")
    git(program, "commit", "--quiet", "--message=one")
    (folder / "study.toml").write_text(study)
    return folder / "study.toml"


def plan(file: Path, *, computes: bool = True) -> Plan:
    return Lab(file, out=file.parent / "runs").plan(computes=computes)


def changed(study: str, **keys: str) -> str:
    """The study with lines of its [runner] replaced or added."""
    head, line, rest = study.partition("[arm.wide]\n")
    lines = [one for one in head.splitlines() if one.partition(" ")[0] not in keys]
    return "\n".join([*lines, *(f"{key} = {value}" for key, value in keys.items() if value), line + rest])
