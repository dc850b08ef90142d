"""What a claim's own text shows to be wrong, without any run: ratios, signs, counts, units of bytes, a reference that switches.

Every rule is exact up to the digits that are printed; what a rule cannot read it leaves alone.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ablab.judging import noise
from ablab.judging.logs import table
from ablab.judging.logs.table import SUMMARY, TableRow, plain
from ablab.judging.logs.text import Text
from ablab.records.comparison import Flag
from ablab.verdict.spending import t_cdf

NUM = r"(?:\d{1,9}(?:\.\d{1,12})?|\.\d{1,12})(?:e[-+]?\d{1,3})?"
_SIGNED = re.compile(r"(?<![\w.])[-+\u2212]0?\.\d{2,12}")
_SIGMA = r"(?:\u03c3|sigmas?|s\.?d\.?|std|standard deviations?)"
_SHARE = re.compile(
    rf"(?P<share>{NUM})\s?% of [^.%\n]{{0,60}}?{_SIGMA}[^.%\n=]{{0,30}}?[=\u2248:]\s?(?P<sd>0?\.\d{{3,12}})",
    re.IGNORECASE,
)
_TIMES = re.compile(
    rf"(?P<delta>(?<![\w.])[-+\u2212]?0?\.\d{{3,12}})\s?(?:bpb|nats|bits? ?/? ?byte)?\s?(?:=|\u2248|is|\(|,|~)\s?[~\u2248]?"
    rf"(?P<times>{NUM})\s?{_SIGMA}(?![a-z])",
    re.IGNORECASE,
)
_TOLD_SD = re.compile(rf"{_SIGMA}\W{{0,4}}[=\u2248:]?\s?(?P<sd>0?\.\d{{4,12}})", re.IGNORECASE)
_RANGES = re.compile(
    r"(?P<a>\d\.\d{3,8})\s?[\u2013\u2014-]\s?(?P<b>\d\.\d{3,8})[^\n.;]{0,60}?"
    r"\b(?:versus|vs\.?|against|compared (?:to|with)|than)\s"
    r"[^\n.;]{0,30}?(?P<c>\d\.\d{3,8})\s?[\u2013\u2014-]\s?(?P<d>\d\.\d{3,8})"
)
_GAIN = re.compile(r"\b(?:improve\w*|better|gains?|helps?)\b", re.IGNORECASE)
_LOSS = re.compile(r"\b(?:worse\w*|regress\w*|hurts?|degrad\w*)\b", re.IGNORECASE)
_WORDS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_COUNT = re.compile(
    rf"(?<![\w.#-])(?P<n>\d{{1,3}}|{'|'.join(_WORDS)}) (?:[a-z-]{{1,20}} )?"
    r"(?:configurations?|configs|experiments|variants|ablations)\b",
    re.IGNORECASE,
)
_MEGABYTES = re.compile(r"(?<![\w.])(?P<n>\d{1,4}\.\d{2,3})\s?MB\b")
_DELTA = re.compile(r"delta|\u0394|diff|(?<![a-z])vs(?![a-z])", re.IGNORECASE)
_ARTIFACT = re.compile(r"artifact|size|bytes", re.IGNORECASE)
_CHANGE = re.compile(r"change|config|setting|lever", re.IGNORECASE)
_PACKS = re.compile(r"bits|quant|int\d|compress|clip|layer|dim\b|d_model|vocab|lzma|brotli|baseline", re.IGNORECASE)
_Z = re.compile(r"\bz\W{0,4}=\W{0,3}?([-+\u2212]?\d{1,3}\.\d{1,6})", re.IGNORECASE)
_P = re.compile(r"\bp\W{0,4}=\W{0,3}?(0?\.\d{2,12})", re.IGNORECASE)
_ONE_SEED = re.compile(r"\b(?:single|one)[- ]seed\b", re.IGNORECASE)
_MORE_SEEDS = re.compile(r"\b(?:[2-9]|two|three|four|five)[- _]seeds?\b", re.IGNORECASE)
_ONE_CHECKPOINT = re.compile(r"eval(?:uation)?[- ]only|same checkpoint|saved \S{0,20}model", re.IGNORECASE)
FAMILIES = {"sp8192": r"sp8192", "sp8192_caseops": r"caseops", "sp4096": r"sp4096", "sp1024": r"sp1024"}
APART = 0.01  # share of its size by which an artifact may differ where nothing that packs it was changed
NEAR = 1500  # characters in which two statements are of one thing
SHOWN = 6


@dataclass(frozen=True)
class Known:
    """What runs told: the spread of x (None without two runs), the sizes of artifacts, and how many runs x has."""

    sd: float | None = None
    sizes: tuple[int, ...] = ()
    n: int = 0


def faults(pages: Sequence[str], known: Known) -> Iterator[Flag]:
    """Flag each slip in a claim's pages: Markdown, plain text, or the text of a JSON object."""
    trees = [tree for page in pages if (tree := _tree(page)) is not None]
    sizes = sorted({*known.sizes, *(size for tree in trees for size in _sizes(tree, ""))})
    for tree in trees:
        yield from _multiples(tree, known.sd)
    for page in pages:
        if _tree(page) is None:
            yield from _shares(page, known.sd)
            yield from _normal_tails(page, known.n)
            yield from _signs(page)
            yield from _rows(page)
            yield from _mebibytes(page, sizes)
            for rows in _tables(page):
                yield from _references(page, rows, sizes)


