"""An explanation on a terminal: layers, traps, what stays behind, and the study's tables."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import asdict

from ablab.bridges.megatron.explain import Explanation, missing
from ablab.bridges.megatron.notes import Note, spans
from ablab.core.toml import written

WIDTH = 100
HEADS = ("layers", "attention", "position", "projection", "softmax", "mlp")


def show(told: Explanation, say: Callable[[str], None], *, tables: bool = True, width: int = WIDTH) -> None:
    """Print everything in at most `width` columns, sentences in 100, plain ASCII; the study's lines are not broken."""
    net = told.net
    sizes = {"d_model": net.d_model, "heads": net.n_heads, "kv heads": net.n_kv_heads, "head_dim": net.head_dim}
    sizes |= {"tokens a row": net.seq_len, "vocabulary": net.vocab_size}
    count = f"{len(net.layers)} layers" + (" (--num-layers is not given: one period is shown)" if net.assumed else "")
    _fill(", ".join([count, *(f"{name} {size:,}" for name, size in sizes.items() if size is not None)]), say, width)
    if told.parameters:
        p = told.parameters
        _fill(f"{p.exact:,} parameters ({p.total:,} and {p.active:,} active by vpMoE's own counter)", say, width)
    say("")
    _table(told, say, width)
    notes(told.notes, say, width)
    if told.fork_only:
        _line("fork", f"only the vpMoE fork has {', '.join(told.fork_only)}", say, width)
    if told.upstream_only:
        _line("upstream", f"the fork has no {', '.join(told.upstream_only)}", say, width)
    if told.how_it_runs:
        _line("runs", f"how it runs, not what it computes: {', '.join(told.how_it_runs)}", say, width)
    for flag, why in told.not_carried:
        _line("not carried over", f"{flag}: {why}", say, width)
    for fault in told.refused:
        _line("no study", str(fault), say, width)
    if tables and not told.refused:
        if open_ := missing(told.tree):
            _line("left open", f"a study needs {', '.join(open_)} too", say, width)
        say("")
        say(written(told.tree))


def notes(shown: tuple[Note, ...], say: Callable[[str], None], width: int = WIDTH) -> None:
    """Print warnings first, then notes."""
    for kind in ("warning", "note"):
        for one in shown:
            if one.kind == kind:
                _line(kind, f"{one.place}: {one.text}", say, width)


def _table(told: Explanation, say: Callable[[str], None], width: int) -> None:
    rows = [HEADS]
    for group in told.groups:
        many = f" ({len(group.numbers)})" if len(group.numbers) > 1 else ""
        cells = (spans(list(group.numbers)) + many, group.attention, group.position, group.projection, group.softmax)
        rows.append((*cells, group.mlp))
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADS))]
    if sum(widths) + 2 * (len(widths) - 1) <= width:
        for row in rows:
            say("  ".join(cell.ljust(wide) for cell, wide in zip(row, widths)).rstrip())
    else:
        for row in rows[1:]:
            _fill(f"layers {row[0]}" if "-" in row[0] or "," in row[0] else f"layer {row[0]}", say, width)
            for head, cell in zip(HEADS[1:], row[1:]):
                _fill(f"  {head:<11}{cell}", say, width, hang=13)
    say("")


def _line(kind: str, text: str, say: Callable[[str], None], width: int) -> None:
    _fill(f"{kind}: {text}", say, width)


def _fill(text: str, say: Callable[[str], None], width: int, hang: int = 2) -> None:
    wrapper = textwrap.TextWrapper(
        min(width, WIDTH), subsequent_indent=" " * hang, break_on_hyphens=False, break_long_words=False
    )
    say(wrapper.fill(text))


def as_json(told: Explanation) -> dict[str, object]:
    """Return everything as JSON."""
    net = told.net
    return {
        "sizes": {
            "layers": len(net.layers),
            "layers_given": not net.assumed,
            "d_model": net.d_model,
            "n_heads": net.n_heads,
            "n_kv_heads": net.n_kv_heads,
            "head_dim": net.head_dim,
            "seq_len": net.seq_len,
            "vocab_size": net.vocab_size,
        },
        "parameters": asdict(told.parameters) if told.parameters else None,
        "layers": [{**asdict(group), "numbers": list(group.numbers)} for group in told.groups],
        "notes": [asdict(one) for one in told.notes],
        "fork_only": list(told.fork_only),
        "upstream_only": list(told.upstream_only),
        "how_it_runs": list(told.how_it_runs),
        "not_carried": [{"flag": flag, "about": why} for flag, why in told.not_carried],
        "refused": [asdict(fault) for fault in told.refused],
        "left_open": missing(told.tree),
        "study": None if told.refused else told.tree,
        "toml": None if told.refused else written(told.tree),
    }
