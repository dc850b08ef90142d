"""Results that were written under an older name of a field are read under today's."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from tests import finished_store as made

from ablab.core.fault import CheckFailed
from ablab.core.sealed import sealed


def older(folder: Path, violations: list[str]) -> None:
    """Rewrite a finished stage as it was before violations had their name."""
    with np.load(folder / "scores.npz", allow_pickle=False) as held:
        arrays = dict(held)
    text = json.loads(arrays["json"].tobytes())
    assert text.pop("violations") == []
    arrays["json"] = np.frombuffer(json.dumps(text | {"gates": violations}).encode(), dtype=np.uint8)
    np.savez(buffer := io.BytesIO(), **arrays)
    (folder / "scores.npz").write_bytes(buffer.getvalue())
    record = json.loads((folder / "result.json").read_text())
    del record["digest"], record["violations"]
    record["artifact"].pop("violations", None)
    record["artifact"]["gates"] = record["gates"] = violations
    record["scores"]["sha256"] = hashlib.sha256(buffer.getvalue()).hexdigest()
    (folder / "result.json").write_text(json.dumps(sealed(record)))


def test_violations_were_called_gates(tmp_path: Path) -> None:
    plan = made.fill(made.plan(tmp_path))
    key = next(iter(next(iter(plan.runs.values())).score_keys.values()))
    older(plan.store.score(key), ["C1 causal: a later token moves an earlier nll"])
    result = plan.store.scored(key)
    assert result is not None and result["violations"] == ["C1 causal: a later token moves an earlier nll"]
    assert result["artifact"]["violations"] == result["violations"] and "gates" not in result
    assert plan.store.scores(key, result).violations == result["violations"]
    path = plan.store.score(key) / "result.json"
    path.write_text(path.read_text().replace("moves", "MOVES"))
    with pytest.raises(CheckFailed, match="was changed after it was written"):
        plan.store.scored(key)