def _flag(kind: str, said: str, grade: str = "warns") -> Flag:
    return {"kind": kind, "side": "", "grade": "notes" if grade == "notes" else "warns", "said": said}


def _tree(page: str) -> dict[str, object] | None:
    if not page.lstrip().startswith("{"):
        return None
    try:
        tree = json.loads(page)
    except (ValueError, RecursionError):
        return None
    return tree if isinstance(tree, dict) else None


def _sizes(value: object, name: str) -> Iterator[int]:
    """Yield whole numbers under a key that speaks of bytes."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _sizes(inner, str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from _sizes(inner, name)
    elif isinstance(value, int) and not isinstance(value, bool) and re.search(r"bytes|size", name) and value >= 100_000:
        yield value


def _number(text: str) -> tuple[float, float]:
    """Read (value, half of its last digit)."""
    text = text.replace("\u2212", "-").lower()
    mantissa, _, power = text.partition("e")
    digits = len(mantissa.partition(".")[2]) - int(power or 0)
    return float(text), 0.5 * 10.0**-digits


def _off(delta: str, times: tuple[float, float], sd: tuple[float, float]) -> str | None:
    """Write `0.00009 / 0.00014 = 0.63, not 0.06`, where no rounding of the three makes it true."""
    size, half = _number(delta)
    low, high = max(0.0, abs(size) - half) / (sd[0] + sd[1]), (abs(size) + half) / max(sd[0] - sd[1], 1e-300)
    if low <= abs(times[0]) + times[1] and abs(times[0]) - times[1] <= high:
        return None
    shown = delta.lstrip("-+\u2212")
    return f"{shown} / {sd[0]:.6g} = {abs(size) / sd[0]:.2g}, not {abs(times[0]):g}"


def _shares(page: str, sd: float | None) -> Iterator[Flag]:
    """Flag a difference as a share, or a multiple, of a spread."""
    for match in _SHARE.finditer(page):
        before = [*_SIGNED.finditer(page, max(0, match.start() - NEAR), match.start())]
        if before:
            value, half = _number(match["share"])
            said = _off(before[-1][0], (value / 100, half / 100), _number(match["sd"]))
            if said:
                yield _flag("claim_ratio", f"{match['share']}% of the sd: {said}")
            if _ONE_CHECKPOINT.search(page, max(0, match.start() - NEAR), match.start()):
                yield _checkpoint()
    told = [_number(match["sd"]) for match in _TOLD_SD.finditer(page)]
    spread = told[0] if told else None if sd is None else (sd, 0.0)
    if spread and spread[0] > 0:
        for match in _TIMES.finditer(page):
            if said := _off(match["delta"], _number(match["times"]), spread):
                yield _flag("claim_ratio", said)


def _normal_tails(page: str, n: int) -> Iterator[Flag]:
    """Flag a p that is the normal tail of a stated z: the sd is estimated from these runs, which is what Student's t is for."""
    zs, ps = ([_number(match[1]) for match in pattern.finditer(page)] for pattern in (_Z, _P))
    for z, z_half in zs:
        for p, p_half in ps:
            tails = [
                (_tail(abs(z) + z_half) * side - p_half, _tail(abs(z) - z_half) * side + p_half, side)
                for side in (1, 2)
            ]
            if p < 0.5 and (sides := [side for low, high, side in tails if low <= p <= high]):
                t = (
                    f"; with the sd of {n} runs Student's t has {sides[0] * (1 - t_cdf(abs(z), n - 1)):.2g}"
                    if n > 1
                    else ""
                )
                yield _flag("claim_z_test", f"p {p:g} is the normal tail of z = {z:g}, as if the sd were known{t}")
                return


