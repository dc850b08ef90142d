"""Writes logged_claims.json: twelve public claims of openai/parameter-golf, their runs as numbers, and what a judge must say.

    python make_logged_claims.py CLAIMS REPOSITORY

CLAIMS: a JSON list of {id, claim, x, y, expected}; a run names its log by `blob`. The expected numbers are Welch's and the
record rules' of these scores, checked against the p-values that seven of the claims print; runs a side by scipy's noncentral
t. REPOSITORY: a git directory of openai/parameter-golf with its pull heads (commit 4908dc46 and 2,059 heads were used); from
each log come the settings, code size and clock. Of settings only those are kept in which the runs of a claim differ, with
the count of the others.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

PLACES = re.compile(r"(?:path|dir|file|files|run_id|seed|is_main_process)$|^(?:local_)?rank$")
KEPT = ("word", "delta", "nx", "ny", "low", "high", "p", "se", "df", "c")
RULED = ("record", "margin", "t", "df", "p")


def settings(text: str) -> dict[str, str] | None:
    """The last list of settings of a log, whatever other ranks write between its lines; None where it holds none."""
    found: list[dict[str, str]] = []
    on = False
    for line in text.splitlines():
        line = re.sub(r"^\[default\d+\]:", "", line)
        if line.strip() == "Hyperparameters:":
            on = True
            found.append({})
        elif on and (match := re.match(r"  (\w+): (.*)$", line)):
            found[-1][match[1]] = match[2]
        elif "NCCL" not in line:
            on = False
    return {k: v for k, v in found[-1].items() if not PLACES.search(k)} if found else None


def run(row: dict, repository: str) -> dict:
    command = ["git", "-C", repository, "cat-file", "blob", row["blob"]]
    text = subprocess.run(command, capture_output=True, check=True).stdout.decode(errors="replace")
    code = re.findall(r"Code size(?: \(compressed\))?: (\d+) bytes", text)
    clock = re.findall(r"stopping_early.*train_time: ?(\d+)ms", text)
    return {
        "source": f"{row['pr']}/{Path(row['path']).name}", "label": row["label"],
        "nats": row["val_loss"], "bpb": row["val_bpb"], "seed": row["seed_log"], "seed_in_name": row["seed_file"],
        "steps": row["steps"], "val_tokens": row["val_tokens"], "shards": int(row["train_shards"]),
        "bytes": (row["total_bytes"] or [None])[0], "of": row["runs_in_file"],
        "code_bytes": int(code[-1]) if code else None, "seconds": int(clock[-1]) / 1000 if clock else None,
        "settings": settings(text),
    }  # fmt: skip


def squeeze(sides: dict[str, list[dict]]) -> int:
    """Leave of each run's settings those in which any two differ; returns how many are equal in all."""
    runs = [one for side in sides.values() for one in side if one["settings"] is not None]
    names = {name for one in runs for name in one["settings"]}
    equal = {n for n in names if len({one["settings"].get(n) for one in runs}) == 1}
    for side in sides.values():
        lists = [one["settings"] for one in side if one["settings"] is not None]
        usual = (
            {n: Counter(one.get(n) for one in lists).most_common(1)[0][0] for n in sorted(names - equal)}
            if lists
            else {}
        )
        for one in side:
            if one["settings"] is not None:
                own = one.pop("settings")
                one["settings"] = {n: own.get(n) for n in usual if own.get(n) != usual[n]}
        if lists:
            side[0]["settings"] = usual | side[0]["settings"]
    return len(equal)


def main(claims: str, repository: str) -> None:
    out = []
    for one in json.loads(Path(claims).read_text()):
        if "unpaired" not in one["expected"]:
            continue
        sides = {side: [run(row, repository) for row in one[side]] for side in "xy"}
        expected = one["expected"]
        out.append({
            "id": one["id"], "claim": one["claim"], **sides, "equal_settings": squeeze(sides),
            "unpaired": {name: expected["unpaired"][name] for name in KEPT},
            **{name: {k: expected[name][k] for k in RULED} for name in ("golf_strict", "golf_frontier")},
            "by_seed": expected["paired_by_seed_robustness_only"],
            "settle": expected["runs_per_side_to_settle"],
            "flags": [":".join(flag.split(":")[: 2 if flag[0] == "l" else 1]) for flag in expected["flags"]],
        })  # fmt: skip
    lines = ",\n".join(json.dumps(one) for one in out)
    Path(__file__).with_name("logged_claims.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
