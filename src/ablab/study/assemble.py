"""One study at one scale from the file's tables: baseline, scale, arms, factorials, decision; every fault on the way."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from ablab.core.differences import equal
from ablab.core.fault import Fault, did_you_mean
from ablab.data.corpus.midway import default_bytes
from ablab.records.settings import Crossing, DecisionSettings, Limits, SeedsSettings, Settings, StudySettings
from ablab.study import arms as arms_of
from ablab.study import decide, elsewhere, factorial, runner
from ablab.study.arms import Draft
from ablab.study.keys import DIFFED, NAMED, SCALED
from ablab.study.merge import lay, merge
from ablab.study.model import model, unused
from ablab.study.read import word
from ablab.study.record import BASELINE, Study
from ablab.study.settings import staged
from ablab.study.take import alike, name_fault, section, show, table

TOP = ("study", "levers", "decision", "budget", "limits", "data", "model", "train", "stage", "runner", *NAMED)
MOST_ARMS = 256


def assemble(raw: dict[str, object], scale: str | None, path: Path, source: str) -> tuple[Study | None, list[Fault]]:
    """Assemble the study, or None and its faults; places are relative to the file."""
    faults = [
        Fault(word(key), f"no section is called {word(key)!r}", did_you_mean(key, TOP)) for key in raw if key not in TOP
    ]
    who = section("study", raw.get("study"), "study", faults, StudySettings)
    if who["name"] is not None and (fault := name_fault(who["name"], "a study", "study.name")):
        faults.append(fault)
    over, only = _scale(_tables(raw, "scale", faults).get(scale, {}) if scale else {}, faults)
    tree = {key: raw[key] for key in DIFFED if key in raw}
    tree = merge(staged(tree) if "stage" in over else tree, {key: over[key] for key in DIFFED if key in over})
    base = arms_of.baseline(tree, path.parent)
    faults += base.faults
    arms, crossings, absent = _arms(raw, over, only, base, path.parent, faults)
    written = lay(raw.get("decision"), over.get("decision", {}))
    bounds = decide.limits(lay(raw.get("limits"), over.get("limits", {})), faults)
    if "runner" in tree:
        _twins(base, arms, faults)
        told, metric = runner.rule(written, faults)
        rule = cast(DecisionSettings, {**decide.decision(told, base, arms, absent, faults), "metric": metric})
        faults += runner.limited(bounds)
    else:
        rule = _trained(raw, written, bounds, base, arms, absent, faults)
    if rule["seeds"]["probe"] or rule["seeds"]["keep"] is not None:
        faults += map(factorial.selected, crossings)
    if faults:
        return None, list({str(fault): fault for fault in faults}.values())
    tie = written.get("tie") if isinstance(written, dict) else None
    study = Study(
        who["name"],
        who["question"],
        scale,
        rule,
        bounds,
        base.arm(None),
        {name: one.arm(arms.get(one.on, base)) for name, one in arms.items()},
        crossings,
        tuple(base.settings["stage"]),
        path,
        source,
        tie=tuple(map(str, tie)) if isinstance(tie, list) else (),
    )
    return study, []


def _trained(
    raw: dict[str, object],
    written: object,
    bounds: Limits,
    base: Draft,
    arms: dict[str, Draft],
    absent: set[str],
    faults: list[Fault],
) -> DecisionSettings:
    """Read the rule of a study that ablab trains, and what its arms must share for it."""
    faults += _unused(raw, base, arms)
    _spans(base, arms, faults)
    _validated(base, arms, faults)
    _twins(base, arms, faults)
    rule = decide.decision(written, base, arms, absent, faults)
    _units(rule["metric"], base, arms, faults)
    _elsewhere(rule["seeds"], bounds, base, arms, faults)
    return rule


def _arms(
    raw: dict[str, object],
    over: dict[str, object],
    only: list[str] | None,
    base: Draft,
    folder: Path,
    faults: list[Fault],
) -> tuple[dict[str, Draft], dict[str, Crossing], set[str]]:
    """Draft declared arms and cells of factorials; the factorials; the names that `only` leaves out."""
    declared = _laid(_tables(raw, "arm", faults), _tables(over, "arm", faults))
    crossed = _laid(_tables(raw, "factorial", faults), _tables(over, "factorial", faults))
    faults += _bad_names(declared)
    known = [*declared, *crossed]
    absent = {name for name in known if only is not None and name not in only}
    strangers = [name for name in only or () if name not in known]
    for name in strangers:
        faults.append(Fault("only", f"no arm or factorial is called {show(name)}", did_you_mean(name, known)))
    picked = {name: value for name, value in declared.items() if name not in absent}
    for name, value in picked.items():
        if isinstance(value, dict) and isinstance(on := value.get("on"), str) and on in absent:
            faults.append(Fault(f"arm.{word(name)}.on", f"arm {show(on)} is left out by only", f"add {on} to only"))
            picked[name] = {**value, "on": BASELINE}
    wanted = {name: value for name, value in crossed.items() if name not in absent}
    if len(picked) > MOST_ARMS:
        faults.append(Fault("arm", f"more than {MOST_ARMS} arms", "split the study"))
        picked, wanted = {}, {}
    elif not picked and not wanted and not strangers:
        faults.append(Fault("arm", "no arm: there is nothing to compare", "add [arm.NAME] with one change"))
    drafts = arms_of.declared(picked, base, folder)
    for one in drafts.values():
        faults += one.faults
    crossings, cells = factorial.expand(wanted, base, drafts, folder, faults)
    return {**drafts, **cells}, crossings, absent


def _tables(raw: dict[str, object], key: str, faults: list[Fault]) -> dict[str, object]:
    return table(raw.get(key), key, faults)


def _scale(asked: object, faults: list[Fault]) -> tuple[dict[str, object], list[str] | None]:
    """Take a scale's tables and its `only`; keys that a scale has not are refused."""
    over, only = {}, None
    for key, value in table(asked, "the table", faults).items():
        if key == "only":
            if isinstance(value, list) and value and all(isinstance(name, str) for name in value):
                only = value
            else:
                faults.append(Fault("only", f"{show(value)} names no arms", 'write only = ["grape_a"]'))
        elif key in (*SCALED, "arm", "factorial"):
            over[key] = value
            if not isinstance(value, dict):
                faults.append(Fault(key, f"{show(value)} is no table", "give a table"))
        else:
            known = [*SCALED, "arm", "factorial", "only"]
            fixed = key == "study"
            text = "a scale may not change [study]" if fixed else f"a scale has no key {word(key)!r}"
            cure = "it is the same at every scale" if fixed else did_you_mean(key, known)
            faults.append(Fault(word(key), text, cure))
    return {key: value for key, value in over.items() if isinstance(value, dict)}, only