def _tail(z: float) -> float:
    return 0.5 * math.erfc(z / math.sqrt(2))


def _checkpoint() -> Flag:
    said = "one checkpoint was evaluated twice: the yardstick is the noise of evaluations, not the sd of seeds"
    return _flag("claim_one_checkpoint", said, "notes")


def _multiples(value: object, sd: float | None) -> Iterator[Flag]:
    """Flag objects of a JSON that have a difference and its multiple of a spread."""
    if not isinstance(value, dict):
        return
    delta = next((v for k, v in value.items() if re.fullmatch(r"delta\w*|\w+_delta", k) and isinstance(v, float)), None)
    times = next(
        (v for k, v in value.items() if re.fullmatch(r"\w*sigmas?(?:_multiple)?", k) and isinstance(v, float)), None
    )
    told = next((v for k, v in value.items() if re.fullmatch(r"(?:\w*_)?(?:sd|std)", k) and isinstance(v, float)), sd)
    if delta is not None and times is not None and told:
        said = _off(f"{delta!r}", _number(f"{times!r}"), (told, 0.0))
        if said:
            yield _flag("claim_ratio", said)
    for inner in value.values():
        yield from _multiples(inner, sd)


def _signs(page: str) -> Iterator[Flag]:
    """Flag ranges apart in a paragraph that says the other direction, and `+0.003 better` in a cell."""
    for paragraph in (" ".join(one.split()) for one in re.split(r"\n\s*\n", page)):
        for match in _RANGES.finditer(paragraph):
            a, b, c, d = (float(match[name]) for name in "abcd")
            gain, loss = bool(_GAIN.search(paragraph)), bool(_LOSS.search(paragraph))
            first, second = f"{match['a']} to {match['b']}", f"{match['c']} to {match['d']}"
            if min(a, b) > max(c, d) and gain and not loss:
                apart = f"{min(a, b) - max(c, d):.4f} to {max(a, b) - min(c, d):.4f}"
                yield _flag("claim_sign", f"{first} against {second} is {apart} higher, where an improvement is stated")
            elif max(a, b) < min(c, d) and loss and not gain:
                apart = f"{min(c, d) - max(a, b):.4f} to {max(c, d) - min(a, b):.4f}"
                yield _flag("claim_sign", f"{first} against {second} is {apart} lower, where a loss is stated")
    for rows in _tables(page):
        for number, row in enumerate(rows, 1):
            for cell in row.cells.values():
                text = plain(cell)
                if re.match(r"\+0?\.\d+ better\b", text) or re.match(r"[-\u2212]0?\.\d+ worse\b", text):
                    yield _flag("claim_sign", f"row {number}: {text[:40]} has the other sign (lower is better)")


