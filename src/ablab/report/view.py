"""A verdict as the report reads it: of the form that judging writes, or refused."""

from __future__ import annotations

from collections.abc import Sequence

from ablab.core.fault import CheckFailed, Fault
from ablab.core.forms import fits, misfit
from ablab.records.answer import Answer, ArmAnswer, ProbeAnswer, RunAnswer, Step
from ablab.report.words import UNITS, decimals_for, num, scrub

Series = dict[float, dict[int, float]]  # tokens -> seed -> value
Bands = tuple[list[float], list[float | None]]  # edges, one longer than the values
Counts = tuple[list[float], list[float]]  # edges, tokens per band
KNOWN = ("baseline", "better", "worse", "equivalent", "inconclusive", "unstable", "invalid")


def refused(place: str, fault: str) -> CheckFailed:
    """Make the refusal of a verdict that judging did not write like this."""
    here = "verdict.json" + (f": {place}" if place else "")
    return CheckFailed(Fault(here, fault, "do `ablab report` on the study file: it is judged anew from its runs"))


def answered(verdict: object) -> Answer:
    """Return the verdict, if it is of the form that judging writes; CheckFailed for another, say of another version's."""
    if not fits(verdict, Answer):
        raise refused("", misfit(verdict, Answer))
    if odd := [arm["word"] for arm in verdict["arms"] if arm["word"] not in (*KNOWN, None)]:
        raise refused("arms", f"holds the word {odd[0]!a}, which says nothing of an arm")
    return verdict


