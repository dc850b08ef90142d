"""Cheaper evidence: what a seed moves is moved alone, means are means, and the report reckons as it says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import tiny

from ablab.verdict.spending import t_isf
from bench import cheaper_evidence as bench


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, int], dict[str, Any]]:
    """Trainings of six steps: each set at two seeds."""
    corpus, settings = tiny.corpus(), tiny.settings(6)
    part = dataclasses.replace(corpus, valid=corpus.valid.some([0, 1]))
    sets = {"both": bench.Set("both", 1.0), "order": bench.Set("order", 1.0), "draws": bench.Set("draws", 1.0)}
    sets |= {"long": bench.Set("both", 1.0, 0.95), "short": bench.Set("both", 0.5)}
    return {
        (name, seed): bench.trained(settings, 6, corpus, part, which, seed)
        for name, which in sets.items()
        for seed in (0, 1)
    }


def test_a_seed_moves_what_the_set_says_and_nothing_else(found: dict[tuple[str, int], dict[str, Any]]) -> None:
    """At seed 0 all three are one run, on the small text; at seed 1 they are three."""
    assert found["order", 0]["last"] == found["draws", 0]["last"] == found["both", 0]["last"][:2]
    ends = [tuple(found[name, 1]["last"][:2]) for name in ("both", "order", "draws")]
    assert len({*ends, tuple(found["order", 0]["last"])}) == 4


def test_lengths_warmdowns_and_evaluations_are_those_asked(found: dict[tuple[str, int], dict[str, Any]]) -> None:
    assert (found["short", 0]["steps"], found["both", 0]["steps"]) == (3, 6)
    assert found["long", 0]["last"] != found["both", 0]["last"][:2]
    assert set(bench.KEPT) <= set(found["both", 0]) and not set(bench.KEPT) & set(found["draws", 0])
    assert all(nats > 0 for one in found.values() for nats in one["last"])


def test_means_are_means_of_the_weights_and_leave_them() -> None:
    weight = {"w": torch.nn.Parameter(torch.zeros(3))}
    means = bench.Means(weight, steps=10)
    for number in range(1, 11):
        weight["w"].data.fill_(float(number))
        means.update(number)
    means.swap("flat 20%")
    assert weight["w"].tolist() == pytest.approx([9.5] * 3)
    means.swap("flat 20%")
    assert weight["w"].tolist() == [10.0] * 3
    kept, expected = 0.0, 0.0
    for number in range(1, 11):
        kept = min(1 - 1 / 1.0, (1 + number) / (1 + number + bench.WARMUP))
        expected = expected * kept + number * (1 - kept)
    assert means.held["ema 10%"][0].tolist() == pytest.approx([expected] * 3)


def test_runs_are_the_fewest_whose_interval_is_as_narrow() -> None:
    for paired in (True, False):
        n = bench.runs_for(0.01, 0.005, paired=paired) // 2
        wide = [t_isf(0.025, k - 1 if paired else 2 * k - 2) * 0.01 / k**0.5 for k in (n - 1, n)]
        assert wide[0] > 0.005 >= wide[1]


def test_the_ratio_of_two_ways_of_one_run_has_its_interval() -> None:
    """Correlated pairs whose sds are equal in truth: the interval holds 1 in about 95%, and is narrower the more alike."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        shared, own = rng.standard_normal(16), rng.standard_normal((2, 16))
        x, y = (bench.Column("", np.zeros(16), 2 * shared + one) for one in own)
        found, low, high = bench.ratio(x, y)
        assert low <= found <= high
        held += low <= 1 <= high
    assert 0.92 <= held / 400 <= 0.98
    alike = bench.Column("", np.zeros(16), 2 * shared + 0.01 * own[0])
    _, low, high = bench.ratio(alike, bench.Column("", np.zeros(16), 2 * shared))
    assert high - low < 0.05


def test_the_report_tells_each_way_beside_independent_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    size = {"tokens": [100.0] * 8, "bytes": [400.0] * 8}
    head = {"set": "", "arm": "", "seed": -1, "study": "s", "metric": "nats_per_token", "tested": "a", "text": size,
            "small": {key: value[:2] for key, value in size.items()}, "among": [0, 1]}  # fmt: skip
    lines = [head]
    for seed in range(5):
        shared = rng.normal(0, 10)
        for arm in ("baseline", "a"):
            nats = (300 + shared + rng.normal(0, 1, 8) - (arm == "a")).tolist()
            means = dict.fromkeys(bench.KEPT, nats[:2])
            row = {"arm": arm, "seed": seed, "evaluations": [sum(nats[:2])], **means}
            lines += [{"set": which.name, "last": nats, **row} for which in bench.SETS[:2]]
    (tmp_path / "s.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert bench.main(["report", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("| ")]
    assert [row[0].split(",")[0] for row in rows[1:]] == [
        "last weights", "last weights", "ema 10%", "flat 20%", "mean of the last evaluations", "both @ 0.375",
    ]  # fmt: skip
    assert all(len(row) == len(rows[0]) == 9 for row in rows)
    assert float(rows[1][4]) > 5 * float(rows[1][3]), "what both arms share is gone from pairs"
    assert rows[3][7] == "1.00 [1.00, 1.00]" and rows[3][8] == "+0.00000 +-0.00000", "the same scores: no gain, no bias"
    assert "sd by share of the text: 0.125" in out