def _rows(page: str) -> Iterator[Flag]:
    """Flag a stated number of configurations that is that of no table."""
    if (match := _COUNT.search(page)) is None:
        return
    stated = _WORDS.index(match["n"].lower()) + 2 if match["n"].lower() in _WORDS else int(match["n"])
    kept = [[row for row in rows if not SUMMARY.fullmatch(_first(row))] for rows in _tables(page) if _scores(rows)]
    sizes = [len(rows) for rows in kept if len(rows) > 1]
    fits = any(size in (stated, stated + 1) or size % stated == 0 for size in sizes) if stated > 1 else True
    if sizes and not fits:  # one more: the baseline; a multiple: a row a seed
        yield _flag("claim_rows", f"{match[0]} are stated, and the table of results has {max(sizes)} rows", "notes")


def _first(row: TableRow) -> str:
    return plain(next(iter(row.cells.values()), ""))


def _mebibytes(page: str, sizes: Sequence[int]) -> Iterator[Flag]:
    """Flag numbers of `MB` that are a known size in MiB, and no known size in MB."""
    wrong: dict[str, int] = {}
    right = False
    for match in _MEGABYTES.finditer(page):
        value, half = _number(match["n"])
        if any(abs(size / 1e6 - value) <= half * 1.001 for size in sizes):
            right = True
        elif near := [size for size in sizes if abs(size / 2**20 - value) <= half * 1.001]:
            wrong[match["n"]] = near[0]
    if wrong:
        shown = ", ".join(f"{n} MB is {size:,} bytes, {size / 1e6:.2f} MB" for n, size in [*wrong.items()][:SHOWN])
        mixed = "; others of the same page are in MB" if right else ""
        yield _flag("claim_mebibytes", f"MiB are called MB: {shown}{mixed}")


def _tables(page: str) -> list[list[TableRow]]:
    return [rows for rows in table.markdown(Text(Path("claim.md"), page.encode("utf-8", "replace"))) if rows]


def _scores(rows: Sequence[TableRow]) -> list[str]:
    """Find heads of columns of scores: numbers from 0.1 with three digits and more, in most rows."""
    heads = [*rows[0].cells]
    fits = {
        h: sum(bool(re.match(r"\d{1,2}\.\d{3,}(?!\d* ?[MGk]B)", plain(row.cells.get(h, "")))) for row in rows)
        for h in heads
    }
    return [h for h in heads if not _DELTA.search(h) and fits[h] * 2 > len(rows)]


def _references(page: str, rows: Sequence[TableRow], sizes: Sequence[int]) -> Iterator[Flag]:
    """Flag a column of differences against one row, or one that switches; what else a row differs in by its size."""
    head = next((h for h in rows[0].cells if _DELTA.search(h)), None)
    if head is None or len(rows) < 3:
        return
    explained = max(
        (_explained(rows, head, column) for column in _scores(rows)), key=lambda one: _filled(one), default={}
    )
    if _filled(explained) < 2:
        return
    counts = Counter(ref for refs in explained.values() for ref in refs)
    first = min(counts, key=lambda ref: (-counts[ref], ref))
    others = {row: refs for row, refs in explained.items() if refs and first not in refs}
    against = {row: first if row not in others else min(others[row], key=lambda ref: (-counts[ref], ref)) for row, refs in
               explained.items() if refs}  # fmt: skip
    chain = all(ref == row - 1 for row, ref in against.items())  # each row against the one before it
    if others and not chain:
        groups: dict[int, list[int]] = {}
        for row, ref in against.items():
            groups.setdefault(ref, []).append(row)
        said = "; ".join(f"of {_listed(group)} against row {ref}" for ref, group in sorted(groups.items()))
        yield _flag("claim_reference", f"the reference of {plain(head)!r} switches: {said}")
    for row, refs in explained.items():
        if not refs:
            yield _flag(
                "claim_delta",
                f"row {row}: {plain(rows[row - 1].cells[head])[:30]} is its difference to no row of the table",
                "notes",
            )
    yield from _confounded(rows, against, sizes)
    if _ONE_SEED.search(page) and not _MORE_SEEDS.search(page):
        yield from _one_seed(page)


