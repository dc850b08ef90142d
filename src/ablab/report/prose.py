"""The report's sentences: the answer, the warnings, what would change the verdict, the methods."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

from ablab.core.plain import plural
from ablab.records.answer import FEWEST_DOCUMENTS, NEVER, POWER, ArmAnswer, Inversion
from ablab.records.settings import BudgetSettings
from ablab.report import words
from ablab.report.tables import price_text
from ablab.report.view import View
from ablab.report.words import Style

HINT = "Read this as a hint for a new study, never as a result."
EXPLORATORY = f"The decision was written or changed after results of what it judges existed. {HINT}"
BROKEN = ("invalid", "unstable")


def warnings(view: View) -> list[tuple[str, str, str]]:
    """List (kind, headline, plain text), the gravest first; what a reader must not miss."""
    rows = [("invalid", "Changed records", f"{text}.") for text in view.verdict["changed"]]
    rows += [("unstable", "Diverged", f"{text}.") for text in view.verdict["warnings"]]
    rows += [("inversion", "Inversion", text) for text in inversions(view)]
    if view.verdict["exploratory"]:
        rows.append(("exploratory", "Exploratory", " ".join([*exploratory(view), HINT])))
    for arm in view.rivals:
        word = view.word(arm)
        if word in BROKEN:
            why = "; ".join(arm["notes"])
            said = f"{_broken(view, arm)} {words.clean(arm['name'], words.NAME)}" + (f" ({why})" if why else "")
            rows.append((word, word.capitalize(), said))
    for arm in view.arms:
        if view.word(arm) not in BROKEN:
            for stage, why in arm["unstable"].items():
                said = f"{words.clean(arm['name'], words.NAME)} {why} at stage {stage}; its other stages are kept"
                rows.append(("unstable", "Unstable stage", said + "."))
    if not view.finished:
        statuses = Counter(run["status"] for run in view.runs)
        runs = ", ".join(f"{n} {s}" for s, n in statuses.items()) or "none yet"
        waiting = ", ".join(words.clean(a["name"], words.NAME) for a in view.rivals if view.word(a) == "waiting")
        said = f"Runs so far: {runs}" + (f"; waiting: {waiting}" if waiting else "")
        rows.append(("waiting", "Not finished", said + ". Words already given are final; the winner is not."))
    return rows


def exploratory(view: View) -> list[str]:
    """Say which arms' results existed before the decision, what was changed then, and all their seeds pooled, in sentences."""
    names: dict[str, list[str]] = {}
    for arm in view.rivals:
        if "record" in arm and arm["record"]["kind"] == "exploratory":
            names.setdefault(arm["record"]["because"], []).append(words.clean(arm["name"], 60))
    texts = [f"{', '.join(arms)}: {because}." for because, arms in names.items()]
    return (texts or [EXPLORATORY.removesuffix(f" {HINT}")]) + pooled(view)


def pooled(view: View) -> list[str]:
    """Say of contrasts that several studies decided, each over every seed ever run for it, one sentence each."""
    texts = []
    for arm in view.arms:
        every = arm.get("pooled")
        if every is None:
            continue
        d, style = view.decimals, Style()
        between = style.interval(every["low"], every["high"], d)
        share = f"{every['alpha']:.3g} / {plural(every['decisions'], 'decision')}"
        share += f" / {plural(every['arms'], 'arm')}" if every["arms"] > 1 else ""
        texts.append(
            f"Over all {words.whole(every['seeds'])} seeds ever run for {words.clean(arm['name'], 60)} against "
            f"{words.clean(view.reference(arm), 60)}, at alpha {share}: {style.delta(every['delta'], d)} {between} "
            f"{view.unit}, {every['word']}."
        )
    return texts


def _broken(view: View, arm: ArmAnswer) -> str:
    """Say what went wrong with an arm that is invalid or unstable: its training, or what the deciding stage does after it."""
    if view.word(arm) == "invalid":
        return "no statement is possible about"
    trained = any(run["status"] == "diverged" for run in view.runs_of(arm["name"]))
    late = view.stage in arm["unstable"]
    where = f"the scores of stage {view.stage}, after training," if late else "training"
    where = f"training, and at other seeds {where}" if late and trained else where
    on = arm["on"]
    whose = "the baseline" if on in (None, view.baseline) else words.clean(on, 60)
    return f"{where} diverged more often than {whose}'s:"


