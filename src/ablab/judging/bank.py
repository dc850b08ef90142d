"""The bank: the spread of earlier paired differences like these, for planning and for a probe's "2 sigma"."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ablab.core.fault import CheckFailed
from ablab.core.files import key_of, read_json
from ablab.core.forms import fits
from ablab.judging.recipe import recipe
from ablab.records.answer import BankRow, Kept
from ablab.runs.plan import Plan
from ablab.runs.store import stage_asked
from ablab.study.record import BASELINE
from ablab.verdict.evidence import Bank

WORDS = ("better", "worse", "equivalent", "inconclusive")  # an arm that diverges or breaks a rule has another spread
PAIRS = 3  # two pairs of a lucky draw would weigh as much as they please
ELSEWHERE = ("data.", "budget.", "train.weights")  # what makes a pair of other tokens: it shares less noise


def pooled(plan: Plan) -> Bank | None:
    """Pool the noise of arms that train, on the baseline, with the study's fingerprint, in the store's other studies, if any.

    None too where every arm shares its reference's weights: such differences are ten times quieter, each in its own way.
    A contrast that several studies judged counts once, with the most pairs.
    """
    if all(plan.study.shares_weights(name) for name in plan.study.arms):
        return None
    best: dict[str, tuple[int, float]] = {}
    for place, row in _rows(plan, fingerprint(plan)):
        key = str(row.get("contrast") or f"{place}: {row['name']}")
        best[key] = max(best.get(key, (0, 0.0)), (row["seeds"], row["s"] or 0.0))
    df = sum(n - 1 for n, _ in best.values())
    return Bank(math.sqrt(sum((n - 1) * s * s for n, s in best.values()) / df), df) if df else None


def _rows(plan: Plan, wanted: str) -> Iterator[tuple[str, BankRow]]:
    folder = plan.store.root / "studies"
    for path in sorted([*folder.glob("*/verdict.json"), *folder.glob("*/earlier/*/verdict.json")]):
        if path.parent == plan.directory:
            continue
        try:
            other = read_json(path)
        except CheckFailed:
            continue  # planning only: a file that cannot be read plans nothing
        if fits(other, Kept) and other.get("fingerprint") == wanted:
            yield from ((str(path.parent), row) for row in other["arms"] if fits(row, BankRow) and _fits(row))


def _fits(row: BankRow) -> bool:
    """Tell whether a row of a verdict is of the kind that the bank holds."""
    if row["on"] != BASELINE or row.get("word") not in WORDS or row.get("shares_weights"):
        return False
    if any(str(change.get("path", "")).startswith(ELSEWHERE) for change in row.get("changes", ())):
        return False
    sd = row.get("s")
    return bool(row.get("seeds", 0) >= PAIRS and sd and math.isfinite(sd))


def fingerprint(plan: Plan) -> str:
    """Return what must agree before one study's noise may plan another's: sizes, tokens, batch, optimizer, stage, metric."""
    base, declared = plan.study.baseline.settings, plan.study.decision
    if plan.study.runner is not None:
        return key_of([recipe(plan, BASELINE, declared["stage"]), declared["metric"]])
    sizes = {k: base["model"][k] for k in ("layers", "d_model", "n_heads", "n_kv_heads", "head_dim", "seq_len")}
    corpus = plan.runs[BASELINE, plan.seeds[0]].corpus.name
    train = base["train"]
    if train["weights"]:  # by what the files hold, wherever they lie
        train = {**train, "weights": [plan.runs[BASELINE, seed].weights for seed in plan.seeds]}
    asked = {"budget": base["budget"], "train": train, "corpus": corpus, "model": sizes}
    return key_of({**asked, "stage": stage_asked(base, declared["stage"]), "metric": declared["metric"]})
