"""Writes real_noise.json: how equal trainings of public projects really scatter, as numbers with where each is from.

    python make_real_noise.py MODDED GOLF

MODDED: a git directory of KellerJordan/modded-nanogpt; taken is the list of 1,261 losses of one configuration, in its order.
GOLF: one of openai/parameter-golf with its pull heads (refs/pull/N/head). Of each pull request that the shipped bank names
for a stage, the logs are read by `ablab.judging.logs` and sorted into arms by settings and code; kept is every arm of two
seeds or more whose scores are of the family's exact export, as residuals (value - mean of the arm) sqrt(n / (n - 1)) with
the arm's sd. Logs that several pull requests carry count once.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from ablab.judging import noise
from ablab.judging.compare.exports import export
from ablab.judging.logs.arms import chosen, into_arms
from ablab.judging.logs.formats import from_text
from ablab.judging.logs.stages import labels
from ablab.judging.logs.text import Text
from ablab.records.log import LoggedRun

LIST = "records/track_1_short/2024-12-17_SparsifyEmbeds/README.md"
WANTED = (("sp8192", "ttt"), ("sp1024", "sliding"))


def git(repository: str, *command: str) -> bytes:
    return subprocess.run(["git", "-C", repository, *command], capture_output=True, check=True).stdout


def listed(repository: str) -> dict[str, Any]:
    """The 1,261 losses."""
    text = git(repository, "show", f"HEAD:{LIST}").decode()
    [numbers] = re.findall(r"accs = \[([^\]]+)\]", text)
    losses = [float(one) for one in numbers.split(",")]
    return {
        "source": "KellerJordan/modded-nanogpt", "commit": git(repository, "rev-parse", "HEAD").decode().strip(),
        "licence": "MIT", "file": LIST, "unit": "nats_per_token", "losses": losses,
    }  # fmt: skip


def logs(repository: str, pulls: list[int]) -> list[LoggedRun]:
    """The run that counts of every log in the pull heads."""
    seen: set[str] = set()
    runs = []
    for pull in pulls:
        tree = git(repository, "ls-tree", "-r", f"refs/pull/{pull}/head", "records/").decode(errors="replace")
        for line in tree.splitlines():
            about, _, path = line.partition("\t")
            blob = about.split()[2]
            if not re.search(r"\.(log|txt|out)$", path) or blob in seen:
                continue
            seen.add(blob)
            reading = from_text(Text(Path(path), git(repository, "cat-file", "blob", blob)))
            runs += chosen(reading.runs)[0]
    return runs


def residuals(runs: list[LoggedRun], family: str, stage: str) -> list[dict[str, Any]]:
    """Arms of two seeds or more: the folder, its scores' sd, and what is left of each score."""
    found = []
    folders: dict[Path, list[LoggedRun]] = {}
    for run in runs:
        folders.setdefault(run.source.parent, []).append(run)
    for folder, members in folders.items():
        for arm in into_arms(members):
            scores: dict[int, float] = {}
            for run in arm.runs:
                label = labels(run).get(stage)
                level = run.stages[label] if label else None
                of = export([level]) if level else None
                if (
                    level
                    and level.bpb
                    and of
                    and of.exact
                    and of.name == family
                    and run.seed is not None
                    and run.complete
                ):
                    scores.setdefault(run.seed, level.bpb)
            if len(scores) < 2 or len(set(scores.values())) < len(scores):
                continue
            n, mean = len(scores), statistics.fmean(scores.values())
            left = [round((y - mean) * (n / (n - 1)) ** 0.5, 8) for y in scores.values()]
            found.append({"folder": folder.name, "sd": round(statistics.stdev(scores.values()), 8), "residuals": left})
    return found


def golf(repository: str) -> list[dict[str, Any]]:
    made = []
    for family, stage in WANTED:
        row = noise.level(family, stage, "bits_per_byte")
        assert row is not None
        runs = logs(repository, row["pulls"])
        arms = residuals(runs, family, stage)
        print(family, stage, len(runs), "runs", len(arms), "arms", sum(len(a["residuals"]) for a in arms), "residuals")
        made.append({
            "source": row["source"], "commit": row["commit"], "licence": row["licence"], "pulls": row["pulls"],
            "family": family, "stage": stage, "unit": "bits_per_byte", "arms": arms,
        })  # fmt: skip
    return made


if __name__ == "__main__":
    out = {"modded": listed(sys.argv[1]), "golf": golf(sys.argv[2])}
    parts = [json.dumps({"modded": out["modded"]})[1:-1], '"golf": [\n']
    rows = []
    for one in out["golf"]:
        arms = ",\n".join(json.dumps(arm) for arm in one.pop("arms"))
        rows.append(json.dumps(one)[:-1] + ', "arms": [\n' + arms + "\n]}")
    Path(__file__).with_name("real_noise.json").write_text(
        "{" + parts[0] + ",\n" + parts[1] + ",\n".join(rows) + "\n]}\n"
    )