def _laid(old: dict[str, object], new: dict[str, object]) -> dict[str, object]:
    """Lay named tables over named tables, each in its own path of the baseline."""
    return {**old, **{name: lay(old.get(name), value, defaults=False) for name, value in new.items()}}


def _bad_names(declared: dict[str, object]) -> list[Fault]:
    out = [name_fault(name, "an arm", "arm") for name in declared]
    if BASELINE in declared:
        text = "an arm cannot be called 'baseline': that is what [model] and the other sections are"
        out.append(Fault("arm.baseline", text, "rename it"))
    return [*(fault for fault in out if fault), *alike(declared, "arm")]


def _unused(raw: dict[str, object], base: Draft, everything: dict[str, Draft]) -> list[Fault]:
    """Return faults for layer kinds of the baseline that neither it, nor an arm, nor the unscaled file uses."""
    used: set[str] = set()
    expansions = [
        model(raw.get("model"), [])["layers"],
        *(one.settings["model"]["layers"] for one in everything.values()),
    ]
    expansions.append(base.settings["model"]["layers"])
    for layers in expansions:
        used |= set(layers or "")
    routed = any(
        kind["router"] or kind["mlp"] is None
        for one in (base, *everything.values())
        for kind in one.settings["model"]["kinds"].values()
    )
    return unused(base.tree.get("model"), used, routed) if base.settings["model"]["layers"] else []


