"""A proportional miniature of every arm: 20 steps and every stage, in fp64 by the reference executor.

It is the smoke test before money is spent, and the guard against inert arms: an arm whose miniature equals its
reference's in every weight, loss and score (1e-9), and would with other numbers too, changes nothing, whatever its settings
say (`inert`). What only the small size makes equal, or refuses, is said and never refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ablab.check import inert as changes
from ablab.check.shrink import SEQ_LEN, SHORTEST, names_a_layer, shrink
from ablab.core import folders
from ablab.core.fault import CheckFailed, Fault, InvalidStudy, OutOfMemory, Refused
from ablab.core.files import key_of
from ablab.core.lever import value_or_none
from ablab.records.run import Where
from ablab.records.settings import Settings
from ablab.runs.plan import Plan
from ablab.runs.store import Store
from ablab.runtime import capacity
from ablab.scoring import evaluators
from ablab.study.record import BASELINE

if TYPE_CHECKING:
    import torch

    from ablab.data import Corpus
    from ablab.data.tokenizers.tokenizer import Tokenizer
    from ablab.study import Arm

SAME = 1e-9
VALID_TOKENS = 2048
LARGE, FOLDED = 65_536, 8191  # vocabularies beyond LARGE are folded; a prime, so that neighbouring ids stay apart


@dataclass(frozen=True)
class Outcome:
    """What one miniature came to: its weights, its losses by step, its scores by stage and document."""

    settings: Settings
    weights: dict[str, torch.Tensor]
    losses: list[float]
    scores: dict[str, list[float]]
    violations: list[str]
    fault: str = ""  # what was not finite, where training diverged
    untested: tuple[str, ...] = ()  # changed settings that a miniature of this size cannot tell from the reference's

    @property
    def text(self) -> str:
        """First and last loss, or how it ended."""
        ends = f"loss {self.losses[0]:.3f} -> {self.losses[-1]:.3f}" if self.losses else "no step was taken"
        return f"{ends}; diverged: {self.fault}" if self.fault else ends


class Miniatures:
    """The miniature of the baseline and of every arm, and of whatever else is asked at their size. What several of them share
    is made once, in `folder`. `unfit`: what was left out because it does not fit into a miniature, by arm."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.every, self.store = plan, plan.study.with_baseline, Store(folder)
        base, asked = plan.study.baseline.settings, [arm.settings for arm in self.every.values()]
        same_layers = any(one["model"]["layers"] != base["model"]["layers"] for one in asked) or any(
            map(names_a_layer, asked)
        )
        shortest = min(one["model"]["seq_len"] for one in asked)
        long = min(1.0, max(SEQ_LEN / base["model"]["seq_len"], SHORTEST / shortest))
        self.small = {
            name: shrink(arm.settings, base, long=long, same_layers=same_layers) for name, arm in self.every.items()
        }
        span = max(settings["model"]["seq_len"] for settings in self.small.values())
        self.corpora: dict[str, Corpus] = {}
        self.unfit: dict[str, list[str]] = {}
        for name, settings in self.small.items():
            settings["data"]["span"] = span - span % settings["model"]["seq_len"]
            whole = plan.corpus(plan.runs[name, plan.seeds[0]])
            self.corpora[name] = folded(_few(whole), settings["data"]["order"])
            self.unfit[name] = _fitted(settings, self.corpora[name])

    def of(self, name: str, settings: Settings | None = None) -> Outcome:
        """Return the outcome of an arm, or of other `settings` in its place. What only training reads acts on no files."""
        own, arm = settings or self.small[name], self.every[name]
        like = self.small[arm.on] if _same_files(arm, self.every[arm.on]) else own
        return _one(own, like, self.corpora[name], self.store)

    def alike(self, outcomes: dict[str, Outcome]) -> dict[str, list[changes.Path]]:
        """Map every arm whose outcome equals its reference's to what of it was not tested for that: nothing of an inert one."""
        every = [(name, arm) for name, arm in self.plan.study.arms.items() if {name, arm.on} <= outcomes.keys()]
        return {name: self._untested(name, outcomes) for name, arm in every if same(outcomes[name], outcomes[arm.on])}

    def _untested(self, name: str, outcomes: dict[str, Outcome]) -> list[changes.Path]:
        arm = self.every[name]
        if self._corpus(name) != self._corpus(arm.on):  # other tokens: at this size their first documents are the same
            return [path for path in changes.changed(arm.settings, self.every[arm.on].settings) if path[0] == "data"]

        def acts(settings: Settings) -> bool:
            try:
                return not same(self.of(name, settings), outcomes[arm.on])
            except (ValueError, ArithmeticError, RuntimeError, Refused):  # a number that cannot be
                return False

        small = (self.small[name], self.small[arm.on])
        paths = changes.untested((arm.settings, self.every[arm.on].settings), small, acts)
        return [path for path in paths if path != ("train", "validate_every")] or paths  # it follows from the budget

    def _corpus(self, name: str) -> str:
        return self.plan.corpus(self.plan.runs[name, self.plan.seeds[0]]).key


