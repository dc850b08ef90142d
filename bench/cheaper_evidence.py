"""What would make an interval cheaper? Trainings of three ready studies at tiny, scored in every way that might lower noise.

    python bench/cheaper_evidence.py train OUT [--seeds 16] [--minutes 70]
    python bench/cheaper_evidence.py report OUT

Each study gives its baseline and one arm. A set of trainings is what a seed moves (both the order of the tokens and the
draws of the weights; only one of the two, the other held at that of seed 0), the schedule, and the length as a part of the
tiny budget. Of each training are kept: nats per document of the last weights, of running means of the weights (as `train.ema`
has them, and flat over the last fifth of the steps), and the scores of evaluations on the way. `train` goes on where it
stopped and does the most telling sets first, so what time leaves out is whole sets. Files: OUT/STUDY.jsonl, a line per run.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

import ablab
from ablab import data
from ablab.data import Corpus, Stream, valid_rows
from ablab.model import decoder
from ablab.model.attention import attend
from ablab.training.learner import Learner
from ablab.verdict.spending import t_isf

ROOT = Path(__file__).resolve().parents[1]
ARMS = {"global_position": "grape_a", "golf_gates": "slope00", "integration": "sinks"}
STEPS = {"global_position": 40, "golf_gates": 20, "integration": 25}  # of length 1: two seconds of one core each
PRECISION = "fp32"  # a quarter faster than bf16 at this width
TEXT = 32_768  # bytes held out, as tiny studies have it; scored by the last weights
SMALL = 8_192  # scored by everything else: the first of these documents by digest
WARMUP = 9.0  # of the decay of a running mean, as train.ema_warmup
MEANS = {"ema 10%": 0.10}  # horizon of the mean, a part of the steps
KEPT = (*MEANS, "flat 20%")
HALF = (
    0.005  # half the width of the interval whose runs are counted, in the study's metric: the margin of global_position
)
EVALUATIONS, TAIL = 3, 0.10  # so many, over the last tenth of the steps, the last of them at the end


@dataclass(frozen=True)
class Set:
    """Trainings of one kind. moves: what a seed moves; length: of the tiny budget; warmdown: None is the study's own."""

    moves: str
    length: float
    warmdown: float | None = None

    @property
    def name(self) -> str:
        return f"{self.moves}{'' if self.warmdown is None else f', warmdown {self.warmdown:g}'} @ {self.length:g}"


SETS = (
    Set("both", 1.0),
    Set("both", 0.375),
    Set("draws", 1.0),
    Set("order", 1.0),
    Set("both", 1.0, 0.95),
)


class Means:
    """Running means of a model's parameters: one per horizon, and a flat one over the last fifth of the steps."""

    def __init__(self, parameters: dict[str, torch.Tensor], steps: int) -> None:
        self.parameters, self.steps, self.flat = parameters, steps, 0
        self.held = {name: self._copy() for name in KEPT}

    def _copy(self) -> list[torch.Tensor]:
        return [p.detach().clone() for p in self.parameters.values()]

    def update(self, number: int) -> None:
        """After update `number` (the first is 1)."""
        now = [p.detach() for p in self.parameters.values()]
        for name, horizon in MEANS.items():
            decay = min(1 - 1 / max(1.0, horizon * self.steps), (1 + number) / (1 + number + WARMUP))
            torch._foreach_lerp_(self.held[name], now, 1 - decay)
        if number > 0.8 * self.steps:
            self.flat += 1
            torch._foreach_lerp_(self.held["flat 20%"], now, 1 / self.flat)

    def swap(self, name: str) -> None:
        """Exchange the model's weights and a mean."""
        for p, mean in zip(self.parameters.values(), self.held[name]):
            kept = p.detach().clone()
            p.data.copy_(mean)
            mean.copy_(kept)


