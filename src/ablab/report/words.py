"""How numbers and names are written: sane digits, units, and untrusted text made harmless."""

from __future__ import annotations

import math
import unicodedata

from markupsafe import Markup, escape

DASH = "\u2013"
NAME = 200  # characters of a name at most: a cell of a factorial names every factor, and two must not read alike
UNITS = {
    "nats_per_token": "nats/token",
    "bits_per_byte": "bits/byte",
    "nats_per_reasoning_token": "nats/reasoning token",
    "nats_per_final_token": "nats/final token",
}
SIGNS = {
    "better": "\u25bc",
    "worse": "\u25b2",
    "equivalent": "=",
    "inconclusive": "?",
    "unstable": "!",
    "invalid": "\u2715",
    "baseline": "\u25cf",
    "waiting": "\u2026",
    "holds": "\u2192",
    "fades": "\u2198",
    "reverses": "\u21c4",
    "open": "?",
}


def clean(value: object, limit: int = 4000) -> str:
    """Clean untrusted text to one line: no control characters (ANSI, bidi), no runs of blanks, at most `limit` characters."""
    text = str(value)
    kept = "".join(
        " " if c.isspace() else "\ufffd" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co") else c for c in text
    )
    kept = " ".join(kept.split())
    return kept if len(kept) <= limit else kept[: limit - 1] + "\u2026"


