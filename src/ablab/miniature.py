"""A proportional miniature of every arm: 20 steps and every stage, in fp64 by the reference executor.

It is the smoke test before money is spent, and the guard against inert arms: an arm whose miniature equals its
reference's in every weight, loss and score (1e-9) changes nothing, whatever its settings say.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ablab import compressors, evaluators, full_size
from ablab.fault import Fault, GateFailed
from ablab.files import key_of
from ablab.plan import BASELINE, Plan, arms
from ablab.store import Store, Where
from ablab.study.keys import IN_MODEL, OF_MODEL, SLOTS

if TYPE_CHECKING:
    import torch

    from ablab.data import Corpus
    from ablab.study import Arm

STEPS = 20
SEQ_LEN = 64  # of the baseline; windows and other lengths keep their proportion to it
SHORTEST = 32  # seq_len of any arm: a probe needs room for a sentence
HEAD_DIM = 8
MOST_LAYERS = 16
SAME = 1e-9
VALID_TOKENS = 2048
LARGE, FOLDED = 65_536, 8191  # vocabularies beyond LARGE are folded; a prime, so that neighbouring ids stay apart


@dataclass(frozen=True)
class Outcome:
    """What one miniature came to: its weights, its losses by step, its scores by stage and document."""

    settings: dict[str, Any]
    weights: dict[str, torch.Tensor]
    losses: list[float]
    scores: dict[str, list[float]]
    gates: list[str]
    fault: str = ""  # what was not finite, where training diverged

    @property
    def text(self) -> str:
        """First and last loss, or how it ended."""
        ends = f"loss {self.losses[0]:.3f} -> {self.losses[-1]:.3f}" if self.losses else "no step was taken"
        return f"{ends}; diverged: {self.fault}" if self.fault else ends


def indistinct(plan: Plan, found: dict[str, Outcome]) -> list[str]:
    """Arms whose settings differ from their reference's at full size only."""
    return [name for name, arm in plan.study.arms.items() if found[name].settings == found[arm.on].settings]


