"""Print the files of ablab that one small study enters between its first training step and its words, with their functions.

In a process of its own: what other tests have imported or left in a memo would hide what is entered.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import Any

from ablab.judging import judge
from ablab.launch import work
from ablab.runs import planning
from ablab.runs.store import Store
from ablab.study import load

STUDY = """
study = { name = "core", question = "What is entered?" }
decision = { metric = "nats_per_token", stage = "pre_quant", matters = 0.01, seeds = { start = 2, at_most = 2 } }
budget = { tokens = 4096, batch_tokens = 512 }
data = { source = "mock" }
model = { layers = "LG", d_model = 32, n_heads = 2, seq_len = 64, local = { window = 8 }, global = { position = "nope" } }
[arm.grape_a]
model.global.position = "grape_a"
"""
SOURCE = Path(planning.__file__).resolve().parents[1]
FUNCTION = 1  # CO_OPTIMIZED: the code of a function, not of a module or a class that is imported


def entered(folder: Path) -> dict[str, list[str]]:
    """File below ablab -> its functions that were called while the study was trained, scored and judged."""
    (folder / "study.toml").write_text(STUDY)
    made = planning.make(load(folder / "study.toml"), Store(folder / "runs"), precision="fp32", say=lambda _: None)
    seen: dict[str, set[str]] = defaultdict(set)

    def see(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        mine = (
            code.co_flags & FUNCTION and not code.co_name.startswith("<") and code.co_filename.startswith(str(SOURCE))
        )
        if event == "call" and mine:
            seen[str(Path(code.co_filename).relative_to(SOURCE))].add(code.co_qualname)

    threading.setprofile(see)
    sys.setprofile(see)
    for run in made.runs.values():
        how: dict[str, Any] = {"mirrors": (), "stop": lambda: False, "say": lambda _: None}
        work.do(run, store=made.store, where=made.where, **how)
    answer = judge.conclude(made)
    sys.setprofile(None)
    threading.setprofile(None)
    assert all(row["word"] for row in answer["arms"])
    return {file: sorted(names) for file, names in sorted(seen.items())}


if __name__ == "__main__":
    print(json.dumps(entered(Path(sys.argv[1]))))
