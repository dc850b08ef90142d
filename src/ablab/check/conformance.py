"""What every lever of a slot must hold, whoever wrote it: the checks that `ablab levers --test` and ablab's own tests share.

Of a lever of the model: a later token changes nothing before it, documents packed into a row are as documents apart, every
parameter learns, and a second model is the same. Of one of training: a run that is resumed is the uninterrupted one. Of an
evaluator: it repeats exactly, leaves the model alone, and a replay with another end finds no look ahead. Of a compressor or
codec: the same bytes each time, and the way back keeps names, shapes and types. Of a tokenizer: text comes back, bytes add up.
Sizes are small and numbers are fp64, except in training, which is fp32.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch

from ablab.artifact import pack as artifact
from ablab.core.fault import CheckFailed, Fault, Refused
from ablab.core.lever import Choice
from ablab.core.rng import Draw, stream
from ablab.data import tokenizers
from ablab.data.corpus.corpus import Corpus, Valid
from ablab.model.decoder import Decoder, build
from ablab.records.corpus import Manifest
from ablab.records.settings import ModelSettings, Settings
from ablab.scoring import evaluators
from ablab.scoring.evaluators.evaluator import Evaluator
from ablab.scoring.legality import replay
from ablab.study.assemble import assemble
from ablab.study.keys import IN_MODEL, OF_MODEL, SLOTS
from ablab.training import snapshot
from ablab.training.learner import Learner

VOCAB, BOS, SEQ_LEN = 33, 32, 32
LENGTHS = [[32], [5, 1, 17, 9]]  # documents of the two rows
EXACT, CLOSE, ACTS = (
    1e-12,
    1e-11,
    1e-3,
)  # fp64 of numbers near 1: rounding; rounding of other products; a real difference
TRAINING = ("optimizer", "schedule", "loss", "qat")
TEXT = 'A line, "HTTP" and an é: 12 € \n\tand a tab.'
STUDY = """
[study]
name = "conformance"
[decision]
matters = 1.0
stage = "s"
[budget]
tokens = 256
batch_tokens = 64
[data]
source = "mock"
[model]
layers = "LG"
d_model = 32
n_heads = 4
n_kv_heads = 2
head_dim = 8
seq_len = 32
local.window = 8
global.position = "rope"
[stage]
s = { evaluate = "disjoint" }
[arm.other.train]
clip = 0.5
"""


@dataclass(frozen=True)
class Found:
    """The result of one check of one lever; `fault` is "" where it holds."""

    slot: str
    lever: str
    check: str
    fault: str


def of_levers(names: list[tuple[str, str]]) -> Iterator[Found]:
    """Yield every check of these levers, (slot, name), at their default settings."""
    for slot, name in names:
        for check, run in checks(slot, name).items():
            try:
                fault = run()
            except Refused as refused:
                fault = "; ".join(map(str, refused.faults))
            except (Exception, SystemExit) as error:  # whatever a stranger's code does
                fault = f"{type(error).__name__}: {error}"
            yield Found(slot, name, check, fault)


def checks(slot: str, name: str) -> dict[str, Callable[[], str]]:
    """Map what each check of a lever says to the check; each returns what does not hold."""
    if slot in (*IN_MODEL, *OF_MODEL):
        asked = functools.cache(lambda: settings(slot, name)["model"])
        return {
            "a later token changes nothing before it": lambda: looks_ahead(noisy(asked())),
            "documents packed into a row are as documents apart": lambda: mixes(noisy(asked())),
            "every parameter learns, and a second model is the same": lambda: idle(lambda: noisy(asked())),
        }
    if slot in TRAINING:
        return {"a resumed run is the uninterrupted one": lambda: forgets(settings(slot, name))}
    if slot == "evaluate":
        return {
            "it repeats exactly and leaves the model alone": lambda: strays(name),
            "a replay with another end finds nothing": lambda: cheats(name),
        }
    if slot in ("compress", "codec"):
        return {"the same bytes each time, and names, shapes and types come back": lambda: loses(slot, name)}
    return {"text comes back, and bytes add up": lambda: garbles(name)}


def settings(slot: str, name: str) -> Settings:
    """Return the settings of a small study with this lever in its place. CheckFailed where the lever refuses them."""
    raw = tomllib.loads(STUDY)
    if slot in TRAINING:
        raw["train"] = {slot: name}
    else:
        raw["model"][slot] = name
        if slot == "router":
            raw["model"]["mlp"] = {"name": "moe", "n_experts": 4}
    study, faults = assemble(raw, None, Path("conformance.toml"), STUDY)
    if study is None:
        raise CheckFailed(faults)
    return study.baseline.settings


def noisy(model: ModelSettings, noise: float = 0.1) -> Decoder:
    """Build the model in fp64 with noise on every parameter, so that gates and mixes that start at nothing act."""
    decoder = build(model, vocab_size=VOCAB, seed=1, dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            draw = torch.empty(parameter.shape)
            Draw(2, name).normal_(draw, "noise", noise)
            parameter.add_(draw.to(parameter.dtype))
    return decoder


def rows(lengths: list[list[int]] = LENGTHS) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens and document ids of rows of SEQ_LEN, their documents of these lengths."""
    tokens = stream(3, "rows").integers(0, VOCAB, (len(lengths), SEQ_LEN))
    ids = [torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)) for row in lengths]
    return torch.from_numpy(tokens), torch.stack(ids)