def shrink(settings: dict[str, Any], base: dict[str, Any], *, long: float, same_layers: bool) -> dict[str, Any]:
    """`settings` at miniature size, every size by the same factors as the baseline's `base`, the schedule scaled in.

    `long` is the factor of every length. An evaluator's class may name settings of its own for it (`miniature`).
    """
    small = copy.deepcopy(settings)
    model, wide = small["model"], HEAD_DIM / base["model"]["head_dim"]
    model["head_dim"] = max(2, 2 * round(model["head_dim"] * wide / 2))
    model["d_model"] = max(4, round(model["d_model"] * wide))
    model["seq_len"] = max(4, round(model["seq_len"] * long))
    for kind in model["kinds"].values():
        if kind["window"] is not None:
            full = settings["model"]["seq_len"]
            most = model["seq_len"] if kind["window"] >= full else model["seq_len"] - 1
            kind["window"] = min(most, max(2, round(kind["window"] * long)))
    if len(model["layers"]) > MOST_LAYERS and not same_layers and not model["loops"]:
        model["layers"] = model["layers"][: MOST_LAYERS // 2] + model["layers"][-MOST_LAYERS // 2 :]
        model["kinds"] = {k: v for k, v in model["kinds"].items() if k in model["layers"]}
    _fit_levers(settings["model"], model, small["train"])
    if model["loop_from"]:  # of so few steps one at least must loop
        model["loop_from"] = min(model["loop_from"], 1 - 1 / STEPS)
    share = settings["budget"]["batch_tokens"] / base["budget"]["batch_tokens"]
    rows = max(1, round(2 * share * base["model"]["seq_len"] * long / model["seq_len"]))
    batch_tokens = rows * model["seq_len"]
    small["budget"] = {"tokens": STEPS * batch_tokens, "seconds": None, "batch_tokens": batch_tokens}
    small["train"]["validate_every"] = 10 * batch_tokens
    for stage in small["stage"].values():
        _fit_evaluator(stage["evaluate"], settings["model"]["seq_len"], long)
        fit = getattr(compressors.slot.load(stage["compress"]["name"]), "miniature", None)
        stage["compress"] |= fit(stage["compress"], settings["model"], model) if fit else {}
        for table, size in (stage["windows"] or {}).items():
            stage["windows"][table] = size and max(2, round(size * long))
    small["train"]["weights"] = None  # of the full size; what the miniature asks is whether the arm acts
    return small


def _fit_evaluator(choice: dict[str, Any], seq_len: int, long: float) -> None:
    """Its settings for lengths that are `long` times these; it is told the trained length, so that windows stay whole."""
    fit = getattr(evaluators.slot.load(choice["name"]), "miniature", None)
    if not fit:
        return
    trained = "seq_len" in choice and choice["seq_len"] is None
    choice |= fit(choice | ({"seq_len": seq_len} if trained else {}), long) | ({"seq_len": None} if trained else {})


def _fit_levers(full: dict[str, Any], small: dict[str, Any], train: dict[str, Any]) -> None:
    """Levers whose settings are sizes (a gate's width, a layer's number) name theirs for a smaller model: `miniature`."""
    places = [(slot, kind[slot]) for kind in small["kinds"].values() for slot in IN_MODEL]
    places += [
        *((slot, small[slot]) for slot in OF_MODEL),
        *((slot, train[slot]) for slot in ("optimizer", "loss", "qat")),
    ]
    for slot, chosen in places:
        for choice in chosen if isinstance(chosen, list) else [chosen]:
            fit = choice and getattr(SLOTS[slot].load(choice["name"]), "miniature", None)
            if fit:
                choice |= fit(choice, full, small)


def outcomes(plan: Plan, say: Callable[[str], None] = print) -> dict[str, Outcome]:
    """The miniature of the baseline and of every arm, by name."""
    base = plan.study.baseline.settings
    every = arms(plan.study)
    same_layers = any(arm.settings["model"]["layers"] != base["model"]["layers"] for arm in every.values())
    shortest = min(arm.settings["model"]["seq_len"] for arm in every.values())
    long = max(SEQ_LEN / base["model"]["seq_len"], SHORTEST / shortest)
    small = {name: shrink(arm.settings, base, long=long, same_layers=same_layers) for name, arm in every.items()}
    span = max(settings["model"]["seq_len"] for settings in small.values())
    for settings in small.values():
        settings["data"]["span"] = span - span % settings["model"]["seq_len"]
    found = {}
    with tempfile.TemporaryDirectory(prefix="ablab-miniature-") as scratch:
        for name, settings in small.items():
            corpus = folded(_few(plan.corpus(plan.runs[name, plan.seeds[0]])), settings["data"]["order"])
            try:
                like = every[name].on if _same_files(every[name], every[every[name].on]) else name
                found[name] = _one(settings, small[like], corpus, Store(Path(scratch)))
            except GateFailed as error:
                small_size = f"at its miniature's sizes (seq_len {settings['model']['seq_len']})"
                raise GateFailed(
                    Fault(f"{plan.study.path.name}: {name}: {one.place}", f"{small_size}: {one.fault}", one.cure)
                    for one in error.faults
                ) from error
            except RuntimeError as error:
                if not any(
                    words in str(error) for words in ("can't allocate memory", "Storage size calculation overflowed")
                ):
                    raise
                fault = "even its miniature does not fit into memory"
                raise GateFailed(Fault(f"{plan.study.path.name}: {name}", fault, "make it smaller")) from error
            say(f"miniature {name}: {found[name].text}")
    return found


def inert(plan: Plan, found: dict[str, Outcome]) -> list[Fault]:
    """A fault for every arm whose miniature equals its reference's in everything.

    Where the settings are equal at this size already (windows of 64 and 128 both shrink to 2) nothing is known of the arm.
    """
    faults = []
    for name, arm in plan.study.arms.items():
        if found[name].settings != found[arm.on].settings and same(found[name], found[arm.on]):
            against = "the baseline" if arm.on == BASELINE else f"'{arm.on}'"
            fault = f"arm '{name}' changes nothing: weights, losses and scores equal those of {against} to {SAME:g}"
            faults.append(
                Fault(f"{plan.study.path.name}: arm.{name}", fault, "remove it, or change a setting that acts")
            )
    return faults


def check(plan: Plan, say: Callable[[str], None] = print) -> dict[str, Outcome]:
    """Run every miniature; raises GateFailed for inert arms and for stages that violate a gate.

    Raises InvalidStudy for what only the full size shows (`full_size`).
    """
    full_size.check(plan)
    found = outcomes(plan, say)
    for name in indistinct(plan, found):
        say(f"note: arm '{name}' is the same as its reference at this small size; whether it acts was not tested")
    faults = inert(plan, found)
    for name, outcome in found.items():
        faults += [Fault(f"{plan.study.path.name}: {name}", gate, "this stage is not legal") for gate in outcome.gates]
    if faults:
        raise GateFailed(faults)
    return found


def same(one: Outcome, other: Outcome) -> bool:
    """Equal in every weight, loss and score to 1e-9; NaN equals NaN (an arm that breaks at once is no identity)."""
    if one.weights.keys() != other.weights.keys() or one.scores.keys() != other.scores.keys():
        return False
    if any(a.shape != other.weights[k].shape for k, a in one.weights.items()):
        return False
    if any(float((a - other.weights[k]).abs().max()) > SAME for k, a in one.weights.items() if a.numel()):
        return False
    pairs = [(one.losses, other.losses), *((one.scores[s], other.scores[s]) for s in one.scores)]
    return all(len(a) == len(b) and all(abs(x - y) <= SAME for x, y in zip(a, b)) for a, b in pairs)


def _same_files(one: Arm, other: Arm) -> bool:
    """Whether both take the same weights from elsewhere: what only training hears of then acts on nothing."""
    files = one.settings["train"]["weights"]
    return bool(files) and files == other.settings["train"]["weights"]


def _one(settings: dict[str, Any], like: dict[str, Any], corpus: Corpus, store: Store) -> Outcome:
    """Train one miniature by the settings `like`, and score it. Arms share weights here as they do, and equal stages."""
    from safetensors.torch import load_file

    from ablab.scores import Scores
    from ablab.stage import run_stage
    from ablab.store import read_lines, score_key, train_key
    from ablab.train import train

    how: dict[str, Any] = {"precision": "fp64", "executor": "reference", "device": "cpu"}
    rows = like["budget"]["batch_tokens"] // like["model"]["seq_len"]
    trained = train_key(like, corpus=corpus.key, seed=0, where=Where(micro_rows=rows, **how))
    out = store.train(trained)
    done = train(like, corpus, seed=0, out=out, micro_rows=rows, stop=lambda: False, say=lambda _: None, **how)
    losses = [row["loss"] for row in read_lines(out / "metrics.jsonl") if "loss" in row]
    if done["status"] != "done":
        return Outcome(settings, {}, losses, {}, [], str(done["fault"]))
    scores: dict[str, list[float]] = {}
    gates: list[str] = []
    read = key_of({"weights": trained, "model": settings["model"]})
    blobs = {stage: store.score(score_key(settings, stage, trained=read)) for stage in settings["stage"]}
    for stage, place in blobs.items():
        result = store.scored(place.name) or run_stage(
            settings, stage, weights=out / "weights.safetensors", corpus=corpus, out=place, seed=0, blobs=blobs, **how
        )
        probe = result["probe"] or {}
        scores[stage] = [float(x) for x in Scores.load(place, result).nats]
        scores[stage] += [float(probe[k]) for k in ("score", "acc") if probe.get(k) is not None]
        scores[stage] += [float(result["bytes"])]
        gates += [f"{stage}: {gate}" for gate in result["gates"]]
    return Outcome(settings, load_file(out / "weights.safetensors"), losses, scores, gates)


def _few(corpus: Corpus) -> Corpus:
    """The corpus with pieces of its first validation documents, VALID_TOKENS in all: where they begin to be scored."""
    from ablab.data.corpus import Valid
    from ablab.data.tokens import UNTRAINED

    most, total, chosen = VALID_TOKENS // 4, 0, list[int]()
    lengths = np.minimum(np.diff(corpus.valid.starts), most)
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

    tokenizer: Any
    size: int

    def encode(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        ids, n_bytes = self.tokenizer.encode(text)
        return ids % self.size, n_bytes


def folded(corpus: Corpus, order: str = "chunks") -> Corpus:
    """A corpus of a large vocabulary with ids modulo FOLDED, as everything else of a miniature is smaller, too.

    Whether an arm acts does not hang on the head's width; 20 fp64 steps over 201,088 words took 35 s an arm, these take 3.
    Megatron's order reads its files itself and keeps its ids.
    """
    from ablab.data.corpus import Valid
    from ablab.data.tokens import Tokens

    if corpus.vocab_size <= LARGE or order != "chunks":
        return corpus
    valid, whole = corpus.valid, corpus.tokens
    small = Valid(valid.tokens % FOLDED, valid.n_bytes, valid.starts[:-1], valid.digests, valid.marks)
    tokens = Tokens([whole] if isinstance(whole, np.ndarray) else whole.parts, modulo=FOLDED)
    made = replace(corpus, vocab_size=FOLDED, bos_id=corpus.bos_id % FOLDED, tokens=tokens, valid=small)
    made.__dict__["tokenizer"] = _Folded(corpus.tokenizer, FOLDED)
    return made