def _outcomes(small: Miniatures, say: Callable[[str], None], beyond: list[str] | None = None) -> dict[str, Outcome]:
    outcomes, file = {}, small.plan.study.path.name
    for name, settings in small.small.items():
        try:
            outcomes[name] = small.of(name)
        except (CheckFailed, RuntimeError, MemoryError) as error:
            if capacity.ran_out(error) or isinstance(error, OutOfMemory):
                fault = "even its miniature does not fit into memory"
                if beyond is None or name == BASELINE:  # without the baseline nothing is compared
                    raise CheckFailed(Fault(f"{file}: {name}", fault, "make it smaller")) from error
                beyond.append(name)
                say(f"note: {name}: {fault}")
                continue
            if not isinstance(error, CheckFailed):
                raise
            small_size = f"at its miniature's sizes (seq_len {settings['model']['seq_len']})"
            raise CheckFailed(
                Fault(f"{file}: {name}: {one.place}", f"{small_size}: {one.fault}", one.cure) for one in error.faults
            ) from error
        say(f"miniature {name}: {outcomes[name].text}")
        for text in small.unfit[name]:
            say(f"note: {name}: {text}")
    return outcomes


def check(plan: Plan, say: Callable[[str], None] = print, beyond: list[str] | None = None) -> dict[str, Outcome]:
    """Run every miniature; raises CheckFailed for inert arms and for stages that violate a rule.

    beyond: takes the arms for which there is not even so much memory; without it, and for the baseline, that is refused.
    Raises InvalidStudy for what only the full size shows (`fits`).
    """
    fits(plan)
    faults, file = list[Fault](), plan.study.path.name
    with folders.scratch("ablab-miniature-") as scratch:
        small = Miniatures(plan, scratch)
        outcomes = _outcomes(small, say, beyond)
        alike = small.alike(outcomes)
    for name, paths in alike.items():
        on = plan.study.arms[name].on
        if paths:
            listed = tuple(changes.spell(path, plan.study.arms[name].settings) for path in paths)
            outcomes[name] = replace(outcomes[name], untested=listed)
            text = f"arm '{name}' is the same as its reference at this small size; whether it acts was not tested"
            say(f"note: {text} ({', '.join(outcomes[name].untested)})")
        else:
            against = "the baseline" if on == BASELINE else f"'{on}'"
            text = f"arm '{name}' changes nothing: weights, losses and scores equal those of {against} to {SAME:g}"
            faults.append(Fault(f"{file}: arm.{name}", text, "remove it, or change a setting that acts"))
    for name, outcome in outcomes.items():
        faults += [Fault(f"{file}: {name}", violation, "this stage is not legal") for violation in outcome.violations]
    if faults:
        raise CheckFailed(faults)
    return outcomes


def same(one: Outcome, other: Outcome) -> bool:
    """Tell whether two are equal in every weight, loss and score to 1e-9; NaN equals NaN in the same place, nothing else."""
    import torch

    if one.weights.keys() != other.weights.keys() or one.scores.keys() != other.scores.keys():
        return False
    if any(a.shape != other.weights[k].shape for k, a in one.weights.items()):
        return False
    for name, mine in one.weights.items():
        if not torch.allclose(mine.double(), other.weights[name].double(), rtol=0.0, atol=SAME, equal_nan=True):
            return False
    pairs = [(one.losses, other.losses), *((one.scores[s], other.scores[s]) for s in one.scores)]
    return all(len(a) == len(b) and np.allclose(a, b, 0.0, SAME, equal_nan=True) for a, b in pairs)