@torch.no_grad()
def looks_ahead(model: Decoder) -> str:
    """Say where tokens from place 20 on change what is before it, or nothing behind it."""
    tokens, ids = rows()
    changed = tokens.clone()
    changed[:, 20:] = (changed[:, 20:] + 7) % VOCAB
    moved = (model(tokens, ids) - model(changed, ids)).abs()
    if moved[:, :20].max() >= EXACT:
        return f"a token at place 20 moves a hidden state before it by {float(moved[:, :20].max()):.3g}"
    return "" if moved[:, 20:].max() > ACTS else "tokens that change move nothing at all"


@torch.no_grad()
def mixes(model: Decoder) -> str:
    """Say where a document's hidden states depend on the documents beside it in the row."""
    tokens, ids = rows()
    packed, at = model(tokens, ids)[1], 0  # the second row has several documents
    for length in LENGTHS[1]:
        alone = model(tokens[1:2, at : at + length], torch.zeros(1, length, dtype=torch.int64))[0]
        if (packed[at : at + length] - alone).abs().max() > CLOSE:
            return f"a document of {length} tokens is another one when it stands behind {at} tokens of others"
        at += length
    return ""


def idle(make: Callable[[], Decoder]) -> str:
    """Name a parameter without a finite gradient, or with another one in a second model."""
    gradients = []
    for _ in range(2):
        model, (tokens, ids) = make(), rows()
        model.nll(tokens, tokens.roll(-1, 1), ids).sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, one in gradients[0].items():
        if one is None or not bool(one.isfinite().all()) or not bool(one.abs().max() > 0):
            return f"{name} gets no finite gradient"
        if not torch.equal(one, cast(torch.Tensor, gradients[1][name])):
            return f"{name} gets another gradient in a second model"
    return ""


def forgets(asked: Settings, on: Corpus | None = None) -> str:
    """Name a tensor of a run of 4 steps that is another one where the run was resumed after 2."""
    text = corpus() if on is None else on
    whole, first, second = (
        Learner(asked, text, seed=0, precision="fp32", micro_rows=2, executor="lift", device="cpu") for _ in range(3)
    )
    for step in range(4):
        whole.step(whole.stream.batch(step), step + 1, step / 4)
    for step in range(2):
        first.step(first.stream.batch(step), step + 1, step / 4)
    snapshot.restore(second, {name: tensor.clone() for name, tensor in snapshot.tensors(first).items()})
    for step in range(2, 4):
        second.step(second.stream.batch(step), step + 1, step / 4)
    resumed = snapshot.tensors(second)
    odd = [name for name, tensor in snapshot.tensors(whole).items() if not torch.equal(tensor, resumed[name])]
    return f"{odd[0]} is another one where the run was resumed" if odd else ""