def _units(metric: str | None, base: Draft, everything: dict[str, Draft], faults: list[Fault]) -> None:
    """Refuse nats per token between arms whose tokens are not the same pieces of text."""
    if metric in (None, "bits_per_byte"):
        return
    for one in everything.values():
        mine, other = (d.settings["data"]["tokenizer"] for d in (one, everything.get(one.on, base)))
        if mine and other and mine != other:
            text = f"changes the tokenizer under the metric {metric}: nats of different tokens cannot be compared"
            faults.append(Fault(f"{_place(one)}: data.tokenizer", text, 'set decision.metric = "bits_per_byte"'))


def _elsewhere(
    seeds: SeedsSettings, limits: Limits, base: Draft, everything: dict[str, Draft], faults: list[Fault]
) -> None:
    """Refuse weights trained elsewhere that are fewer than the seeds, and a limit that nobody can hold them to."""
    for one in (base, *everything.values()):
        prefix = "" if one is base else f"{_place(one)}: "
        missing, limited = elsewhere.too_few(one.settings, seeds), elsewhere.limited(one.settings, limits)
        faults += [Fault(prefix + missing.place, missing.fault, missing.cure)] if missing else []
        faults += [limited] if limited and limited not in faults else []


def _spans(base: Draft, everything: dict[str, Draft], faults: list[Fault]) -> None:
    """Fill in data.span: the longest seq_len of any arm. Every arm's rows must fit into it whole."""
    lengths = [one.settings["model"]["seq_len"] for one in (base, *everything.values())]
    longest = max((length for length in lengths if length), default=None)
    for one in (base, *everything.values()):
        data, seq_len = one.settings["data"], one.settings["model"]["seq_len"]
        given = data["span"] is not None
        data["span"] = cast(int, data["span"] or longest)  # None where a fault was found
        if seq_len and data["span"] and data["span"] % seq_len:
            prefix = "" if one is base else f"{_place(one)}: "
            cure = f"give a multiple of {seq_len}" if given else "set data.span to a common multiple of every seq_len"
            text = f"{data['span']} is no multiple of model.seq_len {seq_len}"
            faults.append(Fault(f"{prefix}data.span", text, cure))
        elif given and one.paths == [("data", "span")] and data["span"] == base.settings["data"]["span"]:
            text = f"changes nothing: {data['span']} is the default"
            faults.append(Fault(f"{_place(one)}: data.span", text, "remove it or give another value"))


def _validated(base: Draft, everything: dict[str, Draft], faults: list[Fault]) -> None:
    """Fill in train.validate_bytes, by the baseline's validate_every: curves are compared, so all arms score one text."""
    training = [one.settings["train"] for one in (base, *everything.values())]
    every = next((train["validate_every"] for train in training if train["validate_every"]), None)
    chosen = training[0]["validate_bytes"] or (default_bytes(every) if every else None)
    for one in everything.values():
        if one.settings["train"]["validate_bytes"] not in (None, training[0]["validate_bytes"]):
            text = "differs between arms, whose curves are then of different texts"
            faults.append(Fault(f"{_place(one)}: train.validate_bytes", text, "set it in [train], for every arm"))
    for train in training:
        train["validate_bytes"] = None if train["weights"] else chosen


def _twins(base: Draft, everything: dict[str, Draft], faults: list[Fault]) -> None:
    """Refuse an arm that compares the same two models as one before it, under whatever names and paths, or turned round.

    Each would take a share of the error probability, and every interval would be wider for it.
    """
    seen: list[tuple[str, Settings, Settings]] = []
    for name, one in everything.items():
        mine, theirs = one.settings, everything.get(one.on, base).settings
        if one.faults or equal(mine, theirs):  # said already
            continue
        for other, first, second in seen:
            if equal((first, second), (mine, theirs)):
                text = f"is {other} under another name: every setting is the same, and so is the reference's"
                faults.append(Fault(_place(one), text, "remove one of them"))
            elif equal((second, first), (mine, theirs)):
                text = f"is {other} turned round: the same two models, compared the other way"
                faults.append(Fault(_place(one), text, "remove one of them"))
            else:
                continue
            break
        else:
            seen.append((name, mine, theirs))


def _place(one: Draft) -> str:
    return f"factorial.{one.factorial}: {one.name}" if one.factorial else f"arm.{one.name}"