def inversions(view: View) -> list[str]:
    """Name the arms that are better at one stage and worse at another, one sentence each, in plain text."""
    texts = []
    for arm in view.rivals:
        name = words.clean(arm["name"], words.NAME)
        if turns := arm["inversions"]:
            texts.append(f"{name} changes sides {_turned(view, arm, turns)}. The word speaks about {view.stage} only.")
    return texts


def _turned(view: View, arm: ArmAnswer, turns: list[Inversion]) -> str:
    """Write `between pre_quant (-0.0123) and sliding (+0.0092 nats/token): shown`; of several turns, the stages by side."""
    read = [(t["first"], t["stage"], _kind(t)) for t in turns]
    deltas = {s: arm["stages"][s]["delta"] if s in arm["stages"] else None for pair in read for s in pair[:2]}
    if len(read) > 1 and len({kind for _, _, kind in read}) == 1 and all(deltas.values()):
        sides = {
            side: " and ".join(
                _at(view, s, d) for s, d in deltas.items() if d is not None and (d < 0) == (side == "better")
            )
            for side in ("better", "worse")
        }
        return f"between stages: better at {sides['better']}, worse at {sides['worse']}, {view.unit}: {read[0][2]}"
    return "; ".join(
        f"between {_at(view, first, deltas[first])} and {_at(view, stage, deltas[stage], view.unit)}: {kind}"
        for first, stage, kind in read
    )


def _kind(turn: Inversion) -> str:
    return turn["kind"] + (", for these weights" if turn["over"] == "documents" else "")


MOST_DECIMALS = 9


def _at(view: View, stage: str, delta: float | None, unit: str = "") -> str:
    decimals = view.decimals
    while delta and abs(delta) < 0.5 * 10**-decimals and decimals < MOST_DECIMALS:  # a side is no side at 0.000
        decimals += 1
    return f"{stage} ({Style().delta(delta, decimals)}{f' {unit}' if unit else ''})"


def what_would_change(view: View, style: Style) -> list[tuple[str, str, str]]:
    """List (name, word, sentences) per arm: what it would take to read another word."""
    return [
        (style.name(a["name"]), view.word(a), style.literal(" ".join(_change(view, a, style)))) for a in view.rivals
    ]


def _change(view: View, arm: ArmAnswer, style: Style) -> list[str]:
    d, word = view.decimals, view.word(arm)
    low, high, n, mde = arm["low"], arm["high"], arm["seeds"], arm["mde"]
    out: list[str] = []
    if word in ("invalid", "unstable"):
        why = "; ".join(arm["notes"]) or "see the ledger"
        out.append(
            f"{style.text(why)}. "
            + (
                "Mend the cause and run again; more seeds do not help."
                if word == "invalid"
                else "It gets no more seeds. A cure (lower lr, longer warm-up, clipping) is another arm."
            )
        )
    elif word == "waiting":
        first = f" before {plural(view.looks[0], 'seed')} of arm and reference have ended" if view.looks else " yet"
        out.append(f"No word{first}.")
    elif word == "inconclusive":
        if low is not None and high is not None and high < 0:
            out.append("Lower on the pairs that are left; but those are the seeds that it survived: it diverged once.")
        elif low is not None and high is not None:
            out.append(
                f"Any true difference from {style.delta(low, d)} to {style.delta(high, d)} {view.unit} fits these seeds."
            )
        else:
            out.append("Too few seeds for an interval.")
        out.append(_price_sentence(arm, style))
    else:
        edge = {"better": high, "worse": low}.get(word)
        if edge is not None:
            out.append(
                f"Settled: the near end of the interval is {style.fixed(abs(edge), d)} {view.unit} away from zero."
            )
        if word == "equivalent" and low is not None and high is not None:
            far = max(abs(low), abs(high))  # 0: no margin would reopen it
            reopen = f" A margin below {style.fixed(far, d)} {view.unit} would reopen it." if far else ""
            out.append(f"Settled as a tie.{reopen}")
    if mde is not None and word not in ("invalid", "unstable"):
        pairs = f" with {plural(n, 'pair')}" if n else ""
        out.append(f"Smallest true difference seen four times in five{pairs}: {style.fixed(mde, d)} (MDE).")
    text_low, text_high = arm["low_text"], arm["high_text"]
    few = (arm["text_documents"] or math.inf) < FEWEST_DOCUMENTS
    if few and text_low is not None:
        out.append(f"For new text of this kind: {style.text(arm['text_said'])}.")
    elif word in ("better", "worse") and text_low is not None and text_high is not None:
        holds = text_high < 0 or text_low > 0
        out.append(
            "It also holds for new text of this kind."
            if holds
            else "For new text of this kind the interval reaches zero: more validation documents would help."
        )
    lower = arm["lower"]
    if lower is not None and word in ("better", "worse") and 0 < lower < n:
        out.append(f"{lower} of {n} seeds lie below zero.")
    return [x for x in out if x]


