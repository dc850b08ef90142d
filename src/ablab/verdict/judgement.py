"""judge and wanted: the verdict of a study, and the runs it still needs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from ablab.verdict.contrasts import Factorial
from ablab.verdict.crossed import crossed
from ablab.verdict.describe import baseline_row, line_row, loose_margin, smallest_tie
from ablab.verdict.documents import bits_per_nat
from ablab.verdict.evidence import ArmSpec, Bank, Decision, Evidence, RunScore
from ablab.verdict.headline import candidates, decide, sentence
from ablab.verdict.rates import often
from ablab.verdict.replayed import ReplayedStudy, of_line, replay_study
from ablab.verdict.rows import Row, Verdict
from ablab.verdict.tie import Contest


def wanted(
    decision: Decision,
    arms: Sequence[ArmSpec],
    seeds: Sequence[int],
    runs: Iterable[RunScore],
    bank: Bank | None = None,
    *,
    factorials: Sequence[Factorial] = (),
) -> list[tuple[str, int]]:
    """List the runs (arm, seed) still needed up to the next look, seed by seed, the baseline first; empty: finished.

    Arms that are settled, given up, invalid or unstable ask for nothing; a reference runs where an open arm needs it.
    Raises ValueError if the study contradicts itself; never for what the runs hold.
    """
    return list(replay_study(decision, arms, seeds, runs, bank, factorials).missing)


def judge(
    decision: Decision,
    arms: Sequence[ArmSpec],
    seeds: Sequence[int],
    runs: Iterable[RunScore],
    bank: Bank | None = None,
    *,
    factorials: Sequence[Factorial] = (),
) -> Verdict:
    """Judge the study, replayed from look 1. `arms` may hold the baseline's own spec (for `prefer VALUE`).

    Raises ValueError if the study contradicts itself; never for what the runs hold.
    """
    study = replay_study(decision, arms, seeds, runs, bank, factorials)
    evidence = study.evidence
    rows = {evidence.baseline: baseline_row(evidence)}
    rows |= {line.name: line_row(study, line, bank) for line in study.lines if line.name in evidence.specs}
    notes = [*evidence.notes]
    if decision.keep is not None and decision.probe == 0 and decision.start == decision.at_most:
        notes.append("keep has no effect: there is only one look")
    if decision.probe and decision.keep is None:
        notes.append(_all_go_on(study))
    shaky = _shaky(study)
    winner, decided_by, more = _winner(study, rows, shaky)
    loose = _loose_choice(study, rows, winner) if decided_by.startswith("prefer ") else ""
    chosen = f"{decided_by}, where {loose}" if loose else decided_by
    more += [f"decided by {chosen}"] if loose else []
    if winner is not None and winner not in shaky and (lost := rows[winner].diverged) and lost.count:
        more.append(f"{'the baseline' if winner == evidence.baseline else winner} diverged at {often(lost)}")
    family = study.family
    return Verdict(
        family.looks,
        family.weights,
        winner,
        decided_by,
        sentence(evidence, rows, winner, chosen, len(study.missing), shaky.values()),
        tuple(shaky.values()),
        tuple(notes + more),
        rows,
        _bits_per_nat(evidence),
        tuple(crossed(study, one, rows) for one in factorials),
    )


def _all_go_on(study: ReplayedStudy) -> str:
    """Say what a probe without `keep` does: it promotes whatever has a pair and is fit to be compared."""
    known = study.promoted is not None
    left = [line.name for line in study.lines if known and line.name not in (study.promoted or ())]
    if not left:
        return "probe without keep: every arm goes on"
    return f"probe without keep: every arm with a sound pair in it goes on; {', '.join(left)} had none"


def _shaky(study: ReplayedStudy) -> dict[str, str]:
    """Warn of references that diverge at two seeds or more, and more often than an arm compared with them: name -> warning."""
    evidence, worst = study.evidence, dict[str, tuple[int, str]]()
    for line in study.lines:
        fit = study.fit[line.name]
        if line.name not in evidence.specs or (fit.word == "invalid" and not fit.curable):
            continue
        (counts,) = of_line(evidence, line)
        if counts.shaky_reference:
            mine, theirs = counts.rates(evidence.decision.alpha)
            who = "the baseline" if line.reference == evidence.baseline else line.reference
            said = f"{who} diverged at {often(theirs)}, {line.name} at {often(mine)}: {who} cannot win"
            known = worst.get(line.reference, (0, ""))
            worst[line.reference] = max(known, (counts.reference - counts.arm, said), key=lambda one: one[0])
    return {name: said for name, (_, said) in worst.items()}


def _winner(study: ReplayedStudy, rows: dict[str, Row], shaky: Collection[str]) -> tuple[str | None, str, list[str]]:
    evidence = study.evidence
    if study.missing:
        return None, "not finished", []
    if evidence.arms and all(rows[arm.name].word == "invalid" for arm in evidence.arms):
        return None, "invalid", []
    members, is_shown = candidates(evidence, rows, study.promoted or frozenset(), shaky)
    probe = evidence.decision.probe
    standings = study.family.standings
    places: dict[str, Sequence[int]] = {x: standing.places for x, standing in standings.items()}
    places[evidence.baseline] = evidence.common([evidence.baseline], range(probe, len(evidence.seeds)))
    at = {x: look for x in members if x in standings and (look := standings[x].look) is not None}
    shares = dict(zip(study.family.looks, study.family.weights, strict=True))
    contest = Contest(evidence, places, at, shares, shaky)
    winner, decided_by = decide(contest, members, is_shown)
    barred = [f"{a}: cannot win, {spec.barred}" for a, spec in evidence.specs.items() if spec.barred]
    return winner, decided_by, contest.notes + barred


def _loose_choice(study: ReplayedStudy, rows: Mapping[str, Row], winner: str | None) -> str:
    """Say why a preference within `matters` says little: by the winner's noise, or the noisiest arm's for the baseline."""
    evidence, standings = study.evidence, study.family.standings
    asked = (
        [winner]
        if winner is not None and winner in standings
        else [name for name in standings if name in evidence.specs]
    )
    ties = [tie for name in asked if (tie := smallest_tie(study, standings[name])) is not None]
    return loose_margin(evidence.decision, rows[evidence.baseline].mean, max(ties, default=None))


def _bits_per_nat(evidence: Evidence) -> float | None:
    for i in range(len(evidence.seeds)):
        documents = evidence.documents(evidence.baseline, i, evidence.decision.stage)
        if documents is not None and documents.bytes.sum() > 0:
            return bits_per_nat(float(documents.tokens.sum()), float(documents.bytes.sum()))
    return None
