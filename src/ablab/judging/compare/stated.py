"""What a claim states: its numbers, each with its place and unit, and the scores that it lists, run by run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ablab.core.fault import CheckFailed, Fault
from ablab.core.loose_json import loads

FEWEST = 3  # digits behind the point from which a number says which line it is
LONGEST = 100_000  # characters of a claim
_NUMBER = re.compile(
    r"(?P<before>(?<![\w.])[A-Za-z_\u03c3]{1,20}(?:\s?[=<:~\u2248]{1,2}\s?|\s))?"
    r"(?<![\w.])(?P<number>[-+\u2212]?(?:(?:\d{1,9})?\.\d{1,12}(?:e[-+]?\d{1,3})?|\d{1,9}e[-+]?\d{1,3}))(?![\w]*\.\d)"
    r"(?P<after>\s?(?:bpb|bits?[ /]per[ /]byte|nats?)\b)?",
    re.IGNORECASE,
)
_P = re.compile(r"p(?:_?value)?", re.IGNORECASE)
_T = re.compile(r"[tz](?:_?stat(?:istic)?)?", re.IGNORECASE)
_SD = re.compile(r"(?:^|_)(?:std|sd|stdev|sigma)$|^\u03c3$")


@dataclass(frozen=True)
class Number:
    """A stated number: as written, its place in the claim, digits behind the point, unit or p, t, sd; below: `p < 0.01`."""

    written: str
    place: str
    value: float
    digits: int
    unit: str | None
    below: bool = False

    @property
    def significant(self) -> int:
        """Digits from the first that is not 0."""
        return len(re.sub(r"\D", "", self.written.lower().partition("e")[0]).lstrip("0"))


@dataclass(frozen=True)
class Listed:
    """Numbers that stand side by side, each with its name: values of one key in JSON, or a column of a table of Markdown."""

    place: str
    numbers: tuple[tuple[str, Number], ...]


def numbers(claim: str) -> list[Number]:
    """List the numbers that may be meant as a result. CheckFailed for what is too long, or no JSON, to be a claim."""
    if len(claim) > LONGEST:
        raise CheckFailed(Fault("--claim", f"{len(claim):,} characters are no claim", f"give at most {LONGEST:,}"))
    value = tree(claim)
    return [*(_of_text(claim, "") if value is None else _of_tree(value, ""))]


def lists(claim: str) -> Iterator[Listed]:
    """Yield every list of numbers with decimals: `{"1": 1.08, "2": 1.09}`, `[1.08, 1.09]`, a key of equal objects, a column."""
    value = tree(claim)
    yield from _columns(claim) if value is None else _siblings(value, "")


def _siblings(value: object, place: str) -> Iterator[Listed]:
    if not isinstance(value, dict | list):
        return
    named = value.items() if isinstance(value, dict) else enumerate(value, 1)
    inside = [(str(name), one) for name, one in named]
    own = [
        (name, _number(repr(one), f"{place}.{name}", _unit(place))) for name, one in inside if isinstance(one, float)
    ]
    if len(own) > 1 and len(own) == len(inside):  # else they are numbers of many kinds
        yield Listed(place, tuple(own))
    tables = [(name, one) for name, one in inside if isinstance(one, dict)]
    for key in dict.fromkeys(key for _, one in tables for key in one):
        column = [(name, _number(repr(one[key]), f"{place}.{name}.{key}", _unit(key))) for name, one in tables
                  if isinstance(one.get(key), float)]  # fmt: skip
        if len(column) > 1:
            yield Listed(f"{place}.{key}", tuple(column))
    for name, one in inside:
        yield from _siblings(one, f"{place}.{name}".lstrip("."))


def _columns(text: str) -> Iterator[Listed]:
    """Yield the columns of tables, each row called by its first cell."""
    rows: list[list[str]] = []
    for line in [*text.splitlines(), ""]:
        if line.lstrip().startswith("|"):
            rows.append([cell.strip(" *`") for cell in line.strip().strip("|").split("|")])
            continue
        for column, head in enumerate(rows[0] if len(rows) > 2 else ()):
            cells = [(row[0], [*_of_text(row[column], "", _unit(head))]) for row in rows[1:] if len(row) > column]
            told = tuple((name, found[0]) for name, found in cells if len(found) == 1)
            if column and len(told) > 1:
                yield Listed(head, told)
        rows = []


def tree(claim: str) -> object:
    """Read the claim's JSON; None where it is text."""
    if not claim.lstrip().startswith("{"):
        return None
    try:
        return loads(claim)
    except ValueError as error:
        cure = "give a JSON object, or text that does not begin with {"
        raise CheckFailed(Fault("--claim", f"is no JSON ({error})", cure)) from None


def _of_text(text: str, place: str, unit: str | None = None) -> Iterator[Number]:
    for match in _NUMBER.finditer(text):
        if text[: match.start("number")].rstrip(" =").endswith((">", "\u2265")):
            continue  # a bound that a rule sets is no result
        before = re.sub(r"[\s=<:~\u2248]", "", match["before"] or "")
        said = _unit((match["after"] or "").strip()) or _unit(before) or unit
        number = _number(match["number"].replace("\u2212", "-"), place, said, "<" in (match["before"] or ""))
        if number.digits >= FEWEST or said is not None:
            yield number


def _of_tree(value: object, place: str) -> Iterator[Number]:
    """Yield numbers and texts of a JSON value; whole numbers are counts, and not compared with anything."""
    name = place.rpartition(".")[2].partition("[")[0]
    if isinstance(value, dict):
        for key, inside in value.items():
            yield from _of_tree(inside, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for i, inside in enumerate(value):
            yield from _of_tree(inside, f"{place}[{i}]")
    elif isinstance(value, str):
        yield from _of_text(value, place, _unit(name))
    elif isinstance(value, float):
        number = _number(repr(value), place, _unit(place))
        if number.digits >= FEWEST or number.unit is not None:
            yield number


def _number(written: str, place: str, unit: str | None, below: bool = False) -> Number:
    mantissa, _, power = written.lower().partition("e")
    digits = len(mantissa.partition(".")[2]) - int(power or 0)
    return Number(written, place, float(written), digits, unit, below)


def _unit(word: str) -> str | None:
    """Return bpb, nats, p or t, by the words inside a name."""
    low = word.lower()
    if _SD.search(low):
        return "sd"
    if "bpb" in low or ("bit" in low and "byte" in low):
        return "bpb"
    if "nat" in re.split(r"[^a-z]+", low) or "nats" in low or "loss" in low:
        return "nats"
    last = re.split(r"[.\s]", low)[-1]
    return "p" if _P.fullmatch(last) else "t" if _T.fullmatch(last) else "sd" if _SD.search(last) else None
