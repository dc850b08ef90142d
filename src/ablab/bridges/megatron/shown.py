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


def show(found: Explanation, say: Callable[[str], None], *, tables: bool = True, width: int = WIDTH) -> None:
    """Print everything in at most `width` columns, sentences in 100, plain ASCII; the study's lines are not broken."""
    net = found.net
    sizes = {"d_model": net.d_model, "heads": net.n_heads, "kv heads": net.n_kv_heads, "head_dim": net.head_dim}
    sizes |= {"tokens a row": net.seq_len, "vocabulary": net.vocab_size}
    count = f"{len(net.layers)} layers" + (" (--num-layers is not given: one period is shown)" if net.assumed else "")
    _fill(", ".join([count, *(f"{name} {size:,}" for name, size in sizes.items() if size is not None)]), say, width)
    if found.parameters:
        p = found.parameters
        _fill(f"{p.exact:,} parameters ({p.total:,} and {p.active:,} active by vpMoE's own counter)", say, width)
    say("")
    _table(found, say, width)
    notes(found.notes, say, width)
    if found.fork_only:
        _line("fork", f"only the vpMoE fork has {', '.join(found.fork_only)}", say, width)
    if found.upstream_only:
        _line("upstream", f"the fork has no {', '.join(found.upstream_only)}", say, width)
    if found.how_it_runs:
        _line("runs", f"how it runs, not what it computes: {', '.join(found.how_it_runs)}", say, width)
    for flag, why in found.not_carried:
        _line("not carried over", f"{flag}: {why}", say, width)
    for fault in found.refused:
        _line("no study", str(fault), say, width)
    if tables and not found.refused:
        if open_ := missing(found.tree):
            _line("left open", f"a study needs {', '.join(open_)} too", say, width)
        say("")
        say(written(found.tree))


def notes(found: tuple[Note, ...], say: Callable[[str], None], width: int = WIDTH) -> None:
    """Warnings first, then notes."""
    for kind in ("warning", "note"):
        for one in found:
            if one.kind == kind:
                _line(kind, f"{one.place}: {one.text}", say, width)


def _table(found: Explanation, say: Callable[[str], None], width: int) -> None:
    rows = [HEADS]
    for group in found.groups:
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


def as_json(found: Explanation) -> dict[str, object]:
    """Everything as JSON."""
    net = found.net
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
        "parameters": asdict(found.parameters) if found.parameters else None,
        "layers": [{**asdict(group), "numbers": list(group.numbers)} for group in found.groups],
        "notes": [asdict(one) for one in found.notes],
        "fork_only": list(found.fork_only),
        "upstream_only": list(found.upstream_only),
        "how_it_runs": list(found.how_it_runs),
        "not_carried": [{"flag": flag, "about": why} for flag, why in found.not_carried],
        "refused": [asdict(fault) for fault in found.refused],
        "left_open": missing(found.tree),
        "study": None if found.refused else found.tree,
        "toml": None if found.refused else written(found.tree),
    }
