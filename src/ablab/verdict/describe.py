"""From a replayed study to the rows that are shown: every number of an arm beside its word."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ablab.verdict import planning, visible
from ablab.verdict.documents import Spread
from ablab.verdict.evidence import Bank, Decision, Evidence
from ablab.verdict.family import Line, Standing, documents_of, over_documents
from ablab.verdict.fitness import divergences
from ablab.verdict.interval import FOR_THESE, Interval, outliers, summary
from ablab.verdict.price import more_seeds, price
from ablab.verdict.rates import often, rate
from ablab.verdict.replayed import ReplayedStudy
from ablab.verdict.rows import Price, Rate, Row, StageLevel
from ablab.verdict.spending import f_two_sided, t_isf
from ablab.verdict.stages import Shown, own_metric, shown
from ablab.verdict.steps import baseline_steps, unstable_stages

UNKNOWN = "noise unknown"
NEVER = "further seeds call it better only if its reference diverges, too"
NO_SIGN = "no further seed settles it: a cell diverged once"


def baseline_row(evidence: Evidence) -> Row:
    name = evidence.baseline
    done = evidence.common([name], range(evidence.decision.probe, len(evidence.seeds)))
    notes = _pairless(evidence, (name,))
    means = {stage: own_metric(evidence, name, done, stage) for stage in evidence.decision.stages}
    ended = [status for status in evidence.status[name] if status in ("done", "diverged")]
    lost = ended.count("diverged")
    return Row(
        name,
        None,
        "baseline",
        diverged=rate(lost, len(ended), evidence.decision.alpha) if lost else None,
        seeds=len(done),
        mean=means[evidence.decision.stage],
        notes=tuple(notes),
        more_seeds=0,
        stages={stage: StageLevel(mean) for stage, mean in means.items() if mean is not None},
        steps=baseline_steps(evidence, name, done),
        unstable=unstable_stages(evidence, name),
    )


def line_row(study: ReplayedStudy, line: Line, bank: Bank | None) -> Row:
    evidence, fit = study.evidence, study.fit[line.name]
    bank = None if line.shares_weights else bank  # which holds differences of arms that train: those are far noisier
    stage = evidence.decision.stage
    if fit.word is not None and line.name not in evidence.specs:
        return Row(line.name, line.reference, None, more_seeds=0, notes=(fit.note,))
    if fit.word is not None:
        places = evidence.common(line.arms, range(len(evidence.seeds))) if fit.word == "unstable" else []
        values = line.values(evidence, places, stage)
        sample = summary(values, values)
        lower = sum(v < 0 for v in values) if places else None
        notes = (fit.note, *_pairless(evidence, line.arms))
        mean = own_metric(evidence, line.name, places, stage)
        part = _kept(evidence, line, places) if fit.word == "unstable" else Shown()
        mine, theirs = _rates(evidence, line.name, line.reference)
        return Row(
            line.name,
            line.reference,
            fit.word,
            sample.d,
            seeds=sample.n,
            s=sample.s,
            mean=mean,
            more_seeds=0,
            lower=lower,
            notes=(*notes, *_said_unstable(unstable := unstable_stages(evidence, line.name))),
            stages=part.stages,
            gaps=part.gaps,
            steps=part.steps,
            unstable=unstable,
            diverged=mine,
            reference_diverged=theirs,
            shares_weights=line.shares_weights,
            pairs=tuple(evidence.seeds[i] for i in places),
        )
    if study.promoted is None or line.name not in study.promoted:
        return _probe_row(study, line, bank)
    return _judged_row(study, line, study.family.standings[line.name], bank)


def _kept(evidence: Evidence, line: Line, places: Sequence[int]) -> Shown:
    """Show the stages of an unstable arm over the pairs left, without bounds; with no pair left, where stages were scored."""
    runs = ((i, [evidence.runs[a][i] for a in line.arms]) for i in range(len(evidence.seeds)))
    scored = [i for i, several in runs if all(run is not None and run.stages for run in several)]
    return shown(evidence, line, places or scored, None)


def _rates(evidence: Evidence, arm: str | None, reference: str) -> tuple[Rate | None, Rate | None]:
    """Count how often an arm and its reference diverged; nothing where neither did, and for contrasts."""
    if arm is None:
        return None, None
    counts = divergences(evidence, arm, reference, range(len(evidence.seeds)))
    return counts.rates(evidence.decision.alpha) if counts.both + counts.arm + counts.reference else (None, None)


def _said_unstable(unstable: Mapping[str, str]) -> list[str]:
    return [f"stage {stage}: unstable, {why}; its other stages stand" for stage, why in unstable.items()]


def _probe_row(study: ReplayedStudy, line: Line, bank: Bank | None) -> Row:
    """Make the row of an arm that has only been probed: the probe's difference, no seeds of its own."""
    evidence, sample = study.evidence, study.probed[line.name]
    decision = evidence.decision
    values = line.values(evidence, evidence.common(line.arms, range(decision.probe)), decision.stage)
    lower = sum(v < 0 for v in values) if values else None
    notes = tuple(_pairless(evidence, line.arms))
    if study.promoted is None or line.name in study.probing:
        cost = price(evidence, line, range(decision.probe))
        more = sum(not evidence.ended(line.arms, [i]) for i in range(decision.probe))
        return Row(
            line.name,
            line.reference,
            "inconclusive",
            sample.d,
            more_seeds=more,
            price=cost,
            lower=lower,
            notes=("probe not finished", *notes),
            shares_weights=line.shares_weights,
        )
    m, never = max(1, len(study.promoted)), _never_better(study, line, sample.d)
    more, fresh = more_seeds(evidence, d=sample.d, s=None, n=0, m=m, look=None, open=False, bank=bank)
    said = [NEVER] if never else [UNKNOWN] if bank is None else []
    return Row(
        line.name,
        line.reference,
        "inconclusive",
        sample.d,
        more_seeds=None if never else more,
        fresh=fresh and not never,
        lower=lower,
        price=None if never else price(evidence, line, None, more),
        notes=("not promoted", *(_said_rates(study, line) if never else ()), *said, *notes),
        shares_weights=line.shares_weights,
    )


