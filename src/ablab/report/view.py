"""A verdict as the report reads it: of the form that judging writes, or refused."""

from __future__ import annotations

from typing import Any

from ablab.core.fault import CheckFailed, Fault
from ablab.core.forms import misfit
from ablab.records.answer import Answer
from ablab.report.words import UNITS, clean, decimals_for, num, scrub

Series = dict[float, dict[int, float]]  # tokens -> seed -> value
KNOWN = ("baseline", "better", "worse", "equivalent", "inconclusive", "unstable", "invalid")


def mapping(value: Any) -> dict[str, Any]:
    """`value` if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def listing(value: Any) -> list[Any]:
    """`value` as a list: null is empty, a lone text or mapping is one item."""
    if value is None or value == "" or value == {}:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def numbers(value: Any) -> list[float | None]:
    return [num(v) for v in listing(value)]


def refused(place: str, fault: str) -> CheckFailed:
    """The refusal of a verdict that judging did not write like this."""
    here = "verdict.json" + (f": {place}" if place else "")
    return CheckFailed(Fault(here, fault, "do `ablab report` on the study file: it is judged anew from its runs"))


class View:
    """A verdict of the form `Answer`; CheckFailed for another one. Nothing here changes a number."""

    def __init__(self, verdict: dict[str, Any]) -> None:
        if said := misfit(verdict, Answer):
            raise refused("", said)
        verdict = scrub(verdict)
        self.verdict: dict[str, Any] = verdict
        self.arms: list[dict[str, Any]] = [
            a for a in listing(verdict.get("arms")) if isinstance(a, dict) and "name" in a
        ]
        self.runs: list[dict[str, Any]] = [r for r in listing(verdict.get("runs")) if isinstance(r, dict)]
        named = [a["name"] for a in self.arms if a.get("word") == "baseline"]
        self.baseline: str = named[0] if named else "baseline"
        self.arms.sort(key=lambda a: a["name"] != self.baseline)
        self.metric = clean(verdict.get("metric") or "nats_per_token")
        self.unit = UNITS.get(self.metric, self.metric)
        self.stage = clean(verdict.get("stage") or "")
        self.matters = num(verdict.get("matters"))
        self.decimals = decimals_for(self.matters)
        self.confidence = num(verdict.get("confidence")) or 0.95
        self.looks = [int(n) for n in numbers(verdict.get("looks")) if n is not None]
        self.weights = [w for w in numbers(verdict.get("weights")) if w is not None]
        self.notes = [clean(n) for n in listing(verdict.get("notes"))]

    # arms
    def word(self, arm: dict[str, Any]) -> str:
        """One of the seven words, `waiting` for an arm without a number yet, `cell` for a cell of a factorial."""
        word = arm.get("word")
        if word is None and num(arm.get("delta")) is not None:
            return "cell"
        unjudged = word not in KNOWN or (
            word == "inconclusive" and not num(arm.get("seeds")) and num(arm.get("delta")) is None
        )
        return "waiting" if unjudged else str(word)

    @property
    def rivals(self) -> list[dict[str, Any]]:
        return [a for a in self.arms if a["name"] != self.baseline]

    def index(self, name: str) -> int:
        """The arm's place in the table: it fixes its colour and dash."""
        return next((i for i, a in enumerate(self.arms) if a["name"] == name), 0)

    def reference(self, arm: dict[str, Any]) -> str:
        return str(arm.get("on") or self.baseline)

    @property
    def stages(self) -> list[str]:
        """The stages that have a level somewhere, in the study's order."""
        seen = dict.fromkeys(clean(s) for s in listing(self.verdict.get("stages")))
        for arm in self.arms:
            seen.update(dict.fromkeys(mapping(arm.get("stages"))))
        return [s for s in seen if any(self.level(a, s) is not None or s in self.unstable(a) for a in self.arms)]

    def level(self, arm: dict[str, Any], stage: str) -> float | None:
        """The arm's own metric at a stage: the row's, else the mean over its done runs."""
        cell = num(mapping(mapping(arm.get("stages")).get(stage)).get("mean"))
        if cell is None and stage == self.stage:
            cell = num(arm.get("mean"))
        return mean_of(list(self._done(arm["name"], stage).values())) if cell is None else cell

    def steps(self) -> dict[str, dict[str, dict[str, Any]]]:
        """arm -> stage -> the step from the stage below: {before, gap, gap_low, gap_high, delta, low, high, over}.

        Verdicts of before there were steps have gaps from the first stage; the baseline's own is then taken from its runs.
        """
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for arm in self.arms:
            own = arm.get("steps")
            if own is None:
                kept = {s: mapping(g) for s, g in mapping(arm.get("gaps")).items()}
                if not kept and arm["name"] == self.baseline:
                    kept = {s: {"gap": gap} for s in self.stages[1:] if (gap := self._gap(arm["name"], s)) is not None}
                own = {stage: {"before": self.stages[0], **gap} for stage, gap in kept.items()}
            if own:
                found[arm["name"]] = own
        return found

    def _gap(self, name: str, stage: str) -> float | None:
        first, here = (self._done(name, s) for s in (self.stages[0], stage))
        return mean_of([here[s] - first[s] for s in here.keys() & first.keys()])

    def unstable(self, arm: dict[str, Any]) -> dict[str, str]:
        """The stages at which the arm's scores are not finite, each with the reason."""
        return {stage: clean(why) for stage, why in mapping(arm.get("unstable")).items()}

    @property
    def finished(self) -> bool:
        return self.verdict.get("decided_by") != "not finished" and not any(
            self.word(a) == "waiting" for a in self.rivals
        )

    @property
    def corpora(self) -> list[dict[str, Any]]:
        """The manifests of the corpora that were read; usually one."""
        return [m for m in listing(self.verdict.get("data")) if isinstance(m, dict)]

    @property
    def counts(self) -> dict[str, Any]:
        """Documents, tokens and bytes of the first corpus."""
        first = self.corpora[0] if self.corpora else {}
        return mapping(first.get("counts")) or first

    @property
    def factor(self) -> float | None:
        """What turns the metric into the other unit on this validation set, if all arms share one tokenizer."""
        bits = num(self.verdict.get("bits_per_nat"))
        paths = [str(mapping(c).get("path", "")) for a in self.arms for c in listing(a.get("changes"))]
        if not bits or any(p.startswith("data") for p in paths):
            return None
        return {"nats_per_token": bits, "bits_per_byte": 1.0 / bits}.get(self.metric)

    @property
    def other_unit(self) -> str:
        return UNITS["bits_per_byte" if self.metric == "nats_per_token" else "nats_per_token"]

    # runs
    def runs_of(self, name: str) -> list[dict[str, Any]]:
        return [r for r in self.runs if r.get("arm") == name]

    def elsewhere(self) -> set[str]:
        """Arms whose weights were read from files and not trained here."""
        return {str(r.get("arm")) for r in self.runs if str(r.get("token_hash")).startswith("adopted:")}

    def over_documents(self) -> bool:
        """Whether intervals are over the documents of one run, for arms that share weights, and not over seeds."""
        return self.looks == [1] and any(
            arm.get("shares_weights") and num(arm.get("low")) is not None for arm in self.arms
        )

    def value(self, run: dict[str, Any], stage: str | None = None) -> float | None:
        return num(mapping(run.get("metrics")).get(stage or self.stage))

    def differences(self, arm: dict[str, Any]) -> list[tuple[int, float]]:
        """(seed, arm - reference) at the deciding stage, for the arm's pairs; all common seeds where it has none yet."""
        ours, theirs = self._done(arm["name"]), self._done(self.reference(arm))
        both = sorted(ours.keys() & theirs.keys())
        return [(s, ours[s] - theirs[s]) for s in both if self._paired(arm, s)]

    def _paired(self, arm: dict[str, Any], seed: int) -> bool:
        """Whether the arm's numbers speak of this seed: a probe's do not, nor do those of a look to come."""
        pairs = listing(arm.get("pairs"))
        return seed in pairs or not pairs

    def _done(self, name: str, stage: str | None = None) -> dict[int, float]:
        found = ((r.get("seed"), r.get("status"), self.value(r, stage)) for r in self.runs_of(name))
        return {int(s): v for s, status, v in found if status == "done" and v is not None and isinstance(s, int)}

    def curve(self, name: str) -> Series:
        """The arm's trajectories on the evaluations that all its seeds share (all evaluations if they share none)."""
        curves = {r["seed"]: _points(r) for r in self.runs_of(name) if isinstance(r.get("seed"), int) and _points(r)}
        ended = {r.get("seed") for r in self.runs_of(name) if r.get("status") == "done"}
        curves = {s: c for s, c in curves.items() if s in ended} or curves
        if not curves:
            return {}
        shared = set.intersection(*(set(c) for c in curves.values())) or set().union(*curves.values())
        return {t: {s: c[t] for s, c in curves.items() if t in c} for t in sorted(shared)}

    def curve_difference(self, arm: dict[str, Any]) -> Series:
        ours, theirs = self.curve(arm["name"]), self.curve(self.reference(arm))
        found = {
            t: {s: v - theirs[t][s] for s, v in ours[t].items() if s in theirs[t] and self._paired(arm, s)}
            for t in ours
            if t in theirs
        }
        return {t: d for t, d in found.items() if d}

    def bands(self) -> dict[str, dict[str, tuple[list[float], list[float | None]]]]:
        """stage -> arm -> (edges, nats per token); edges are one longer than the values."""
        found: dict[str, dict[str, tuple[list[float], list[float | None]]]] = {}
        for stage, by_arm in mapping(self.verdict.get("bands")).items():
            for name, band in mapping(by_arm).items():
                read = _band(mapping(band))
                if read is not None:
                    found.setdefault(stage, {})[name] = read
        order = [s for s in (self.stage,) if s in found]
        return {s: found[s] for s in [*order, *(s for s in found if s not in order)]}

    def band_differences(self, stage: str) -> dict[str, list[float | None]]:
        """arm -> the difference of nats per token to the reference's in every band of the arm, over the arm's pairs."""
        by_arm = mapping(mapping(self.verdict.get("bands")).get(stage))
        found = {name: numbers(mapping(band).get("difference")) for name, band in by_arm.items()}
        return {name: gaps for name, gaps in found.items() if any(gap is not None for gap in gaps)}

    def scored(self) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
        """stage -> arm -> (edges, tokens scored per band), in the study's order of stages."""
        found: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
        for stage, by_arm in mapping(self.verdict.get("bands")).items():
            for name, band in mapping(by_arm).items():
                if (read := _counts(mapping(band), "tokens")) is not None:
                    found.setdefault(stage, {})[name] = read
        return found

    def trained(self) -> dict[str, tuple[list[float], list[float]]]:
        """arm -> (edges, training tokens per band)."""
        positions = mapping(self.verdict.get("positions"))
        return {name: read for name, row in positions.items() if (read := _counts(mapping(row), "trained")) is not None}

    def probe_message(self) -> str | None:
        """Why the needle probe says nothing here, or None where it does."""
        probes = list(self.needles().values())
        above, below = ([p[k] for p in probes if isinstance(p.get(k), bool)] for k in ("above_floor", "below_ceiling"))
        if above and not any(above):
            return "at its floor: no arm prefers the true key to the distractors"
        if below and not any(below):
            return "at its ceiling: every arm finds the key"
        everywhere = self.notes + [clean(n) for a in self.arms for n in listing(a.get("notes"))]
        if any("uninformative" in note for note in everywhere):
            return "at its floor or ceiling over the seeds"
        return None

    def needles(self) -> dict[str, dict[str, Any]]:
        found = mapping(self.verdict.get("needle"))
        order = [a["name"] for a in self.arms if a["name"] in found]
        return {name: mapping(found[name]) for name in order if mapping(found[name])}