class View:
    """A verdict of the form `Answer`; CheckFailed for another one. Numbers stay as they are; one that is not finite is None."""

    def __init__(self, verdict: object) -> None:
        self.verdict = answer = answered(scrub(verdict))
        self.runs = answer["runs"]
        named = [a["name"] for a in answer["arms"] if a["word"] == "baseline"]
        self.baseline: str = named[0] if named else "baseline"
        self.arms = sorted(answer["arms"], key=lambda a: a["name"] != self.baseline)
        self.metric, self.stage = answer["metric"], answer["stage"]
        self.unit = UNITS.get(self.metric, self.metric)
        self.matters, self.confidence = answer["matters"], answer["confidence"]
        self.decimals = decimals_for(self.matters)
        self.looks, self.weights, self.notes = answer["looks"], answer["weights"], answer["notes"]

    @property
    def of_program(self) -> bool:
        """Tell whether the runs are those of a program that is not ours."""
        return "runner" in self.verdict["baseline"]

    # arms
    def word(self, arm: ArmAnswer) -> str:
        """Return one of the seven words, `waiting` for an arm without one yet."""
        if arm["word"] is None:
            return "waiting"
        nothing = arm["word"] == "inconclusive" and not arm["seeds"] and arm["delta"] is None
        return "waiting" if nothing else arm["word"]

    @property
    def rivals(self) -> list[ArmAnswer]:
        return [a for a in self.arms if a["name"] != self.baseline]

    @property
    def base(self) -> ArmAnswer | None:
        """The baseline's own row."""
        return next((a for a in self.arms if a["name"] == self.baseline), None)

    def index(self, name: str) -> int:
        """Return the arm's place in the table: it fixes its colour and dash."""
        return next((i for i, a in enumerate(self.arms) if a["name"] == name), 0)

    def reference(self, arm: ArmAnswer) -> str:
        return arm["on"] or self.baseline

    @property
    def stages(self) -> list[str]:
        """The stages that have a level somewhere, in the study's order."""
        seen = dict.fromkeys(self.verdict["stages"])
        return [s for s in seen if any(self.level(a, s) is not None or s in a["unstable"] for a in self.arms)]

    def level(self, arm: ArmAnswer, stage: str) -> float | None:
        """Return the arm's own metric at a stage: the row's, else the mean over its done runs."""
        cell = arm["stages"][stage]["mean"] if stage in arm["stages"] else None
        if cell is None and stage == self.stage:
            cell = arm["mean"]
        return mean_of(list(self._done(arm["name"], stage).values())) if cell is None else cell

    def steps(self) -> dict[str, dict[str, Step]]:
        """Map arm -> stage -> the step from the stage below."""
        return {arm["name"]: arm["steps"] for arm in self.arms if arm["steps"]}

    @property
    def finished(self) -> bool:
        return self.verdict["decided_by"] != "not finished" and not any(self.word(a) == "waiting" for a in self.rivals)

    def counted(self, what: str) -> float | None:
        """Count something in the first corpus: `valid_tokens`."""
        return next((num(corpus["counts"].get(what)) for corpus in self.verdict["data"]), None)

    @property
    def factor(self) -> float | None:
        """What turns the metric into the other unit on this validation set, if all arms share one tokenizer."""
        bits = self.verdict["bits_per_nat"]
        if not bits or any(change["path"].startswith("data") for a in self.arms for change in a["changes"]):
            return None
        return {"nats_per_token": bits, "bits_per_byte": 1.0 / bits}.get(self.metric)

    @property
    def other_unit(self) -> str:
        return UNITS["bits_per_byte" if self.metric == "nats_per_token" else "nats_per_token"]

    # runs
    def runs_of(self, name: str) -> list[RunAnswer]:
        return [r for r in self.runs if r["arm"] == name]

    def elsewhere(self) -> set[str]:
        """Name the arms whose weights were read from files and not trained here."""
        return {r["arm"] for r in self.runs if str(r["token_hash"]).startswith("adopted:")}

    def over_documents(self) -> bool:
        """Tell whether intervals are over the documents of one run, for arms that share weights, and not over seeds."""
        return self.looks == [1] and any(arm["shares_weights"] and arm["low"] is not None for arm in self.arms)

    def value(self, run: RunAnswer, stage: str | None = None) -> float | None:
        return run["metrics"].get(stage or self.stage)

    def differences(self, arm: ArmAnswer) -> list[tuple[int, float]]:
        """List (seed, arm - reference) at the deciding stage, for the arm's pairs; all common seeds where it has none yet."""
        ours, theirs = self._done(arm["name"]), self._done(self.reference(arm))
        both = sorted(ours.keys() & theirs.keys())
        return [(s, ours[s] - theirs[s]) for s in both if self._paired(arm, s)]

    def _paired(self, arm: ArmAnswer, seed: int) -> bool:
        """Tell whether the arm's numbers speak of this seed: a probe's do not, nor do those of a look to come."""
        return seed in arm["pairs"] or not arm["pairs"]

    def _done(self, name: str, stage: str | None = None) -> dict[int, float]:
        values = ((r["seed"], self.value(r, stage)) for r in self.runs_of(name) if r["status"] == "done")
        return {seed: value for seed, value in values if value is not None}

    def curve(self, name: str) -> Series:
        """Return the arm's trajectories on the evaluations that all its seeds share (all evaluations if they share none)."""
        curves = {r["seed"]: points for r in self.runs_of(name) if (points := _points(r))}
        ended = {r["seed"] for r in self.runs_of(name) if r["status"] == "done"}
        curves = {s: c for s, c in curves.items() if s in ended} or curves
        if not curves:
            return {}
        shared = set.intersection(*(set(c) for c in curves.values())) or set().union(*curves.values())
        return {t: {s: c[t] for s, c in curves.items() if t in c} for t in sorted(shared)}

    def curve_difference(self, arm: ArmAnswer) -> Series:
        ours, theirs = self.curve(arm["name"]), self.curve(self.reference(arm))
        gaps = {
            t: {s: v - theirs[t][s] for s, v in ours[t].items() if s in theirs[t] and self._paired(arm, s)}
            for t in ours
            if t in theirs
        }
        return {t: d for t, d in gaps.items() if d}

    def bands(self) -> dict[str, dict[str, Bands]]:
        """Map stage -> arm -> (edges, nats per token), the deciding stage first."""
        bands: dict[str, dict[str, Bands]] = {}
        for stage, by_arm in self.verdict["bands"].items():
            for name, band in by_arm.items():
                if any(value is not None for value in band["nats_per_token"]):
                    edges = _edges(band["edges"], band["nats_per_token"], "nats_per_token")
                    bands.setdefault(stage, {})[name] = edges, band["nats_per_token"]
        order = [s for s in (self.stage,) if s in bands]
        return {s: bands[s] for s in [*order, *(s for s in bands if s not in order)]}

    def band_differences(self, stage: str) -> dict[str, list[float | None]]:
        """Map arm -> the difference of nats per token to the reference's in every band of the arm, over the arm's pairs."""
        differences = {name: band.get("difference", []) for name, band in self.verdict["bands"].get(stage, {}).items()}
        return {name: gaps for name, gaps in differences.items() if any(gap is not None for gap in gaps)}

    def scored(self) -> dict[str, dict[str, Counts]]:
        """Map stage -> arm -> (edges, tokens scored per band), in the study's order of stages."""
        counts: dict[str, dict[str, Counts]] = {}
        for stage, by_arm in self.verdict["bands"].items():
            for name, band in by_arm.items():
                if sum(band["tokens"]) > 0:
                    edges = _edges(band["edges"], band["tokens"], "tokens")
                    counts.setdefault(stage, {})[name] = edges, band["tokens"]
        return counts

    def trained(self) -> dict[str, Counts]:
        """Map arm -> (edges, training tokens per band)."""
        every = {name: (row["edges"], row["trained"]) for name, row in self.verdict["positions"].items()}
        return {
            n: (_edges(edges, counts, "trained"), counts) for n, (edges, counts) in every.items() if sum(counts) > 0
        }

    def probe_message(self) -> str | None:
        """Say why the needle probe says nothing here, or None where it does."""
        probes = list(self.needles().values())
        above, below = ([p[k] for p in probes if k in p] for k in ("above_floor", "below_ceiling"))
        if above and not any(above):
            return "at its floor: no arm prefers the true key to the distractors"
        if below and not any(below):
            return "at its ceiling: every arm finds the key"
        if any("uninformative" in note for note in (*self.notes, *(n for a in self.arms for n in a["notes"]))):
            return "at its floor or ceiling over the seeds"
        return None

    def needles(self) -> dict[str, ProbeAnswer]:
        needles = self.verdict["needle"]
        return {a["name"]: needles[a["name"]] for a in self.arms if a["name"] in needles}


def mean_of(values: Sequence[float | None]) -> float | None:
    """Average the numbers among `values`; None where there are none."""
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def grid_of(grid: list[list[float | None]], rows: int, columns: int) -> list[list[float | None]]:
    """Return the grid, of rows x columns; CheckFailed for another shape."""
    if len(grid) != rows or any(len(line) != columns for line in grid):
        raise refused("needle", f"holds a map that is not of {rows} lengths and {columns} depths")
    return grid


def _points(run: RunAnswer) -> dict[float, float]:
    points = run.get("trajectory", [])
    if any(len(point) != 2 for point in points):
        raise refused("runs", "holds a point of a trajectory that is not of tokens and a value")
    return {tokens: value for tokens, value in points if tokens is not None and value is not None}


def _edges(edges: list[float], values: Sequence[float | None], key: str) -> list[float]:
    """Return the edges of the bands of `key`, rising from 0 or more; CheckFailed where they are not one more than the bands."""
    if len(edges) != len(values) + 1 or min(edges) < 0 or any(a >= b for a, b in zip(edges, edges[1:])):
        raise refused("bands", f"holds {len(values)} bands of {key} between the edges {edges}")
    return edges