def _judged_row(study: ReplayedStudy, line: Line, standing: Standing, bank: Bank | None) -> Row:
    evidence, decision, i, places = study.evidence, study.evidence.decision, standing.interval, standing.places
    values = line.values(evidence, places, decision.stage)
    is_arm = line.name in evidence.specs
    error = documents_of(evidence, line, places, i.d) if i.d is not None else None
    low_text, high_text = _text_interval(i, error, decision.alpha)
    part = shown(evidence, line, places, i.c, max(1, i.m))
    unstable = unstable_stages(evidence, line.name) if is_arm else {}
    more, fresh, cost = _cost(study, line, standing, bank)
    correlation, saved = _common_random_numbers(evidence, line, places, i.s) if is_arm else (None, None)
    late = ["late crossing"] if i.word == "better" and part.trajectory and part.trajectory.delta >= 0 else []
    said = _rests_on(error, over=i.n == 1 and over_documents(evidence, line), new_text=low_text is not None)
    said += _never_or_unknown(study, line, i, bank, more)
    notes = (
        *_own_notes(study, line, standing),
        *said,
        *_loose(study, standing, own_metric(evidence, line.reference, places, decision.stage)),
        *late,
        *_noise_notes(evidence, places, values, i, bank),
    )
    mine, theirs = _rates(evidence, line.name if is_arm else None, line.reference)
    return Row(
        name=line.name,
        on=line.reference,
        word=i.word,
        delta=i.d,
        low=i.low,
        high=i.high,
        p=i.p,
        seeds=i.n,
        look=study.family.looks.index(standing.look) + 1 if standing.look is not None else None,
        m=i.m or None,
        s=i.s,
        c=i.c,
        mean=own_metric(evidence, line.name, places, decision.stage) if is_arm else None,
        mde=_mde(decision, i, error, bank),
        chance=None if {NEVER, NO_SIGN} & {*said} else standing.chance,  # it counts the words that are withheld
        more_seeds=more,
        fresh=fresh,
        price=cost,
        lower=sum(v < 0 for v in values) if places else None,
        notes=(*notes, *part.notes, *_said_unstable(unstable), *_pairless(evidence, line.arms)),
        trajectory=part.trajectory,
        stages=part.stages,
        gaps=part.gaps,
        steps=part.steps,
        inversions=part.inversions,
        unstable=unstable,
        diverged=mine,
        reference_diverged=theirs,
        shares_weights=line.shares_weights,
        se_doc=error.error if error else None,
        low_text=low_text,
        high_text=high_text,
        text_documents=error.effective if error else None,
        text_said=error.said if error else "",
        correlation=correlation,
        seeds_saved=saved,
        pairs=tuple(evidence.seeds[i] for i in places),
    )