def _filled(explained: dict[int, list[int]]) -> int:
    return sum(bool(refs) for refs in explained.values())


def _explained(rows: Sequence[TableRow], head: str, column: str) -> dict[int, list[int]]:
    """Map a row to the rows to which its stated difference is that of the column, by number from 1."""
    scores = {}
    for number, row in enumerate(rows, 1):
        if match := re.match(r"\d{1,2}\.\d{3,12}", plain(row.cells.get(column, ""))):
            scores[number] = _number(match[0])
    found_by: dict[int, list[int]] = {}
    for number, row in enumerate(rows, 1):
        stated = re.match(r"[-+\u2212]?\d{0,2}\.\d{3,12}", plain(row.cells[head]))
        if stated is None or number not in scores:
            continue
        delta, half = _number(stated[0])
        value, own = scores[number]
        found_by[number] = [
            ref for ref, (other, rounding) in scores.items()
            if ref != number and abs(value - other - delta) <= (half + own + rounding) * (1 + 1e-6)
        ]  # fmt: skip
    return found_by


def _confounded(rows: Sequence[TableRow], against: dict[int, int], sizes: Sequence[int]) -> Iterator[Flag]:
    """Flag rows whose artifact has another size than their reference's though nothing that packs it is said to change."""
    heads = [*rows[0].cells]
    column = next((h for h in heads if _ARTIFACT.search(h)), None)
    change = next((h for h in heads if _CHANGE.search(h)), None)
    if column is None or change is None:
        return
    told = {number: _bytes(plain(row.cells[column]), sizes) for number, row in enumerate(rows, 1)}
    for row, ref in against.items():
        ours, theirs = told.get(row), told.get(ref)
        what = plain(rows[row - 1].cells[change])
        if ours and theirs and abs(ours / theirs - 1) > APART and not _PACKS.search(what):
            share = f"{abs(ours / theirs - 1):.1%} {'smaller' if ours < theirs else 'larger'}"
            yield _flag(
                "claim_confounded",
                f"row {row} ({what[:40]}): its artifact is {share} than row {ref}'s, so more was changed",
            )


def _bytes(cell: str, sizes: Sequence[int]) -> float | None:
    """Read the size that a cell tells: by a known one where it is that in MB or MiB, else as printed."""
    if (match := re.match(r"(\d{1,4}\.\d{1,3})\s?(MB|MiB)", cell)) is None:
        whole = re.match(r"[\d,]{6,15}", cell)
        return float(whole[0].replace(",", "")) if whole else None
    value, half = _number(match[1])
    units = (1e6, 2**20) if match[2] == "MB" else (2**20,)
    exact = [size for unit in units for size in sizes if abs(size / unit - value) <= half * 1.001]
    return float(exact[0]) if exact else value * units[0]


def _one_seed(page: str) -> Iterator[Flag]:
    """Flag the spread of a difference of two runs, where the page names a family of the bank."""
    named = [name for name, words in FAMILIES.items() if re.search(words, page, re.IGNORECASE)]
    spreads = sorted(2**0.5 * sd for name in named if (sd := noise.planning_sd(name, "bits_per_byte")) is not None)
    if spreads:
        about = " to ".join(dict.fromkeys(f"{one:.4f}" for one in (spreads[0], spreads[-1])))
        said = f"one seed a row: the sd of a difference of two runs is about {about} bits per byte in public logs"
        yield _flag("claim_one_seed", said, "notes")


def _listed(numbers: Sequence[int]) -> str:
    return ("row " if len(numbers) == 1 else "rows ") + ", ".join(map(str, numbers))