def _price_sentence(arm: ArmAnswer, style: Style) -> str:
    more, chance, notes, price = arm["more_seeds"], arm["chance"], arm["notes"], price_text(arm["price"])
    if NEVER in notes:
        later = f"; {plural(more, 'more seed')} to its next look" if more else ""
        return f"It diverged once, so {NEVER}{later}. A cure of the divergence is another arm."
    if not more:
        return ""
    cost = f" ({style.text(price)})" if price else ""
    what = f"{plural(more, 'fresh seed' if arm['fresh'] else 'more seed')}{cost}"
    if "probe not finished" in notes:
        return f"{what} would end its probe, which only chooses the arms that go on."
    if "noise unknown" in notes:
        why = "its probe chose, and measured no spread" if "not promoted" in notes else "one pair has no spread"
        return f"The noise is unknown: {why}. {what} would measure it; what settles it can be said then."
    if chance is not None and chance < POWER and not arm["fresh"]:  # the plan's seeds, which need not be enough
        return f"{what} are left in the plan; the chance that its last look settles it is {100 * chance:.0f}%."
    said = (
        f"About {plural(more, 'more seed')}"
        if not arm["fresh"]
        else f"About {plural(more, 'fresh seed')} in a new study (the error probability of this one is spent)"
    )
    said += " would settle it with power 0.8" + (f", at the price of {style.text(price)}" if price else "") + "."
    if chance is not None:
        said += f" The chance that the last planned look settles it is {100 * chance:.0f}%."
    return said


THIS_PROGRAM = (
    "This program. The score is what it says of itself; on which text, in which unit and by which rules is its own."
)


def limits(view: View) -> list[str]:
    """Say what the words do not say. Plain text."""
    budget, tokens, base = view.verdict["budget"], view.counted("train_tokens"), view.base
    size = f"{words.count(base['cost']['parameters'])} parameters" if base and not view.of_program else ""
    spent = (
        "" if view.of_program or all(a["name"] in view.elsewhere() for a in view.arms) else _spent(budget, words.count)
    )
    scale = " and ".join(p for p in (size, spent) if p)
    risk = f"{100 * (1 - view.confidence):.2g}%"
    epochs = (budget["tokens"] or 0) / tokens if tokens else 0.0
    repeated = [f"Repeated data. The budget reads the training text {epochs:.2f} times."] if epochs > 1 else []
    return [
        THIS_PROGRAM
        if view.of_program
        else "This data. The difference is about this validation set and text like it; "
        "nothing is said about other corpora or tokenizers.",
        *repeated,
        f"This scale{f' ({scale})' if scale else ''}. Effects of architecture change with size and length of training; "
        "a larger scale is another study.",
        "These settings. Everything not listed as changed is held at the baseline's value; "
        "a learning rate tuned for the baseline favours the baseline.",
        "Near-normal differences. An arm that fails now and then gives skewed differences, and no t interval is honest "
        "on eight seeds of those: look at the seed ticks.",
        f"{_families(view)} The chance that any arm {'of one ' if families(view) > 1 else ''}without "
        "a true difference is called "
        f"better or worse at {view.stage} is at most {risk}{_together(view)}. "
        "Other stages, positions, trajectories and probes are "
        "shown and not judged.",
    ]


def families(view: View) -> int:
    """Count the families of arms, each with its own alpha, that were judged on this baseline."""
    here = {arm["record"]["family"] if "record" in arm else 0 for arm in view.rivals}
    return max(1, len(here), view.verdict["on_baseline"]["families"])


def _families(view: View) -> str:
    n = families(view)
    return "One family." if n == 1 else f"{n} families of arms on this baseline, each with its own error probability."


