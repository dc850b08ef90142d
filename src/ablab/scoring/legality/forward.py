"""What makes a score legal, checked on a few rows of every run: causal, normalised, complete, weights untouched."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import torch

from ablab.core import rng
from ablab.core.fault import CheckFailed, Fault
from ablab.data import Corpus, ValidRows, valid_rows
from ablab.data.corpus.corpus import Valid
from ablab.data.corpus.tokens import UNTRAINED
from ablab.model.decoder import Decoder, inference
from ablab.records.settings import Settings
from ablab.scoring.evaluators.evaluator import sample as some
from ablab.scoring.scores import Scores

ROWS = 4  # sampled rows
SAMPLE_DOCUMENTS = 16
SUMMED_VOCABULARY = 1024  # up to this size the distribution is summed over every token, one forward row per token
SUM_TOLERANCE = 1e-5
SCORED_PLACES = 64  # places at which the scorer is compared with the softmax of its logits
SCORER_TOLERANCE = 1e-4


def tolerance(executor: str, seq_len: int) -> float:
    """Return how far rounding may move an nll when what it must not see changes; 0 for the reference executor.

    Other executors centre biases per block of rows, so a later token may change how an earlier sum is rounded: with FoX
    2e-6 at seq_len 256 and 5e-5 at 4096 were measured in fp32, with every other position exactly 0. A leak moves more.
    """
    return 0.0 if executor == "reference" else 1e-5 * max(1.0, seq_len / 64)


# Of an nll in fp64: legal models move it by 3e-14 (every lever, rows of 64 and 512 tokens), by 2e-13 at 4096 (every position).
EXACT_TOLERANCE = 1e-9
# Of an nll in bf16, where a sum rounded otherwise may flip a bit of 2^-9: a leak that bf16 kernels alone have moves far more.
BF16_TOLERANCE = 0.05


def exactly(model: Decoder, settings: Settings, *, precision: str, executor: str) -> tuple[Decoder, str, float]:
    """Return what causality is decided with, whatever a run is made in: the model, its precision, and how far an nll may move.

    fp64 on the CPU. bf16 rounds a leak of 1% of the next token from 1.6e-4 nats down to 7e-6, below what rounding may do in
    fp32. The fused kernels of a GPU know no fp64: fp32 there, except that a mixture is copied to the CPU, because a rounded
    score may choose another expert.
    """
    if next(model.parameters()).device.type == "cpu" or mixture(model):
        return copy.deepcopy(model).to("cpu", torch.float64), "fp64", EXACT_TOLERANCE
    return model, "fp32" if precision == "bf16" else precision, tolerance(executor, settings["model"]["seq_len"])


def mixture(model: Decoder) -> bool:
    """Tell whether tokens choose experts: who shares one then decides how products round."""
    return any(layer.routed for layer in model.stack())


def check(
    model: Decoder, corpus: Corpus, settings: Settings, *, precision: str, executor: str
) -> tuple[list[str], dict[str, float]]:
    """Check a few rows of held-out text: violated rules in words (normally none) and the largest deviations.

    Causality is looked at exactly (see `exactly`), and again as the run computes it, where a kernel of that precision may
    look ahead on its own; not of a mixture, whose experts rounding may change.
    """
    rows = sample(corpus, settings["model"]["seq_len"])
    exact, fine, most = exactly(model, settings, precision=precision, executor=executor)
    moved = causal(exact, rows, corpus, precision=fine)
    if fine != precision and not mixture(model) and all(change <= most for change in moved):
        rounding = BF16_TOLERANCE if precision == "bf16" else tolerance(executor, settings["model"]["seq_len"])
        own = causal(model, rows, corpus, precision=precision)
        if not all(change <= rounding for change in own):
            moved, most = own, rounding
    future, other = moved
    total, scorer = normalised(model, rows, corpus, precision=precision)
    violations = []
    if not future <= most:
        violations.append(f"C1 causal: a later token changed moves an earlier nll by {future:.3g} (at most {most:g})")
    if not other <= most:
        violations.append(f"C1 documents: another document changed moves an nll by {other:.3g} (at most {most:g})")
    if not total <= SUM_TOLERANCE:
        violations.append(f"C2 normalised: the distribution sums to 1 within {total:.3g} (at most {SUM_TOLERANCE:g})")
    if not scorer <= SCORER_TOLERANCE:
        violations.append(f"C2 scorer: nll and log softmax differ by {scorer:.3g} (at most {SCORER_TOLERANCE:g})")
    return violations, {"causal": future, "documents": other, "sum": total, "scorer": scorer}


def complete(scores: Scores, corpus: Corpus, limit: int | None = None) -> list[str]:
    """Return nothing where tokens and bytes of every document equal the corpus's; else the violation in words."""
    valid = some(corpus, limit).valid
    scored = valid.marks != UNTRAINED
    tokens, size = (_per_document(valid, part) for part in (scored, np.where(scored, valid.n_bytes, 0)))
    violations = []
    for name, counted, wanted in (("tokens", scores.tokens, tokens), ("bytes", scores.bytes, size)):
        if len(counted) != len(wanted):
            violations.append(f"{name}: {len(counted)} documents were scored, the corpus has {len(wanted)}")
        elif (counted != wanted).any():
            at = int(np.argmax(counted != wanted))
            violations.append(
                f"{name}: {int(counted.sum())} were scored, the corpus has {int(wanted.sum())} "
                f"(first at document {at}: {int(counted[at])} against {int(wanted[at])})"
            )
    return violations


def _per_document(valid: Valid, values: np.ndarray) -> np.ndarray:
    """Sum one value per token over each document, int64."""
    total = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    sums_D: np.ndarray = total[valid.starts[1:]] - total[valid.starts[:-1]]
    return sums_D