def score(learner: Learner, corpus: Corpus) -> list[float]:
    """Nats of each document of the held-out text."""
    rows = valid_rows(corpus, learner.seq_len)
    nats = np.zeros(len(corpus.valid) + 1)  # padding's document is -1: the last place
    step = max(1, decoder.FORWARD_TOKENS // rows.tokens_RT.shape[1])
    with decoder.inference(learner.model, learner.precision):
        for at in range(0, len(rows), step):
            here = slice(at, at + step)
            batch = [torch.from_numpy(part[here]) for part in (rows.tokens_RT, rows.targets_RT, rows.ids_RT)]
            nll = learner.model.nll(*batch).double().numpy()
            np.add.at(nats, rows.document_RT[here], np.where(rows.targets_RT[here] >= 0, nll, 0.0))
    return [round(float(x), 6) for x in nats[:-1]]


def small(corpus: Corpus) -> Corpus:
    """The first documents by digest that fill SMALL bytes: about what a tiny study holds out."""
    sizes = np.diff([*corpus.valid.starts, len(corpus.valid.tokens)])
    order = np.lexsort(corpus.valid.digests.T[::-1])
    fitting = order[np.cumsum(sizes[order]) <= SMALL]
    return replace(corpus, valid=corpus.valid.some(np.sort(fitting)))


def trained(settings: Any, steps: int, corpus: Corpus, part: Corpus, which: Set, seed: int) -> dict[str, Any]:
    """One training and its scores: per document for weights, sums over the small text for evaluations on the way."""
    began = time.perf_counter()
    settings = copy.deepcopy(settings)
    budget, train = settings["budget"], settings["train"]
    budget["tokens"] = round(steps * which.length) * budget["batch_tokens"]
    train["ema"], train["ema_warmup"], train["validate_bytes"] = 0.0, None, 1024
    if which.warmdown is not None:
        train["schedule"] |= {
            "warmup": min(train["schedule"]["warmup"], 1 - which.warmdown),
            "warmdown": which.warmdown,
        }
    order, draws = (seed if which.moves in ("both", what) else 0 for what in ("order", "draws"))
    sizes = settings["model"]["seq_len"]
    learner = Learner(
        settings, corpus, seed=draws, precision=PRECISION, micro_rows=budget["batch_tokens"] // sizes,
        executor=attend.executor_for("cpu"), device="cpu",
    )  # fmt: skip
    span, batch = settings["data"]["span"], budget["batch_tokens"]
    learner.stream = Stream(corpus, seed=order, span=span, batch_tokens=batch, seq_len=sizes)
    steps = learner.steps or 0  # of this length
    means = Means(learner.parameters, steps)
    whole = which.moves == "both" and which.warmdown is None
    looks = {round(steps * (1 - TAIL * i / EVALUATIONS)) for i in range(1, EVALUATIONS)} if whole else set()
    seen = []
    for number in range(1, steps + 1):
        learner.step(learner.stream.batch(number - 1), number, (number - 1) / steps)
        means.update(number)
        if number in looks:
            seen.append(sum(score(learner, part)))
    found: dict[str, Any] = {"last": score(learner, corpus if whole else part), "evaluations": seen, "steps": steps}
    for name in means.held if whole else ():
        means.swap(name)
        found[name] = score(learner, part)
        means.swap(name)
    return found | {"seconds": round(time.perf_counter() - began, 2)}


def studies(folder: Path) -> Iterator[tuple[str, str, dict[str, Any], Corpus, str]]:
    """Each study: its name, metric, the settings of its two arms by name, the larger held-out text with its training part."""
    for name, arm in ARMS.items():
        study = ablab.load(ROOT / "studies" / f"{name}.toml", scale="tiny", out=folder).study
        settings = {"baseline": study.baseline.settings, arm: study.arms[arm].settings}
        chosen = {**study.baseline.settings["data"], "valid_bytes": TEXT}
        yield name, study.decision["metric"], settings, data.prepare(chosen, folder / "data", say=print), arm


def train(out: Path, seeds: int, until: float) -> None:
    """Make what is missing, set by set, until the clock says so."""
    torch.set_num_threads(1)
    ready = list(studies(out))
    parts = {name: small(corpus) for name, _, _, corpus, _ in ready}
    for name, metric, _, corpus, arm in ready:
        path = out / f"{name}.jsonl"
        if not path.exists():
            note = {"study": name, "metric": metric, "tested": arm, **text(corpus, parts[name])}
            path.write_text(json.dumps({"set": "", "arm": "", "seed": -1, **note}) + "\n")
    done = {(name, r["set"], r["arm"], r["seed"]) for name in parts for r in read(out / f"{name}.jsonl")}
    order = [(SETS[0], seed) for seed in range(seeds)]
    order += [
        (which, seed) for seed in range(seeds) for which in SETS[1:]
    ]  # what time leaves out is seeds of all of these
    for which, seed in order:
        for name, _, settings, corpus, _ in ready:
            for arm, asked in settings.items():
                if (name, which.name, arm, seed) in done:
                    continue
                if time.time() > until:
                    print("time is up")
                    return
                scores = trained(asked, STEPS[name], corpus, parts[name], which, seed)
                row = {"set": which.name, "arm": arm, "seed": seed, **scores}
                with (out / f"{name}.jsonl").open("a") as file:
                    file.write(json.dumps(row) + "\n")
        print(f"{time.strftime('%H:%M:%S')} {which.name}: seed {seed}", flush=True)


def text(corpus: Corpus, part: Corpus) -> dict[str, Any]:
    """What turns nats into a metric: tokens and bytes per document, in both texts; which documents the small one has."""

    def sizes(held: Corpus) -> dict[str, Any]:
        rows = valid_rows(held, 256)
        tokens, n_bytes = (np.zeros(len(held.valid) + 1) for _ in range(2))
        scored = rows.targets_RT >= 0
        np.add.at(tokens, rows.document_RT, scored)
        np.add.at(n_bytes, rows.document_RT, np.where(scored, rows.n_bytes_RT, 0))
        return {"tokens": tokens[:-1].tolist(), "bytes": n_bytes[:-1].tolist()}

    of = {bytes(digest): i for i, digest in enumerate(corpus.valid.digests)}
    return {"text": sizes(corpus), "small": sizes(part), "among": [of[bytes(d)] for d in part.valid.digests]}


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, none where there is none."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@dataclass(frozen=True)
class Column:
    """One way to score: the metric of each arm, seed by seed. how: what was done; ref: the way whose runs are the same."""

    how: str
    base: npt.NDArray[np.float64]
    arm: npt.NDArray[np.float64]

    @property
    def d(self) -> npt.NDArray[np.float64]:
        """Arm minus baseline, seed by seed."""
        return self.arm - self.base

    @property
    def s(self) -> float:
        return float(self.d.std(ddof=1))


def runs_for(spread: float, half: float, *, paired: bool) -> int:
    """Runs of both arms whose 95% t interval is `half` wide to each side: pairs of sd `spread`, or as many runs a side."""
    n = 2
    while t_isf(0.025, n - 1 if paired else 2 * n - 2) * spread / math.sqrt(n) > half:
        n += 1
    return 2 * n


def ratio(x: Column, y: Column) -> tuple[float, float, float]:
    """sd of x's differences over that of y's, with a 95% interval: Pitman's and Morgan's where both are of the same runs."""
    a, b, n = x.d, y.d, len(x.d)
    r = float(np.corrcoef(a, b)[0, 1])
    k = 1 + 2 * (1 - r * r) * t_isf(0.025, n - 2) ** 2 / (n - 2)
    wide = math.sqrt(k * k - 1)
    found = x.s / y.s
    return found, found * math.sqrt(k - wide), found * math.sqrt(k + wide)


def apart(x: Column, y: Column) -> tuple[float, float]:
    """(x's mean difference less y's, its 95% half width): the bias of scoring x's way."""
    gap = x.d - y.d
    return float(gap.mean()), t_isf(0.025, len(gap) - 1) * float(gap.std(ddof=1)) / math.sqrt(len(gap))


class Scores:
    """The runs of one study, and what its metric divides nats by."""

    def __init__(self, path: Path) -> None:
        head, *rows = read(path)
        self.head, self.arm = head, head["tested"]
        self.rows = {(row["set"], row["arm"], row["seed"]): row for row in rows}
        below = "bytes" if head["metric"] == "bits_per_byte" else "tokens"
        factor = math.log(2) if below == "bytes" else 1.0
        self.whole, self.part = (factor * np.array(head[text][below]) for text in ("text", "small"))

    def columns(self, which: str, how: str, metric: Callable[[dict[str, Any]], float]) -> Column | None:
        """Both arms at the seeds that both have; None below three."""
        seeds = [s for w, arm, s in self.rows if (w, arm) == (which, self.arm) and (which, "baseline", s) in self.rows]
        if len(seeds) < 3:
            return None
        found = (np.array([metric(self.rows[which, arm, s]) for s in seeds]) for arm in ("baseline", self.arm))
        return Column(how, *found)

    def last(self, row: dict[str, Any], documents: Sequence[int]) -> float:
        """The last weights over some documents of the whole text."""
        chosen = [*documents]
        return float(np.array(row["last"])[chosen].sum() / self.whole[chosen].sum())

    def small(self, row: dict[str, Any], key: str = "last") -> float:
        """Over the small text."""
        nats = np.array(row[key])
        return float((nats if len(nats) == len(self.part) else nats[self.head["among"]]).sum() / self.part.sum())

    def evaluations(self, row: dict[str, Any]) -> float:
        """Mean of the evaluations near the end and of the last weights, over the small text."""
        last = self.small(row) * self.part.sum()
        return float(np.mean([*row["evaluations"], last]) / self.part.sum())

    def by_text(self) -> list[tuple[float, float]]:
        """(share of the text, root mean square over 200 random choices of documents of the sd of differences)."""
        whole, rng = range(len(self.whole)), np.random.default_rng(0)
        found = []
        for share in (0.125, 0.25, 0.5, 1.0):
            n = max(1, round(share * len(whole)))
            some = [rng.permutation(len(whole))[:n].tolist() for _ in range(200 if n < len(whole) else 1)]
            columns = [self.columns(SETS[0].name, "", lambda row, d=d: self.last(row, d)) for d in some]
            found.append((share, float(np.sqrt(np.mean([c.s**2 for c in columns if c])))))
        return found


def compared(x: Column, y: Column, *, same: bool) -> str:
    """The ratio of two sds with its interval (of the same runs, or of others: F), and the bias where the runs are the same."""
    if same:
        found, low, high = ratio(x, y)
        gap, half = apart(x, y)
        return f"{found:.2f} [{low:.2f}, {high:.2f}] | {gap:+.5f} +-{half:.5f}"
    found, dfs = x.s / y.s, (len(x.d) - 1, len(y.d) - 1)
    low, high = (found / math.sqrt(float(stats.f.isf(q, *dfs))) for q in (0.025, 0.975))
    se = math.sqrt(x.s**2 / len(x.d) + y.s**2 / len(y.d))
    return f"{found:.2f} [{low:.2f}, {high:.2f}] | {x.d.mean() - y.d.mean():+.5f} +-{2 * se:.5f}"


def report(out: Path) -> None:
    """Print a Markdown table of each study."""
    for path in sorted(out.glob("*.jsonl")):
        of = Scores(path)
        print(f"\n{path.stem}: {of.head['metric']}, {of.arm} minus baseline, {len(of.whole)} documents\n")
        print(
            "| way | n | mean | sd | sd independent | runs: pairs | independent | sd ratio, 95% | bias |\n|"
            + "---|" * 9
        )
        for x, y, same in table(of):
            alone = math.sqrt(float(x.base.var(ddof=1) + x.arm.var(ddof=1)))
            runs = f"{runs_for(x.s, HALF, paired=True)} | {runs_for(alone, HALF, paired=False)}"
            beside = "1 | " if x is y else compared(x, y, same=same)
            print(f"| {x.how} | {len(x.d)} | {x.d.mean():+.5f} | {x.s:.5f} | {alone:.5f} | {runs} | {beside} |")
        print("\nsd by share of the text: " + ", ".join(f"{share:g}: {s:.5f}" for share, s in of.by_text()))


def table(of: Scores) -> Iterator[tuple[Column, Column, bool]]:
    """Each way, what it is held against, and whether both are of the same runs."""

    def whole(row: dict[str, Any]) -> float:
        return of.last(row, range(len(of.whole)))

    less = f", {SMALL} bytes"
    last, held = (
        of.columns(SETS[0].name, "last weights", whole),
        of.columns(SETS[0].name, f"last weights{less}", of.small),
    )
    if last is None or held is None:
        return
    yield from ((last, last, True), (held, held, True))
    ways: dict[str, Callable[[dict[str, Any]], float]] = {
        name: functools.partial(of.small, key=name) for name in KEPT
    } | {"mean of the last evaluations": of.evaluations}
    for name, way in ways.items():
        if (column := of.columns(SETS[0].name, name + less, way)) is not None:
            yield column, held, True
    for which in SETS[1:]:
        all_of_it = which.moves == "both" and which.warmdown is None
        other = of.columns(which.name, which.name + ("" if all_of_it else less), whole if all_of_it else of.small)
        if other is not None:
            yield other, last if all_of_it else held, False


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="what would make an interval cheaper")
    parser.add_argument("what", choices=["train", "report"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=math.inf)
    asked = parser.parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.what == "train":
        train(asked.out, asked.seeds, time.time() + 60 * asked.minutes)
    else:
        report(asked.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
