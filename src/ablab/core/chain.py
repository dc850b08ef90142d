"""A chain of digests over the rows of a file of JSON lines: each row carries that of its content and of the row before.

An edited, a removed, a put in or a moved line breaks it there. Lines cut off at the end do not: the last digest is kept
elsewhere, too (done.json of a run, verdict.json of a study). Rows of before there were chains have none, and are believed;
there is no key, so whoever writes the whole chain and every record of its end again is not told.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping

from ablab.core.files import canonical

FIELD = "chain"
_DIGITS = 16  # bytes of a digest
_MOST_SAID = 3  # lines that are named of one file


def linked(row: Mapping[str, object], before: str, aside: Collection[str] = ()) -> dict[str, object]:
    """Return the row with its digest; `before` is that of the row before ("" of none), `aside` what may differ (clocks)."""
    own = {name: value for name, value in row.items() if name != FIELD}
    return {**own, FIELD: _digest(own, before, aside)}


def end_of(line: bytes) -> str:
    """Return the digest of a line as the next row goes on from it: its own, or that of its bytes where it carries none."""
    row = _row(line)
    if row is not None and isinstance(row.get(FIELD), str):
        return str(row[FIELD])
    return hashlib.blake2b(line.rstrip(b"\n"), digest_size=_DIGITS).hexdigest() if line.strip() else ""


def check(lines: Iterator[bytes], *, aside: Collection[str] = (), end: str = "") -> tuple[list[str], str, int]:
    """Check the lines of a file: what is wrong, in words; the digest of its last line, and how many there are.

    end: the digest of a last line as it was kept elsewhere: the file must still hold it. A last line without its newline is
    what a crash leaves, and no fault.
    """
    faults, before, count, known, begun = list[str](), "", 0, not end, False
    for number, line in enumerate(lines, 1):
        row = _row(line)
        if not line.endswith(b"\n") and row is None:
            break
        own = None if row is None else row.get(FIELD)
        if row is None or not isinstance(own, str):
            if begun:
                faults.append(f"line {number} carries no digest: it was put in, or edited")
        elif own != _digest({name: value for name, value in row.items() if name != FIELD}, before, aside):
            faults.append(
                f"line {number} is not what was written there: it was edited, or a line before it removed or moved"
            )
        begun = begun or isinstance(own, str)
        before, count = end_of(line), number
        known = known or before == end
    if not known:
        faults.append(f"its end is missing: the last line that was written is not among its {count}")
    if len(faults) > _MOST_SAID:
        faults = [*faults[:_MOST_SAID], f"and {len(faults) - _MOST_SAID} more"]
    return faults, before, count


def _digest(own: Mapping[str, object], before: str, aside: Collection[str]) -> str:
    content = canonical({name: value for name, value in own.items() if name not in aside})
    return hashlib.blake2b(f"{before}\n{content}".encode(), digest_size=_DIGITS).hexdigest()


def _row(line: bytes) -> dict[str, object] | None:
    """Read the row of a line; None where it is none that this program writes."""
    try:
        row = json.loads(line)
        canonical(row)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