def _together(view: View) -> str:
    """Say what all families together may get wrong; nothing where there is one."""
    n = families(view)
    return "" if n == 1 else f", of all {n} together at most {100 * min(1.0, n * (1 - view.confidence)):.2g}%"


def _spent(budget: BudgetSettings, write: Callable[[object], str]) -> str:
    if budget["tokens"]:
        return f"{write(budget['tokens'])} tokens"
    return f"{words.seconds(budget['seconds'])} of wall clock"


def methods(view: View) -> str:
    """Write a paragraph for a paper, plain text."""
    env, held_out = view.verdict["environment"], view.counted("valid_tokens")
    looks = ""
    if view.looks:
        at = f"{', '.join(map(str, view.looks))} seed{'' if view.looks == [1] else 's'}"
        looks = f" and over {plural(len(view.looks), 'planned look')} ({at}"
        shares = ", ".join(f"{w:.4g}" for w in view.weights)
        looks += f"; shares {shares})" if len(view.weights) > 1 else ")"
    valid = f" ({words.whole(held_out)} tokens)" if held_out else ""
    tie = Style().fixed(view.matters, view.decimals)
    margin = f" A difference that lies inside +/-{tie} {view.unit} with its whole interval was declared a tie."
    version = f"ablab {words.clean(env['ablab'])}" if env.get("ablab") else "ablab"
    version += f" (commit {words.clean(env['commit'])})" if env.get("commit") else ""
    outcome = f"The outcome is {view.unit} on a held-out validation set{valid} at stage {view.stage}, computed as "
    outcome += "a ratio of sums."
    if view.of_program:
        outcome = f"The outcome is {view.unit} as the program said it at the end of a run."
    return (
        f"We compared {plural(len(view.rivals), 'variant')} with a baseline using {version}. {_training(view)} "
        f"{outcome} {_pairing(view)} at family-wise confidence {100 * view.confidence:.4g}%, the error probability "
        f"being divided over variants (Holm, in rounds){looks}.{_each(view)}{margin} "
        "All started runs, including failed ones, are listed "
        "in the ledger."
    )


def _each(view: View) -> str:
    """Say that families have an error probability each, in a sentence."""
    n = families(view)
    several = (
        f" That confidence is of each of {n} families of variants judged on this baseline by itself{_together(view)}."
    )
    return several.replace(", of all", "; the error probability of all") if n > 1 else ""


def _training(view: View) -> str:
    """Say where weights came from, in sentences: training here, files, or the reference's own."""
    if view.of_program:
        return (
            "Every run is one of a program that ablab started, on a clean copy of its tree; a seed is the number that the "
            "program was given, and what it draws by it, data among it, is the program's own."
        )
    elsewhere, budget = view.elsewhere(), view.verdict["budget"]
    texts = []
    if here := [arm for arm in view.arms if arm["name"] not in elsewhere]:
        which = "model that was trained here" if elsewhere else "model"
        batch = f" in batches of {words.whole(budget['batch_tokens'])} tokens"
        texts.append(
            f"Every {which} was trained on {_spent(budget, words.whole)}{batch}; at each seed, variant "
            "and baseline read the same tokens in the same order and shared every random draw for the parts they have in "
            "common."
        )
    if elsewhere:
        whose = (
            "Weights" if not here else f"Weights of {', '.join(words.clean(n, words.NAME) for n in sorted(elsewhere))}"
        )
        texts.append(f"{whose} were trained elsewhere and read from files.")
    if any(arm["shares_weights"] for arm in here):
        texts.append("A variant that changes nothing in training uses the weights of its reference.")
    return " ".join(texts)


def _pairing(view: View) -> str:
    """Say what differences were paired by, up to the words for the interval."""
    if view.over_documents():
        rests = next((arm["text_said"] for arm in view.rivals if arm["text_said"]), "")
        return (
            "There is one run: a variant that shares the weights of its reference was paired with it by held-out document. "
            f"We report the difference, for these weights, with a t interval over documents{f' ({rests})' if rests else ''}"
        )
    seeds = [arm["seeds"] for arm in view.rivals]
    span = f"{min(seeds)} to {max(seeds)}" if seeds and min(seeds) != max(seeds) else str(seeds[0]) if seeds else "no"
    return f"Differences were paired by seed ({span} pairs per variant). We report the mean paired difference with a t interval"
