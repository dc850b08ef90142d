"""What a run loses when it is ended without a checkpoint."""

from __future__ import annotations

from typing import TypedDict

from ablab.core.fault import CheckFailed
from ablab.core.files import read_json
from ablab.runs.plan import Run
from ablab.runs.store import Store, read_lines


class _Of(TypedDict):
    """Of a checkpoint, the step that it is of."""

    step: int


def lost(store: Store, run: Run) -> str:
    """The steps since the newest checkpoint, or the stage that was under way, in words; "" where nothing is lost."""
    folder = store.train(run.train_key)
    if (folder / "done.json").exists():
        at = next(
            (stage for stage, key in run.score_keys.items() if not (store.score(key) / "result.json").exists()), None
        )
        return f"{run.arm}, seed {run.seed}: stage {at}" if at else ""
    kept = 0
    for path in sorted(folder.glob("checkpoint-*.json"), reverse=True):
        try:
            kept = read_json(path, form=_Of)["step"]
            break
        except CheckFailed:
            continue
    steps = (row.get("step") for row in read_lines(folder / "metrics.jsonl"))
    made = max((step for step in steps if isinstance(step, int)), default=0)
    if made <= kept:
        return ""
    n = made - kept
    return (
        f"{run.arm}, seed {run.seed}: {n} step{'s' if n > 1 else ''} (of {made}; its last checkpoint is of step {kept})"
    )
