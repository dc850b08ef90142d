"""A comparison of logged runs in words: for a terminal, and as Markdown that is ready to paste."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from ablab.records.comparison import Comparison, Flag, Ruled, Seen, Sided
from ablab.report import words

if TYPE_CHECKING:
    from rich.console import Console

INDEPENDENT = frozenset({
    "several_runs_in_file", "diverged", "seed_label", "same_seed_repeats", "identical_scores", "equal_as_printed", "no_seed",
    "incomplete", "no_score", "settings_differ_between_seeds", "code_differs_between_seeds", "stopped_early", "shared_run",
    "seed_sets_differ", "same_seeds_and_steps", "coarse_digits",
})  # fmt: skip
LEVERS = frozenset({"levers_in_block", "same_settings", "levers_unknown"})
CLAIMED = frozenset(
    {"claim_of_some_runs", "claim_of_runs_not_here", "claim_in_no_log", "claim_of_no_export", "bpb_called_nats",
     "nats_called_bpb", "claim_ratio",
     "claim_sign", "claim_rows", "claim_mebibytes", "claim_reference", "claim_delta", "claim_confounded", "claim_one_seed",
     "claim_one_checkpoint", "claim_z_test"}
)  # fmt: skip
FEW = 8  # numbers of a claim that are nothing that was read, each on a line; of more one line
SHOWN = 16  # runs of a side in a table
MARKS = {"stops": "stops: ", "warns": "", "notes": "note: "}
STYLE = words.Markdown()


def parts(answer: Comparison) -> Iterator[tuple[str, list[str]]]:
    """Yield (heading, sentences) in the order of the questions; headings without anything to say are left out."""
    flags = answer["flags"]
    apart = INDEPENDENT | LEVERS | CLAIMED
    sides = [
        f"{name}{_named(name, side)}: {_side(side)}" for name, side in (("x", answer["x"]), ("y", answer["y"])) if side
    ]
    told = [
        ("runs", sides),
        ("comparable", [*_said(f for f in flags if f["kind"] not in apart)] or _clean(answer)),
        ("levers", [f["said"] for f in flags if f["kind"] in LEVERS]),
        ("independent", [*_said(f for f in flags if f["kind"] in INDEPENDENT)]),
        ("word", [answer["word"], *_interval(answer)]),
        ("rules", [_rule(rule) for rule in answer["rules"]]),
        ("beside it, none of it decides", [*_beside(answer)]),
        ("what would settle it", [answer["settle"]["said"], _spread(answer)] if answer["settle"] else []),
        ("the claim", [*_claims(answer)]),
    ]
    yield from ((heading, said) for heading, said in told if said)


def _named(name: str, side: Sided) -> str:
    return "" if side["name"] == name else f" = {side['name']}"


def _side(side: Sided) -> str:
    counted = len([run for run in side["runs"] if run["counted"]])
    if not side["n"]:
        return f"{len(side['runs'])} runs, no score" + (f" at {side['stage']}" if side["stage"] else "")
    mean = f"mean {side['mean']:.6f}" + ("" if side["sd"] is None else f", sd {side['sd']:.6f}")
    text = "" if side["export"] is None else f", tokens of {side['export']}"
    apart = "" if counted == side["n"] else f" of {counted} that count"
    runs = "1 independent run" if side["n"] == 1 else f"{side['n']} independent runs"
    return f"{runs}{apart}, {len(side['runs'])} read, {mean} at {side['stage']}{text}"


def _said(flags: Iterator[Flag]) -> Iterator[str]:
    order = {"stops": 0, "warns": 1, "notes": 2}
    yield from (MARKS[flag["grade"]] + flag["said"] for flag in sorted(flags, key=lambda flag: order[flag["grade"]]))


def _clean(answer: Comparison) -> list[str]:
    return ["nothing was found that speaks against it"] if answer["y"] and answer["x"]["n"] and answer["y"]["n"] else []


def _interval(answer: Comparison) -> Iterator[str]:
    gap, unit = answer["unpaired"], answer["metric"].replace("_", " ")
    if gap is None or gap["delta"] is None:
        return
    said = f"x minus y {gap['delta']:+.6f} {unit}, {gap['nx']} against {gap['ny']} runs"
    if gap["low"] is None:
        yield f"{said}, no interval: {', '.join(gap['notes'][1:]) or 'no spread'}"
        return
    more = f"95% {gap['low']:+.6f} to {gap['high']:+.6f}, p {gap['p']:.2g} (Welch, {gap['df']:.1f} degrees of freedom)"
    yield f"{said}, {more}; {answer['matters']:g} matters"
    if answer["word"] != gap["word"]:
        yield f"read by its interval alone it would be: {gap['word']}"


def _rule(rule: Ruled) -> str:
    word = "a record" if rule["record"] else "no record"
    counts = f"{rule['nx']} runs" + ("" if rule["ny"] is None else f" against {rule['ny']}")
    numbers = [f"{name} {rule[name]:.4g}" for name in ("p", "a", "margin", "target", "value") if rule[name] is not None]
    return f"{rule['rule']}: {word} ({', '.join([counts, *numbers, *rule['notes']])})"


def _beside(answer: Comparison) -> Iterator[str]:
    pairs, bank = answer["by_seed"], answer["bank"]
    if pairs and pairs["low"] is not None:
        seeds = ", ".join(map(str, pairs["seeds"]))
        interval = f"{pairs['delta']:+.6f}, 95% {pairs['low']:+.6f} to {pairs['high']:+.6f}"
        yield f"by seed ({seeds}): {interval}; one number in two programs is not one draw"
    if bank:
        yield bank["said"]


def _spread(answer: Comparison) -> str:
    settle = answer["settle"]
    assert settle is not None
    return f"reckoned with an sd of {settle['sd']:.2g}, that of {settle['sd_of']}"


def _claims(answer: Comparison) -> Iterator[str]:
    slips = [f for f in answer["flags"] if f["kind"] in CLAIMED and f["kind"] != "claim_in_no_log"]
    yield from _said(iter(slips))
    nothing = [one["stated"] for one in answer["claims"] if one["match"] is None]
    folded = len(nothing) > FEW
    for one in answer["claims"]:
        if one["match"] is not None or not folded:
            where = f" ({one['where']})" if one["where"] else ""
            yield f"{one['stated']}: {one['match'] or 'nothing that was read'}{where}"
    if folded:
        yield f"{len(nothing)} numbers are nothing that was read: {', '.join(nothing[:FEW])}, ... (--json has all)"


def show(answer: Comparison, screen: Console) -> None:
    """Print the answer, and the runs as a table."""
    from ablab.core import grid

    grid.say(answer["sentence"], screen, width=screen.width, hang=2)
    for heading, said in parts(answer):
        grid.say(f"{heading}:", screen, width=screen.width)
        for one in said:
            grid.say(one, screen, width=screen.width, indent=2, hang=2)
    columns = [grid.Column("run"), *(grid.Column(title, right=True) for title in ("seed", "steps", "score"))]
    columns += [grid.Column("label", least=12), grid.Column("counts")]
    rows = []
    for name, run in _rows(answer):
        numbers = ["-" if one is None else f"{one:,}" for one in (run["seed"], run["steps"])]
        score = "-" if run["value"] is None else f"{run['value']:.6f}"
        place = f"{name} {PurePath(run['source']).name}:{run['line']}"
        rows.append([place, *numbers, score, run["label"] or "-", "yes" if run["counted"] else "no"])
    if rows:
        grid.show(columns, rows, screen, width=screen.width)
    if more := _left_out(answer):
        grid.say(more, screen, width=screen.width)


def show_arms(answers: Sequence[Comparison], screen: Console) -> None:
    """Print a line for each arm that is looked at alone, and what warns of it: of many the runs are too many to list."""
    from ablab.core import grid

    grid.say(f"{len(answers)} arms, none of them held against another", screen, width=screen.width, hang=2)
    columns = [grid.Column("arm"), grid.Column("stage", least=6)]
    columns += [grid.Column(title, right=True) for title in ("runs", "mean", "sd")]
    columns.append(grid.Column("warnings", least=12))
    rows = []
    for answer in answers:
        side = answer["x"]
        numbers = ["-" if side[key] is None else f"{side[key]:.6f}" for key in ("mean", "sd")]
        kinds = dict.fromkeys(f["kind"].replace("_", " ") for f in answer["flags"] if f["grade"] != "notes")
        rows.append([side["name"], side["stage"] or "-", str(side["n"]), *numbers, ", ".join(kinds) or "-"])
    grid.show(columns, rows, screen, width=screen.width)


def _rows(answer: Comparison) -> list[tuple[str, Seen]]:
    """List the runs that are shown, with the name of their side."""
    sides = [(name, side) for name, side in (("x", answer["x"]), ("y", answer["y"])) if side]
    return [(name, run) for name, side in sides for run in side["runs"][:SHOWN]]


def _left_out(answer: Comparison) -> str:
    more = sum(max(0, len(side["runs"]) - SHOWN) for side in (answer["x"], answer["y"]) if side)
    return f"and {more} more runs (--json has all)" if more else ""


def comment(answer: Comparison) -> str:
    """Write Markdown to paste: what holds, what is confounded, which runs would settle it, their price. None of it is live."""
    lines = [f"**{_plain(answer['sentence'])}**", ""]
    for heading, said in parts(answer):
        lines += [f"{heading.capitalize()}:", *(f"- {_plain(one)}" for one in said), ""]
    lines += ["| side | run | seed | steps | score | counts |", "|---|---|---|---|---|---|"]
    for name, run in _rows(answer):
        score = "-" if run["value"] is None else f"{run['value']:.8f}"
        place = _plain(f"{PurePath(run['source']).name}:{run['line']}")
        numbers = ["-" if one is None else str(one) for one in (run["seed"], run["steps"])]
        lines.append(f"| {name} | {place} | {' | '.join(numbers)} | {score} | {'yes' if run['counted'] else 'no'} |")
    if more := _left_out(answer):
        lines += ["", more]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Write a stranger's words as Markdown that means only them: no mark-up, no other line, nobody mentioned, no link."""
    marked = STYLE.text(" ".join(text.split()))
    marked = marked[1:] if marked[:2] in ("\\#", "\\@") else marked
    return marked.replace("#", "&#35;").replace("@", "&#64;").replace("://", ":&#8203;//")
