"""Files that are made to take long: what is read takes a time that grows with the file, not with its square."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.logged import SAMPLES

from ablab.judging.logs.formats import from_text
from ablab.judging.logs.text import Text

SECONDS = 30  # of this process: what is quadratic takes minutes, these take one or two
WORST = {
    "blank lines": ("a.txt", "\n" * 1_000_000 + "step:1/1 val_loss:3.2\n" + "=" * 30 + "\n"),
    "spaces before a score": ("a.log", (" " * 1400 + "val_loss:x val_loss = \n") * 2_000),
    "a row of spaces": ("a.md", "| seed | bpb |\n" + (" " * 30_000 + "|-" + " " * 5000 + "x\n| a |\n") * 20),
    "lists": ("README.md", "losses = [3.2781, 3.2776, 3.2780]\n" * 30_000),
    "brackets": ("README.md", "[3.2781, " * 200_000),
    "runs of a verdict": ("verdict.json", SAMPLES["verdict"].data.decode().replace(
        '"runs": [', '"runs": [' + '{"arm": "a", "seed": 1, "status": "done", "metrics": {"s": 3.5}},\n' * 30_000)),
    "seeds of a submission": ("submission.json", '{"author": "x", "seed_results": {' + ",\n".join(
        f'"{seed}": {{"val_bpb": 1.5}}' for seed in range(30_000)) + "}}"),
    "runs of a speedrun": ("speedrun_results.json", '{"runs": [' + ",\n".join(
        ['{"run_info": {"eval/a/bpb": 1.5}}'] * 30_000) + "]}"),
    "columns": ("a.csv", "_step," + ",".join(f"eval/{n}/loss" for n in range(4_000)) + "\n" + ("1" + ",2.5" * 4_000 + "\n")
        * 60),
    "digits": ("trainer_state.json", '{"log_history": [{"eval_loss": 1' + "0" * 100_000 + '.5, "step": 1' + "0" * 4_000
        + "}]}"),
    "records": ("events.out.tfevents.1", b"brain.Event:2" + bytes(4_000_000)),
}  # fmt: skip


@pytest.mark.parametrize("name", WORST)
def test_it_is_read_in_time(name: str) -> None:
    file, data = WORST[name]
    began = time.process_time()
    from_text(Text(Path(file), data if isinstance(data, bytes) else data.encode()))
    assert time.process_time() - began < SECONDS
