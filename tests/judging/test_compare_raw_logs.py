"""Public claims from files to answers: logs in the public form, with the claims' numbers, through reader, sides and word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.judging.test_compare_claims import CLAIMS, WORDS, near

from ablab.judging.compare.ask import ask

WHOLE = [name for name, one in CLAIMS.items() if all(row["of"] == 1 for row in (*one["x"], *one["y"]))]


def log(row: dict[str, Any], base: dict[str, str | None], equal: int) -> str:
    """A run as parameter-golf prints it: settings that the first run of its side has unless it says otherwise, and its end."""
    lines = []
    if row["settings"] is not None:
        own = {name: value for name, value in {**base, **row["settings"]}.items() if value is not None}
        own |= {f"equal_{i}": "1" for i in range(equal)}
        lines += ["Hyperparameters:", *(f"  {name}: {value}" for name, value in own.items())]
    lines += [f"seed: {row['seed']}", f"train_shards: {row['shards']}", f"val_tokens: {row['val_tokens']}"]
    steps = row["steps"]
    lines += [f"{steps}/20000 val_loss: 2.8129 val_bpb: 1.0889 train_time: {row['seconds'] * 1000:.0f}ms"]
    lines += [f"stopping_early: wallclock_cap train_time: {row['seconds'] * 1000:.0f}ms step: {steps}/20000"]
    if row["code_bytes"] is not None:
        lines.append(f"Code size: {row['code_bytes']} bytes")
    if row["bytes"] is not None:
        lines.append(f"Total submission size quantized+brotli: {row['bytes']} bytes")
    lines.append(f"{row['label']} val_loss:{row['nats']:.8f} val_bpb:{row['bpb']:.8f} eval_time:368074ms")
    return "\n".join(lines) + "\n"


def sides(folder: Path, claim: dict[str, Any]) -> tuple[str, str]:
    """Write the logs of both sides; returns their folders."""
    for name in "xy":
        for row in claim[name]:
            path = folder / name / Path(row["source"]).name
            path.parent.mkdir(exist_ok=True)
            path.write_text(log(row, claim[name][0]["settings"] or {}, claim["equal_settings"]))
    return str(folder / "x"), str(folder / "y")


@pytest.mark.parametrize("name", WHOLE)
def test_logs_give_the_claims_numbers(name: str, tmp_path: Path) -> None:
    claim = CLAIMS[name]
    x, y = sides(tmp_path, claim)
    [answer] = ask([x], [y], presets=["golf-strict", "golf-frontier"])["comparisons"]
    near(claim["unpaired"], answer["unpaired"])
    assert answer["word"] == WORDS.get(name, claim["unpaired"]["word"])
    for rule, found in zip(("golf_strict", "golf_frontier"), answer["rules"], strict=True):
        near(claim[rule], found)
    counts = [int(flag.partition(":")[2]) for flag in claim["flags"] if flag.startswith("levers_in_block:")]
    assert answer["levers"] is not None and counts in ([], [answer["levers"]["count"]])
    where = {(run["seed"], run["steps"]) for side in ("x", "y") for run in answer[side]["runs"]}  # type: ignore[literal-required]
    assert where == {(row["seed"], row["steps"]) for row in (*claim["x"], *claim["y"])}


def test_a_claim_of_seven_runs_beside_the_logs_of_five(tmp_path: Path) -> None:
    """The public case: two groups of equal settings, and of the one the five lowest of seven are there."""
    x, y = sides(tmp_path, CLAIMS["1769-vs-1736"])
    here = {str(row["seed"]): row["bpb"] for row in CLAIMS["1769-vs-1736"]["x"]}
    told = {
        "val_bpb": 1.06453,
        "disclosed": {"val_bpb": {**here, "7": 1.06540571, "9999": 1.06534272}, "mean_val_bpb": 1.06477},
    }
    (tmp_path / "x" / "submission.json").write_text(json.dumps(told))
    [answer] = ask([x], [y], claim=[x])["comparisons"]
    assert answer["word"] == "same settings" and answer["sentence"].startswith("same settings: 0 of 99 settings differ")
    flags = [flag["said"] for flag in answer["flags"] if "claim" in flag["kind"]]
    assert flags == [
        "disclosed.val_bpb tells of 7 runs, and 5 of them are here, which are the 5 lowest; "
        "not here: 7: 1.06540571, 9999: 1.06534272"
    ]
    assert answer["claims"][0]["match"] == "the mean of all 5 runs of x, ttt, in bits per byte"