def _cost(
    study: ReplayedStudy, line: Line, standing: Standing, bank: Bank | None
) -> tuple[int | None, bool, Price | None]:
    """Return (more seeds, fresh or not, their price); nothing for a settled line, nor where documents decide.

    An arm that may not be called better any more has the seeds to its next look, and no number after its last.
    """
    evidence, i, look = study.evidence, standing.interval, standing.look
    if i.word != "inconclusive":
        return 0, False, None
    if i.n == 1 and i.note == FOR_THESE and over_documents(evidence, line):
        return None, False, None
    m = max(1, i.m or study.family.sizes[line.name])
    more, fresh = more_seeds(evidence, d=i.d, s=i.s, n=i.n, m=m, look=look, open=standing.open, bank=bank)
    if fresh and _never_better(study, line, i.d):
        return None, False, None
    after = evidence.decision.probe + (look or 0)
    ahead = None if fresh else range(after, min(after + more, len(evidence.seeds)))
    return more, fresh, price(evidence, line, ahead, more)


def _never_or_unknown(study: ReplayedStudy, line: Line, i: Interval, bank: Bank | None, more: int | None) -> list[str]:
    """Say what makes a number of further seeds another thing than a plan."""
    if i.word == "inconclusive" and _never_better(study, line, i.d):
        return [NEVER if line.name in study.evidence.specs else NO_SIGN]
    return [UNKNOWN] if i.word == "inconclusive" and i.s is None and bank is None and more is not None else []


def _never_better(study: ReplayedStudy, line: Line, d: float | None) -> bool:
    """Tell whether only a withheld word (better, of a contrast maybe worse) could settle a line that diverged once.

    An arm stands too low then to be shown worse or a tie. Numbers of seeds are planned for whichever of "different" and "tied"
    is easier, which is tied above -matters / 2.
    """
    words, half = study.withheld.get(line.name, ()), study.evidence.decision.matters / 2
    return ("better" in words and (d is None or d <= -half)) or ("worse" in words and (d is None or d >= half))


def loose_margin(decision: Decision, level: float | None, tie: float | None) -> str:
    """Say why a tie within `matters` says little: beyond 1% of the metric, or 3 times the smallest tie to be shown; or ""."""
    reasons = []
    if level and decision.matters > 0.01 * abs(level):
        reasons.append(f"{decision.matters / abs(level):.2g} of the metric")
    if tie and decision.matters > 3 * tie:
        reasons.append(f"{decision.matters / tie:.2g} times the smallest tie that this noise lets be shown")
    return f"matters = {decision.matters:g} is {' and '.join(reasons)}" if reasons else ""


def smallest_tie(study: ReplayedStudy, standing: Standing) -> float | None:
    """Return the smallest tie that a line's noise lets be shown: by all its seeds, or by one checkpoint's documents."""
    i, decision = standing.interval, study.evidence.decision
    if i.s:
        return visible.smallest_tie(i.s, decision.at_most, study.family.weights[-1], i.m, decision.alpha)
    # Over documents: what the interval would be around zero.
    return None if i.low is None or i.high is None or i.note != FOR_THESE else (i.high - i.low) / 2


def _loose(study: ReplayedStudy, standing: Standing, level: float | None) -> list[str]:
    if standing.interval.word != "equivalent":
        return []
    said = loose_margin(study.evidence.decision, level, smallest_tie(study, standing))
    return [f"warning: {said}; this tie says little"] if said else []


def _own_notes(study: ReplayedStudy, line: Line, standing: Standing) -> list[str]:
    i = standing.interval
    notes = [*_said_rates(study, line), *([i.note] if i.note else [])]
    return [*notes, *standing.notes, *(["waiting"] if standing.waits else [])]