def _fitted(settings: Settings, corpus: Corpus) -> list[str]:
    """Say what does not fit into a miniature though it fits the full size, which was looked at before. Evaluators that do not
    are left out: their stages are packed, and scored by `disjoint` instead."""
    from ablab.model.decoder import skeleton

    model, said = skeleton(settings["model"], vocab_size=corpus.vocab_size), []
    plain, _ = evaluators.slot.one("disjoint", "")
    assert plain is not None  # it needs no setting
    for name, stage in settings["stage"].items():
        try:
            evaluators.slot.build(stage["evaluate"]).fit(settings, corpus, model)
        except ValueError as error:
            asked = stage["evaluate"]["name"]
            stage["evaluate"] = dict(plain)
            said.append(
                f"stage {name}: {asked} was not tested, as it does not fit a text and a model this small: {error}"
            )
    return said


def _same_files(one: Arm, other: Arm) -> bool:
    """Tell whether both take the same weights from elsewhere: what only training hears of then acts on nothing."""
    files = one.settings["train"]["weights"]
    return bool(files) and files == other.settings["train"]["weights"]


def _one(settings: Settings, like: Settings, corpus: Corpus, store: Store) -> Outcome:
    """Train one miniature by the settings `like`, and score it. Arms share weights here as they do, and equal stages."""
    from safetensors.torch import load_file

    from ablab.runs.store import read_lines, score_key, train_key
    from ablab.scoring.scores import Scores
    from ablab.scoring.stage import run_stage
    from ablab.training.train import Sitting, train

    where = Where("cpu", "fp64", "reference", like["budget"]["batch_tokens"] // like["model"]["seq_len"])
    trained = train_key(like, corpus=corpus.key, seed=0, where=where)
    out = store.train(trained)
    done = train(like, corpus, where, seed=0, out=out, sitting=Sitting(say=lambda _: None))
    told = (row.get("loss") for row in read_lines(out / "metrics.jsonl"))
    losses = [loss for loss in told if isinstance(loss, int | float)]
    if done["status"] != "done":
        return Outcome(settings, {}, losses, {}, [], str(done["fault"]))
    scores: dict[str, list[float]] = {}
    violations: list[str] = []
    read = key_of({"weights": trained, "model": settings["model"]})
    folders = {stage: store.score(score_key(settings, stage, trained=read)) for stage in settings["stage"]}
    for stage, place in folders.items():
        result = store.scored(place.name) or run_stage(
            settings, stage, weights=out / "weights.safetensors", corpus=corpus, folders=folders, seed=0, where=where
        )
        scores[stage] = [float(x) for x in Scores.load(place, result).nats]
        scores[stage] += _numbers(result["probe"])
        scores[stage] += [float(result["bytes"])]
        violations += [f"{stage}: {violation}" for violation in result["violations"]]
    return Outcome(settings, load_file(out / "weights.safetensors"), losses, scores, violations)


def _numbers(extra: object) -> list[float]:
    """List every number of a probe's results, whatever it is called, in its order: what acts on one tier of it alone acts."""
    if isinstance(extra, dict | list):
        parts = extra.values() if isinstance(extra, dict) else extra
        return [number for part in parts for number in _numbers(part)]
    return [float(extra)] if isinstance(extra, int | float) else []


def _few(corpus: Corpus) -> Corpus:
    """Return the corpus with pieces of its first validation documents, VALID_TOKENS in all: where they begin to be scored.

    Of few documents the pieces are longer, so that a text has as many tokens wherever it has them.
    """
    from ablab.data.corpus.corpus import Valid
    from ablab.data.corpus.tokens import UNTRAINED

    total, chosen, whole = 0, list[int](), np.diff(corpus.valid.starts)
    most = VALID_TOKENS // 4
    while most < VALID_TOKENS and np.minimum(whole, most).sum() < VALID_TOKENS:
        most *= 2
    lengths = np.minimum(whole, most)
    for number, size in enumerate(lengths.tolist()):
        chosen.append(number)
        total += size
        if total >= VALID_TOKENS:
            break
    longest = int(np.argmax(lengths))
    if max(lengths[chosen]) < min(SEQ_LEN, lengths[longest]):  # what acts on long documents only needs one
        chosen.append(longest)
    kept = []
    for number in chosen:
        document, size = corpus.valid[number], int(lengths[number])
        scored = np.flatnonzero(document.marks)
        begin = min(max(0, int(scored[0]) - size // 2), len(document.ids) - size) if len(scored) else 0
        kept.append(tuple(part[begin : begin + size].copy() for part in document))
        kept[-1][2][:1] = UNTRAINED
    starts = np.cumsum([0, *(len(ids) for ids, *_ in kept[:-1])])
    ids, n_bytes, marks = (np.concatenate(column) for column in zip(*kept))
    return replace(corpus, valid=Valid(ids, n_bytes, starts, corpus.valid.digests[chosen], marks))


@dataclass(frozen=True)
class _Folded:
    """A tokenizer whose ids are taken modulo `size`."""

    tokenizer: Tokenizer
    size: int

    def encode(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        ids, n_bytes = self.tokenizer.encode(text)
        return ids % self.size, n_bytes


def folded(corpus: Corpus, order: str = "chunks") -> Corpus:
    """Return a corpus of a large vocabulary with ids modulo FOLDED, as everything else of a miniature is smaller, too.

    Whether an arm acts does not hang on the head's width; 20 fp64 steps over 201,088 words took 35 s an arm, these take 3.
    Megatron's order reads its files itself and keeps its ids.
    """
    from ablab.data.corpus.corpus import Valid
    from ablab.data.corpus.tokens import Tokens

    if corpus.vocab_size <= LARGE or order != "chunks":
        return corpus
    valid, whole = corpus.valid, corpus.tokens
    small = Valid(valid.tokens % FOLDED, valid.n_bytes, valid.starts[:-1], valid.digests, valid.marks)
    tokens = Tokens([whole] if isinstance(whole, np.ndarray) else whole.parts, modulo=FOLDED)
    made = replace(corpus, vocab_size=FOLDED, bos_id=corpus.bos_id % FOLDED, tokens=tokens, valid=small)
    made.__dict__["tokenizer"] = _Folded(corpus.tokenizer, FOLDED)
    return made


def fits(plan: Plan) -> None:
    """Refuse what a miniature cannot see, because it hangs on the full size: found on the meta device.

    Raises InvalidStudy where a batch must stay whole and does not fit, where a compressor would round nothing, and where an
    evaluator does not fit the model or the text.
    """
    if faults := splits(plan) + idle(plan) + unfit(plan):
        raise InvalidStudy(faults)


def splits(plan: Plan) -> list[Fault]:
    """Return a fault for every arm with a part that needs the whole batch, where a batch goes through in pieces."""
    from ablab.training.learner import split_fault

    faults = []
    for name, arm in plan.study.with_baseline.items():
        rows = arm.settings["budget"]["batch_tokens"] // arm.settings["model"]["seq_len"]
        place = f"{plan.study.path.name}: {name}: model"
        faults.append(split_fault(plan.decoder(name), rows, plan.where.micro_rows, place, plan.per_run))
    return [fault for fault in faults if fault is not None]


def idle(plan: Plan) -> list[Fault]:
    """Return a fault for every stage whose compressor passes all matrices of a model through: its bits would do nothing."""
    from ablab.artifact.compressors.quantised import matrices

    faults: dict[str, Fault] = {}
    for name, arm in plan.study.with_baseline.items():
        weights = dict(plan.decoder(name).named_parameters())
        for stage, chosen in arm.settings["stage"].items():
            small = value_or_none(chosen["compress"], "small", int)
            if chosen["after"] is not None or small is None or matrices(weights, small):
                continue
            largest = max(tensor.numel() for tensor in weights.values())
            text = f"rounds nothing: the largest tensor has {largest:,} numbers, and small = {small:,} pass through"
            place = f"{plan.study.path.name}: {name}: stage.{stage}.compress"
            faults.setdefault(f"{stage} {small} {largest}", Fault(place, text, "lower small"))
    return list(faults.values())


def unfit(plan: Plan) -> list[Fault]:
    """Return a fault for every stage whose evaluator refuses the settings or the text (`fit`), at the first arm that has it."""
    faults: dict[tuple[str, str], Fault] = {}
    for name, arm in plan.study.with_baseline.items():
        corpus, model = plan.corpus(plan.runs[name, plan.seeds[0]]), plan.decoder(name)
        for stage, chosen in arm.settings["stage"].items():
            try:
                evaluators.slot.build(chosen["evaluate"]).fit(arm.settings, corpus, model)
            except ValueError as error:
                fault, _, cure = str(error).partition("; ")
                place = f"{plan.study.path.name}: {name}: stage.{stage}.evaluate"
                faults.setdefault((stage, str(error)), Fault(place, fault, cure))
    return list(faults.values())
