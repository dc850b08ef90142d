"""`python -P -m ablab.bridges.megatron.plugin.table STUDY...`: which arms Megatron-Core trains, and why not the others."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ablab import study as studies
from ablab.bridges.megatron.plugin.express import express
from ablab.core.fault import CheckFailed, Refused

TRAINS = "trains"


def table(paths: Sequence[Path]) -> str:
    """Write both lists as one table in Markdown: a row for the arms of a study of which the same is said."""
    lines = ["| study | arms | in Megatron-Core |", "|---|---|---|"]
    for path in paths:
        said: dict[str, list[str]] = {}
        for arm, text in _arms(path):
            said.setdefault(text, []).append(arm)
        for text, arms in sorted(said.items(), key=lambda item: item[0] != TRAINS):
            lines.append(f"| {path.name} | {', '.join(arms)} | {text} |")
    return "\n".join(lines) + "\n"


def _arms(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (arm, what is said of it), the baseline first."""
    study = studies.load(path)
    if study.runner is not None:
        yield "all", "refused: its arms are runs of a program, not of ablab's model"
        return
    for name, arm in study.with_baseline.items():
        try:
            express(arm.settings, name)
            yield name, TRAINS
        except CheckFailed as error:
            reasons = (f"{fault.place.removeprefix(f'arm {name}: ')}: {fault.fault}" for fault in error.faults)
            yield name, "refused: " + "; ".join(dict.fromkeys(reasons))


def main(argv: Sequence[str]) -> int:
    """Print the table of the studies named; 2 where none is, 3 or 4 where one cannot be read."""
    if not argv:
        print("name study files, such as studies/*.toml", file=sys.stderr)
        return 2
    try:
        print(table([Path(name) for name in argv]), end="")
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