def _said_rates(study: ReplayedStudy, line: Line) -> list[str]:
    """Say how often the arms of a fit line and its reference diverged, and what that takes away."""
    said, evidence = [], study.evidence
    signs = dict(line.terms)
    for arm in line.arms[1:]:
        mine, theirs = _rates(evidence, arm, line.reference)
        if mine is None or theirs is None:
            continue
        once = divergences(evidence, arm, line.reference, range(len(evidence.seeds))).once
        who = "diverged" if arm == line.name else f"{arm} diverged"
        first = (
            f"{who} once in {mine.seeds} seeds, so it is not called {'better' if signs[arm] > 0 else 'worse'}; "
            if once
            else ""
        )
        said.append(f"{first}{who} at {often(mine)}, {line.reference} at {often(theirs)}")
    return said


def _mde(decision: Decision, i: Interval, error: Spread | None, bank: Bank | None) -> float | None:
    if i.word == "invalid":
        return None
    if i.n >= 2:
        return None if i.s is None else visible.mde(i.s, i.n, i.w, i.m, decision.alpha)
    if i.n == 1 and i.c is not None and error is not None:  # one checkpoint, judged over documents
        return visible.mde(error.error * math.sqrt(error.effective), error.effective, 1.0, i.m, decision.alpha)
    return planning.mde_one_seed(bank.sd, i.m, decision.alpha) if i.n == 1 and bank is not None else None


def _text_interval(i: Interval, over: Spread | None, alpha: float) -> tuple[float | None, float | None]:
    """Compute the interval for new text of this kind: seeds and documents together, each half width by its own t.

    It is the seeds' interval where documents do not differ and the documents' where seeds do not; one t for both would take
    the degrees of freedom of eight seeds for those of three documents.
    """
    if over is None or i.d is None or i.c is None:
        return None, None
    seeds = i.c * i.s / math.sqrt(i.n) if i.s is not None else 0.0
    half = math.hypot(seeds, t_isf(alpha * i.w / (2 * i.m), over.df) * over.error)
    return i.d - half, i.d + half


def _rests_on(basis: Spread | None, *, over: bool, new_text: bool) -> list[str]:
    """Say what an interval takes as independent: that of the word (`over` documents), or the one for new text beside it."""
    if basis is None or not (over or new_text):
        return []
    return [basis.said if over else f"for new text: {basis.said}"]


def _noise_notes(
    evidence: Evidence, places: Sequence[int], values: Sequence[float], i: Interval, bank: Bank | None
) -> list[str]:
    notes = [
        f"seed {evidence.seeds[places[k]]}: outlier, not expected from the others (p = {p:.2g}); kept"
        for k, p in outliers(values)
    ]
    if bank is not None and i.n >= 3 and i.s is not None:
        ratio = i.s / bank.sd
        if f_two_sided(ratio * ratio, i.n - 1, bank.df) < 0.05:
            notes.append(f"noise is {ratio:.2f} of the bank's")
    return notes


def _pairless(evidence: Evidence, arms: Sequence[str]) -> list[str]:
    """List the seeds that all the arms have ended without giving a pair, and why."""
    notes = []
    for k, seed in enumerate(evidence.seeds):
        statuses = {a: evidence.status[a][k] for a in arms}
        if "absent" in statuses.values():
            continue
        lost = [f"{a} {status}" for a, status in statuses.items() if status != "done"]
        if lost:
            notes.append(f"seed {seed}: no pair, {' and '.join(lost)}")
    return notes


def _common_random_numbers(
    evidence: Evidence, line: Line, places: Sequence[int], s: float | None
) -> tuple[float | None, float | None]:
    """Return (correlation of the two columns, variance saved by pairing), from three pairs."""
    if len(places) < 3 or not s:
        return None, None
    x, y = ([evidence.values(a, evidence.decision.stage)[i] for i in places] for a in (line.name, line.reference))
    n, a, b = len(places), summary(x, x), summary(y, y)
    if a.d is None or b.d is None or not a.s or not b.s:
        return None, None
    covariance = sum((u - a.d) * (v - b.d) for u, v in zip(x, y, strict=True)) / (n - 1)
    r, saved = covariance / (a.s * b.s), (a.s * a.s + b.s * b.s) / (s * s) if s * s > 0 else math.inf
    return (max(-1.0, min(1.0, r)) if math.isfinite(r) else None), (saved if math.isfinite(saved) else None)