def strays(name: str) -> str:
    """Say where a second evaluation gives other scores, or the model is not what it was."""
    asked, lever = settings("softmax", "vanilla"), _evaluator(name)
    model = build(asked["model"], vocab_size=VOCAB, seed=1).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    one, two = (lever(model, corpus(), asked, seed=seed, precision="fp32") for seed in (0, 9))
    if not np.array_equal(one.nats, two.nats) or one.extra != two.extra or one.bands != two.bands:
        return "a second evaluation gives other scores"
    if not all(torch.equal(before[key], value) for key, value in model.state_dict().items()) or not model.training:
        return "the evaluation changed the model"
    missed = lever.decides and one.violations
    return "; ".join(one.violations) if missed else ""


def cheats(name: str) -> str:
    """Return what a replay on a text with another end, and the sums of its distributions, say against it."""
    lever = _evaluator(name)
    if not lever.decides:
        return ""
    asked = settings("softmax", "vanilla")
    model = build(asked["model"], vocab_size=VOCAB, seed=1, executor="reference")
    said, _ = replay.check(lever, model, corpus(), asked, seed=0, precision="fp32", executor="reference")
    return "; ".join(said)


def loses(slot: str, name: str) -> str:
    """Say where bytes differ from time to time, or the way back loses a name, a shape or a type. Without calibration."""
    weights = dict(build(settings("softmax", "vanilla")["model"], vocab_size=VOCAB, seed=1).state_dict())
    compress = _choice("compress", name if slot == "compress" else "keep")
    codec = _choice("codec", name if slot == "codec" else "raw")
    one, two = (
        artifact.pack(compress, codec, dict(order))[0] for order in (weights.items(), reversed(weights.items()))
    )
    if one != two:
        return "the same weights in another order give other bytes"
    back = artifact.unpack(one)
    same = back.keys() == weights.keys() and all(
        back[key].shape == value.shape and back[key].dtype == value.dtype for key, value in weights.items()
    )
    return "" if same else "what comes back has other names, shapes or types"


def garbles(name: str) -> str:
    """Say where a text does not come back, or its tokens' bytes are not the text's. A tokenizer that learns reads the text."""
    lever = tokenizers.slot.build(_choice("tokenizer", name))
    if lever.trained:
        lever.train([TEXT] * 200)
    ids, n_bytes = lever.encode(TEXT)
    if lever.decode(ids) != TEXT:
        return "the text does not come back"
    total = int(np.asarray(n_bytes).sum())
    return "" if total == len(TEXT.encode()) else f"its tokens count {total} bytes of {len(TEXT.encode())}"


@functools.cache
def corpus() -> Corpus:
    """Return the text that the checks use."""
    return walks("conformance")


def walks(name: str, count: int = 60) -> Corpus:
    """Make a corpus in memory: walks around a circle of 32 by steps of 1 to 3, drawn by `name`; every token counts one byte."""

    def documents(part: str, number: int) -> list[np.ndarray]:
        made = []
        for index in range(number):
            draws = stream(7, name, part, index)
            steps = draws.integers(1, 4, int(draws.integers(20, 200)))
            made.append(np.concatenate([[BOS], (int(draws.integers(32)) + np.cumsum(steps)) % 32]))
        return made

    train, valid = documents("train", count), documents("valid", 6)
    starts = [np.cumsum([0, *map(len, part)])[:-1].astype(np.int64) for part in (train, valid)]
    held = np.concatenate(valid).astype(np.uint16)
    return Corpus(
        path=Path("nowhere"),
        key=name,
        manifest=cast(Manifest, {}),
        vocab_size=VOCAB,
        bos_id=BOS,
        tokens=np.concatenate(train).astype(np.uint16),
        documents=starts[0],
        valid=Valid(held, (held != BOS).astype(np.uint16), starts[1], np.zeros((len(valid), 16), np.uint8)),
    )


def _choice(slot: str, name: str) -> Choice:
    choice, faults = SLOTS[slot].one(name, slot)
    if choice is None or faults:
        raise CheckFailed(Fault(f"{slot} {name}", fault.fault, fault.cure) for fault in faults)
    return choice


def _evaluator(name: str) -> Evaluator:
    return evaluators.slot.build(_choice("evaluate", name))
