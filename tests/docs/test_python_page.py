"""docs/python.md does what it says: its study, its script and its second script are executed as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from ablab.launch.study import Lab

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.S)


def test_the_page_works(tmp_path: Path) -> None:
    (study,), (runs, shows) = blocks("toml"), blocks("python")
    (tmp_path / "study.toml").write_text(study)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    printed = []
    for name, script in (("runs.py", runs), ("shows.py", shows)):
        (tmp_path / name).write_text(script)
        command = [sys.executable, name]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        printed.append(done.stdout)
    assert "price: 4 runs" in printed[0] and printed[0].count("done in") == 4, "no worker ran the script once more"
    assert printed[0].count("price:") == 1 and "report.html" in printed[0] and "{'wide': " in printed[0]
    assert re.search(r"baseline +baseline", printed[1])
    assert re.search(r"wide +(better|worse|equivalent|inconclusive)", printed[1])


def test_the_page_names_what_there_is() -> None:
    named = set(re.findall(r"^\| `\.([a-z]+)", PAGE, re.M)) | set(re.findall(r"`lab\.([a-z]+)", PAGE))
    assert named == {"check", "run", "report", "ladder", "verdict", "plan"} and all(
        hasattr(Lab, name) for name in named
    )