def scrub(value: object) -> object:
    """Clean a nest of mappings and lists, every text in it, keys too; a number that is not finite becomes None."""
    if isinstance(value, dict):
        return {clean(k): scrub(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [scrub(v) for v in value]
    if isinstance(value, float):
        return num(value)
    return clean(value) if isinstance(value, str) else value


def num(value: object) -> float | None:
    """Return a finite float, or None for everything else (null, NaN, infinity, text, booleans)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


class Style:
    """How one target (html, markdown, terminal) writes names, free text and numbers. This one is plain text."""

    minus = "-"

    def name(self, value: object) -> str:
        return clean(value, NAME)

    def text(self, value: object) -> str:
        return clean(value)

    def literal(self, value: str) -> str:
        """Write `value` as it stands: our own words around parts that this style has made."""
        return value

    def sub(self, value: str, kind: str = "") -> str:
        """Write a second line in a table cell; `value` is already in this style, `kind` is our own word for its look."""
        return f" ({value})" if value else ""

    def chip(self, word: str) -> str:
        return word

    def tag(self, value: str, tip: str, kind: str = "") -> str:
        """Write a small mark beside a word; `tip` explains it where there is room for that."""
        return value

    def strong(self, value: str) -> str:
        return value

    def fixed(self, value: object, decimals: int, plus: bool = False) -> str:
        """Write `value` with fixed decimals; a dash where there is none; zero never carries a minus."""
        number = num(value)
        if number is None:
            return DASH
        if abs(number) >= 1e7:
            return f"{number:.3g}".replace("-", self.minus)
        shown = f"{abs(number):.{decimals}f}"
        zero = float(shown) == 0.0
        sign = "" if zero else self.minus if number < 0 else "+" if plus else ""
        return sign + shown

    def delta(self, value: object, decimals: int) -> str:
        return self.fixed(value, decimals, plus=True)

    def interval(self, low: object, high: object, decimals: int) -> str:
        """Write `[low, high]`, or empty where there is no interval."""
        if num(low) is None or num(high) is None:
            return ""
        return f"[{self.delta(low, decimals)}, {self.delta(high, decimals)}]"


class Html(Style):
    """Markup; everything untrusted is escaped."""

    minus = "\u2212"

    def name(self, value: object) -> str:
        return Markup('<code class="name">{}</code>').format(clean(value, NAME))

    def text(self, value: object) -> str:
        return escape(clean(value))

    def literal(self, value: str) -> str:
        return Markup(value)

    def sub(self, value: str, kind: str = "") -> str:
        if not value:
            return Markup("")
        return (
            Markup('<small class="{}">{}</small>').format(kind, value)
            if kind
            else Markup("<small>{}</small>").format(value)
        )

    def chip(self, word: str) -> str:
        return Markup('<span class="chip w-{0}"><i aria-hidden="true">{1}</i> {0}</span>').format(
            word, SIGNS.get(word, "")
        )

    def tag(self, value: str, tip: str, kind: str = "") -> str:
        return Markup('<span class="tag {}" title="{}">{}</span>').format(kind, tip, value)

    def strong(self, value: str) -> str:
        return Markup("<b>{}</b>").format(value)


class Markdown(Style):
    """GitHub's Markdown, safe inside a table cell; a pasted cell never starts a spreadsheet formula."""

    def name(self, value: object) -> str:
        text = clean(value, NAME).replace("|", "\\|")
        run = max((len(r) for r in "".join(c if c == "`" else " " for c in text).split()), default=0)
        fence = "`" * (run + 1)
        pad = " " if run else ""
        return f"{fence}{pad}{text}{pad}{fence}"

    def sub(self, value: str, kind: str = "") -> str:
        return f"<br>{value}" if value else ""

    def chip(self, word: str) -> str:
        return f"**{word}**"

    def strong(self, value: str) -> str:
        return f"**{value}**"

    def text(self, value: object) -> str:
        text = clean(value).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        for mark in "`*[]|~$!":
            text = text.replace(mark, "\\" + mark)
        text = text.replace(" _", " \\_").replace("_ ", "\\_ ")
        return "\\" + text if text[:1] in "=+-@#_" and text else text


def decimals_for(matters: object, fallback: float = 0.005) -> int:
    """Count the decimals that give `matters` two significant digits: 0.005 -> 4."""
    size = num(matters) or fallback
    return min(6, max(2, 1 - math.floor(math.log10(abs(size)))))


def p_value(value: object) -> str:
    number = num(value)
    if number is None:
        return DASH
    if number >= 0.9995:
        return "1"
    if number < 0.0001:
        return "< 0.0001"
    return f"{number:.2f}" if number >= 0.095 else f"{number:.2g}"


def count(value: object) -> str:
    """Write 12_345 as 12,345, 20_054_016 as 20.1M."""
    number = num(value)
    if number is None:
        return DASH
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if abs(number) >= 0.9995 * size:
            return f"{number / size:.3g}{letter}" if abs(number) < 999.5 * size else f"{number / size:,.0f}{letter}"
    return f"{number:,.0f}" if number == int(number) or abs(number) >= 1000 else f"{number:.3g}"


def flops(value: object) -> str:
    """Write arithmetic as a power of ten: 9.6e11."""
    number = num(value)
    return DASH if number is None else f"{number:.3g}".replace("e+", "e") if number >= 1e5 else f"{number:.0f}"


def whole(value: object) -> str:
    number = num(value)
    return DASH if number is None else f"{number:,.0f}"


def seconds(value: object) -> str:
    number = num(value)
    if number is None:
        return DASH
    if number < 0.1:
        return f"{number * 1000:.3g} ms"
    if number < 100:
        return f"{number:.3g} s"
    if number < 100 * 60:
        return f"{number / 60:.3g} min"
    if number < 48 * 3600:
        return f"{number / 3600:.3g} h"
    return f"{number / 86400:.3g} days"


def size(value: object) -> str:
    """Write decimal megabytes, as artifact limits are written."""
    number = num(value)
    if number is None:
        return DASH
    for unit, letter in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(number) >= unit:
            return f"{number / unit:.2f} {letter}"
    return f"{number:.0f} B"


def ratio(value: object) -> str:
    """Write a quotient as a person compares: 1.03x."""
    number = num(value)
    return DASH if number is None else f"{number:.3g}\u00d7" if number >= 10 else f"{number:.2f}\u00d7"


def difference(value: object) -> str:
    """Write bytes more or fewer, to the byte."""
    number = num(value)
    return DASH if number is None else "0 B" if number == 0 else f"{number:+,.0f} B".replace("-", "\u2212")


def significant(value: object) -> str:
    """Write four significant digits for a number of unknown kind."""
    number = num(value)
    if number is None:
        return DASH
    if number == int(number) and abs(number) < 1e15:
        return f"{int(number):,}" if abs(number) >= 10_000 else str(int(number))
    return f"{number:.4g}"


def short(value: object) -> str:
    """Return the first eight characters of a hash or key."""
    return clean(value)[:8] if value else DASH


def value_text(value: object) -> str:
    """Write a setting's value as a person does: `grape_a (slopes=geometric)`, `[rope, grape_a]`, 128, none.

    A lever's settings that nobody gave are left out: what they come to is the lever's to say (`ablab levers SLOT NAME`).
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        rest = ", ".join(f"{clean(k)}={value_text(v)}" for k, v in value.items() if k != "name" and v not in ("", None))
        if "name" in value:
            return clean(value["name"]) + (f" ({rest})" if rest else "")
        return "{" + rest + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(value_text(v) for v in value) + "]"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else DASH
    return clean(value)