def mean_of(value: Any) -> float | None:
    """The mean of every finite number in a nest of lists."""
    if isinstance(value, list):
        inner = [m for m in (mean_of(v) for v in value) if m is not None]
        return sum(inner) / len(inner) if inner else None
    return num(value)


def grid_of(value: object, rows: int, columns: int) -> list[list[float | None]] | None:
    """`value` as rows x columns, None where there is none; CheckFailed for another shape."""
    if value is None:
        return None
    grid = [numbers(line) for line in listing(value)]
    if len(grid) != rows or any(len(line) != columns for line in grid):
        raise refused("needle", f"holds a map that is not of {rows} lengths and {columns} depths")
    return grid


def _points(run: dict[str, Any]) -> dict[float, float]:
    found: dict[float, float] = {}
    for point in listing(run.get("trajectory")):
        if isinstance(point, list | tuple) and len(point) >= 2:
            tokens, value = num(point[0]), num(point[1])
            if tokens is not None and value is not None:
                found[tokens] = value
    return found


def _band(band: dict[str, Any]) -> tuple[list[float], list[float | None]] | None:
    values = numbers(band.get("nats_per_token"))
    return (_edges(band, "nats_per_token"), values) if any(value is not None for value in values) else None


def _edges(band: dict[str, Any], key: str) -> list[float]:
    """The edges of the bands of `key`, rising from 0 or more; CheckFailed where they are not one more than the bands."""
    edges: list[float] = band["edges"]
    if len(edges) != len(band[key]) + 1 or min(edges) < 0 or any(a >= b for a, b in zip(edges, edges[1:])):
        raise refused("bands", f"holds {len(band[key])} bands of {key} between the edges {edges}")
    return edges


def _counts(band: dict[str, Any], key: str) -> tuple[list[float], list[float]] | None:
    counts = [max(v, 0.0) for v in numbers(band.get(key)) if v is not None]
    return (_edges(band, key), counts) if sum(counts) > 0 else None