def sample(corpus: Corpus, seq_len: int) -> ValidRows:
    """Choose ROWS rows of the first documents, the same for every run on this corpus; half hold several windows, if any do."""
    few = dataclasses.replace(corpus, valid=corpus.valid.first(min(SAMPLE_DOCUMENTS, len(corpus.valid))))
    valid = Valid(
        few.valid.tokens, few.valid.n_bytes, few.valid.starts[:-1], few.valid.digests
    )  # no token is masked here
    rows = valid_rows(dataclasses.replace(few, valid=valid), seq_len, windows=2)  # so that windows stand beside others
    if not len(rows):
        fault = f"the first {SAMPLE_DOCUMENTS} validation documents are empty"
        raise CheckFailed(Fault("data", fault, "remove empty documents from the sources"))
    several = np.array([len(np.unique(ids[scored])) > 1 for ids, scored in zip(rows.ids_RT, rows.targets_RT >= 0)])
    order = rng.stream(0, "gates", corpus.key, "rows").permutation(len(rows))
    packed = [int(row) for row in order if several[row]][: ROWS // 2]
    chosen = packed + [int(row) for row in order if row not in packed][: ROWS - len(packed)]
    return ValidRows(**{name: array[chosen] for name, array in vars(rows).items()})


def causal(model: Decoder, rows: ValidRows, corpus: Corpus, *, precision: str) -> tuple[float, float]:
    """Measure the largest change of an nll when later tokens of its window change, and when the other windows of its row do.

    In each row one window is drawn and its inputs from a drawn place on become other tokens. Then every second window of
    each row is replaced, then all the others. Targets stay as they are, so an nll that moves has looked where it must not.
    """
    draw = rng.stream(0, "gates", corpus.key, "causal")
    scored_RT = rows.targets_RT >= 0
    tail_RT, earlier_RT, odd_RT = (np.zeros(scored_RT.shape, bool) for _ in range(3))
    for row, (ids, scored) in enumerate(zip(rows.ids_RT, scored_RT)):
        windows, number = np.unique(ids, return_inverse=True)
        odd_RT[row] = number % 2 == 1
        (inside,) = np.nonzero(ids == draw.choice(windows[np.isin(windows, ids[scored])]))
        cut = draw.integers(inside[0] + 1, inside[-1] + 1) if len(inside) > 1 else inside[0]
        tail_RT[row, cut : inside[-1] + 1] = True
        earlier_RT[row, inside[0] : cut] = True
    other_RT = (rows.tokens_RT + draw.integers(1, corpus.vocab_size, size=scored_RT.shape)) % corpus.vocab_size
    with inference(model, precision) as device:
        targets, ids = torch.from_numpy(rows.targets_RT).to(device), torch.from_numpy(rows.ids_RT).to(device)

        def nll(replaced_RT: np.ndarray) -> np.ndarray:
            tokens = torch.from_numpy(np.where(replaced_RT, other_RT, rows.tokens_RT)).to(device)
            nll_BT: np.ndarray = model.nll(tokens, targets, ids).double().cpu().numpy()
            return nll_BT

        plain = nll(np.zeros_like(tail_RT))
        later = np.abs(nll(tail_RT) - plain)[earlier_RT]
        beside = [np.abs(nll(part) - plain)[scored_RT & ~part] for part in (odd_RT, ~odd_RT)]
    return _largest(later), _largest(np.concatenate(beside))


def normalised(model: Decoder, rows: ValidRows, corpus: Corpus, *, precision: str) -> tuple[float, float]:
    """Measure |sum - 1| of the scored distribution, and the largest difference between nll and log softmax of the logits.

    The sum asks `nll` for every token of the vocabulary after one short prefix (vocabularies up to SUMMED_VOCABULARY).
    The difference is taken at SCORED_PLACES places for drawn targets, in fp32 where the precision is bf16 (two shapes of
    one product round differently there): what is scored is the softmax of the logits and nothing else.
    """
    draw = rng.stream(0, "gates", corpus.key, "normalised")
    size = corpus.vocab_size
    drawn = torch.from_numpy(draw.integers(size, size=rows.targets_RT.shape))
    places = torch.from_numpy(draw.permutation(drawn.numel())[:SCORED_PLACES])
    with inference(model, "fp32" if precision == "bf16" else precision) as device:
        tokens, ids = torch.from_numpy(rows.tokens_RT).to(device), torch.from_numpy(rows.ids_RT).to(device)
        nll = model.nll(tokens, drawn.to(device), ids).flatten()[places.to(device)].double()
        logits = model.logits(model(tokens, ids).flatten(0, 1)[places.to(device)]).double()
        wanted = -logits.log_softmax(-1).gather(-1, drawn.flatten()[places].to(device)[:, None])[:, 0]
        scorer = _largest((nll - wanted).abs().cpu().numpy())
    if size > SUMMED_VOCABULARY:
        return 0.0, scorer
    with inference(model, precision) as device:
        length = int(min(8, (rows.ids_RT[0] == rows.ids_RT[0, 0]).sum()))
        prefix = torch.from_numpy(rows.tokens_RT[:1, :length]).to(device).expand(size, -1).contiguous()
        every = torch.full_like(prefix, -1)
        every[:, -1] = torch.arange(size, device=device)
        scored = model.nll(prefix, every, torch.zeros_like(prefix))[:, -1]
        return abs(float(scored.double().neg().exp().sum()) - 1.0), scorer


def _largest(values: np.ndarray) -> float:
    """Return the largest value, 0 where there is none; NaN stays NaN and fails every check."""
    return float(values.max()) if values.size else 0.0
