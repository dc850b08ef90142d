"""The text of a file that another program wrote, line by line, and what is odd in it."""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from ablab.core.fault import Fault
from ablab.core.opened import read_whole

LONGEST = 1500  # characters; a line of numbers has some 200, one of 1,500 holds a program or a table of weights
MOST = 1 << 28  # bytes of a file; the longest public log has 12 MB
_UTF_16 = ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))  # what PowerShell's > writes
_SEED = re.compile(r"(?<![a-z])seed[-_ ]?(\d{1,18})(?!\d)|(?<![a-z0-9])s(\d{1,18})(?=[._-]|$)", re.IGNORECASE)


class Text:
    """A file's text. `faults` are what its readers found odd, by line."""

    def __init__(self, path: Path, data: bytes) -> None:
        code = next((name for mark, name in _UTF_16 if data.startswith(mark)), None)
        self.path = path
        self.data = data if code is None else data[2:].decode(code, "replace").encode("utf-8", "replace")
        self.faults: list[Fault] = []
        self._whole: str | None = None
        self._ends: list[int] = []

    @property
    def whole(self) -> str:
        """All of it; bytes that are no UTF-8 become signs of replacement."""
        if self._whole is None:
            self._whole = self.data.decode("utf-8", "replace").removeprefix("\ufeff")
        return self._whole

    @property
    def is_text(self) -> bool:
        """Whether it may be text: files of numbers hold zeros early."""
        return b"\0" not in self.data[:4096]

    def lines(self, longest: int = LONGEST) -> Iterator[tuple[int, str]]:
        """Yield (1-based number, line). What a program wrote over is gone; longer ones than `longest` are skipped."""
        for number, line in enumerate(self.whole.split("\n"), 1):
            if "\r" in line:
                line = line.rstrip("\r").rpartition("\r")[2]
            if len(line) <= longest:
                yield number, line

    def line_at(self, place: int) -> int:
        """Return the 1-based line of a character of `whole`."""
        if not self._ends:
            self._ends = list(itertools.accumulate(len(line) + 1 for line in self.whole.split("\n")))
        return bisect.bisect_right(self._ends, place) + 1

    def odd(self, line: int, what: str, cure: str = "") -> None:
        """Note that something in this line is odd."""
        self.faults.append(Fault(f"{self.path}:{line}", what, cure))

    @property
    def seed_in_name(self) -> int | None:
        """The seed that the file's name gives, or its folder's: `train_seed42.log`, `run_s42.txt`, `seed_42/log.txt`."""
        own = seed_in(self.path.name)
        return seed_in(self.path.parent.name) if own is None else own


def seed_in(name: str) -> int | None:
    """Read the seed that a name gives; None where it gives none."""
    match = _SEED.search(name)
    return int(match[1] or match[2]) if match else None


def opened_text(path: Path) -> Text:
    """Open the file at `path`. OSError as `ablab.core.opened.read_whole`, and for more than MOST bytes."""
    return Text(path, read_whole(path, MOST))


def decimals(number: str) -> int:
    """Count digits behind the point: 4 of `1.0820`, 10 of `1.082E-06`."""
    mantissa, _, exponent = number.lower().partition("e")
    return max(0, len(mantissa.partition(".")[2]) - (int(exponent) if exponent else 0))
