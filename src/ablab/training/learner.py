"""What one step of training changes, and how: weights, optimizer state, running means."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ablab.core.fault import Fault, InvalidStudy
from ablab.data import Batch, Corpus, Feed, Stream, valid_rows
from ablab.data.batches.ahead import Ahead
from ablab.data.batches.megatron_stream import MegatronStream
from ablab.data.corpus.midway import midway
from ablab.data.spans import SPANS, metric_of
from ablab.model.compiled import compile_layers
from ablab.model.decoder import Decoder, build
from ablab.model.parts.routing import MixtureTally
from ablab.records.run import Routing
from ablab.records.settings import DataSettings, Settings
from ablab.runtime import machine
from ablab.runtime.ranks import here
from ablab.training import losses, optimizers, qats, schedules
from ablab.training.across import across
from ablab.training.roles import Guarded
from ablab.training.sums import Gradients, micro_batches_fault, tree

VALID_TOKENS = 8192  # tokens of one validation forward pass on a CPU; larger ones fall out of the cache


class Diverged(Exception):
    """The loss or a gradient is not finite; raised before the update. Its text says which."""


def split_fault(model: Decoder, rows: int, micro_rows: int, place: str, world: int = 1) -> Fault | None:
    """Say what is wrong where a part of the model needs the whole batch of `rows` at once and gets `micro_rows` at a time.

    world: processes that must have as many micro-batches each, and count together: one micro-batch of each is the whole batch.
    """
    if fault := micro_batches_fault(rows, micro_rows, world):
        return fault
    whole = [path for path, part in model.parts().items() if part.whole_batch]
    if not whole or micro_rows * world >= rows:
        return None
    at_once = f"{micro_rows} at a time" + (f" on each of {world} processes" if world > 1 else "")
    text = f'balance = "switch" is no sum over parts of a batch, but its {rows} rows go through {at_once}'
    return Fault(f"{place}.{whole[0]}", text, 'use balance = "sequence", or a batch that fits into memory at once')


def rows_at_once(device: str, micro_rows: int, seq_len: int) -> int:
    """Count the rows of one validation forward pass; on a GPU, where 8,192 tokens are mostly launches, a micro-batch's."""
    return micro_rows if torch.device(device).type == "cuda" else max(1, VALID_TOKENS // seq_len)


class Learner:
    """The parts of one run: model, optimizer, schedule, batches, validation rows. `train` turns them step by step."""

    def __init__(
        self,
        settings: Settings,
        corpus: Corpus,
        *,
        seed: int,
        precision: str,
        micro_rows: int,
        executor: str,
        device: str,
        compiled: bool = False,
    ) -> None:
        budget, sizes, self.asked = settings["budget"], settings["model"], settings["train"]
        self.group, self.precision, self.device, self.micro_rows = here(), precision, device, micro_rows
        self.budget, self.batch_tokens, self.seq_len = budget, budget["batch_tokens"], sizes["seq_len"]
        self.steps = math.ceil(budget["tokens"] / self.batch_tokens) if budget["tokens"] else None
        if budget["tokens"] and budget["tokens"] < self.batch_tokens:
            fault = f"{budget['tokens']} tokens are less than one batch of {self.batch_tokens}"
            raise InvalidStudy(Fault("budget.tokens", fault, "raise tokens or lower batch_tokens"))
        # The salt moves the weights' draws and not the order of the tokens: an A/A arm must stay comparable token by token.
        self.model = build(
            sizes,
            vocab_size=corpus.vocab_size,
            seed=seed,
            salt=self.asked["salt"],
            device=device,
            dtype=machine.dtype_of(precision),
            executor=executor,
        )
        # Of one step; health is that of the mixtures at the last step, empty where there is none.
        self.routed = any(layer.routed for layer in self.model.stack())
        self.aux = MixtureTally(self.group.world) if self.routed else None
        self.health: Routing = {}
        if torn := split_fault(self.model, self.batch_tokens // self.seq_len, micro_rows, "model", self.group.world):
            raise InvalidStudy(torn)
        self.compiled = compiled
        if compiled:
            compile_layers(self.model)
        self.parameters = dict(self.model.named_parameters())
        self.optimizer = optimizers.slot.build(self.asked["optimizer"]).build(self.parameters, self.model.roles())
        if isinstance(self.optimizer, Guarded):
            self.optimizer.deal(self.group)
        self.schedule = schedules.slot.build(self.asked["schedule"])
        self.loss = losses.slot.build(self.asked["loss"])
        self.qat = qats.slot.build(self.asked["qat"])
        self.rounds = self.qat.chosen(self.parameters, self.model.roles())  # names of what forward passes see rounded
        self.spanned: dict[str, float] = {}  # mean nats and targets of each span at the last step, if there are spans
        # For each parameter a running mean; its decay grows to ema, as a mean of the first weights is a mean of noise.
        self.mean = {k: p.detach().clone() for k, p in self.parameters.items()} if self.asked["ema"] else {}
        try:
            self.stream = self._stream(corpus, settings["data"], seed, self.seq_len)
        except ValueError as error:
            raise InvalidStudy(Fault("data", str(error))) from error
        self.feed = (Ahead if torch.device(device).type == "cuda" else Feed)(self.stream)
        self.held_out = midway(corpus, self.asked.get("validate_bytes"), settings["data"]["span"])
        self.valid, self.spans = valid_rows(self.held_out, self.seq_len), corpus.valid.spans
        if self.loss.spans and not self.spans:
            fault = "weighs spans, and no token of this data lies in one"
            raise InvalidStudy(Fault("train.loss", fault, 'use data with span files, or loss = "mean"'))

    def _stream(self, corpus: Corpus, data: DataSettings, seed: int, seq_len: int) -> Stream | MegatronStream:
        """Open the training batches, in the order that the settings name."""
        batch_tokens = self.batch_tokens
        if data["order"] == "chunks":
            return Stream(corpus, seed=seed, batch_tokens=batch_tokens, seq_len=seq_len, span=data["span"])
        if self.steps is None:
            raise ValueError("Megatron's order needs to know how many rows are read; give budget.tokens")
        return MegatronStream(
            corpus,
            seed=seed,
            batch_tokens=batch_tokens,
            seq_len=seq_len,
            weights=data["weights"],
            n_rows=self.steps * batch_tokens // seq_len,
        )

    def spent(self, step: int, seconds: float) -> float:
        """Return the fraction of the budget used after `step` steps and `seconds`: of tokens, or of time on the wall clock."""
        if self.steps is not None:
            return step / self.steps
        assert self.budget["seconds"] is not None  # one of the two is given
        return min(1.0, seconds / self.budget["seconds"])

    def step(self, batch: Batch, number: int, spent: float) -> tuple[float, float, float]:
        """Update `number` (the first is 1).

        Returns the loss (its weighing of the nats), gradient norm before clipping, learning rate of the first group. Raises
        Diverged, with nothing changed, where loss or gradient are not finite.
        """
        # The rate of a step is the schedule's at the step's middle: neither the first nor the last update is inert.
        # Under a budget in seconds a step is as long as those before it were; the first one counts as a thousandth.
        step = 1 / self.steps if self.steps is not None else spent / (number - 1) if number > 1 else 1e-3
        middle = spent + 0.5 * step
        factor = self.schedule.factor(min(1.0, middle))
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
            group["spent"] = min(1.0, middle)
        self.model.at(spent)
        self.aux = MixtureTally(self.group.world) if self.routed else None
        with self.rounded(spent):
            loss = self.gradients(batch)
        if not math.isfinite(loss):
            raise Diverged(f"the loss is {loss}")
        norm = self.clip()
        if isinstance(self.optimizer, Guarded):
            self.optimizer.move()  # `clip` has looked
        else:
            self.optimizer.step()
        if self.aux is not None:
            self.aux.after_step()
            self.health = self.aux.health(self.model)
        if self.mean:
            decay = min(self.asked["ema"], (1 + number) / (1 + number + (self.asked["ema_warmup"] or 0.0)))
            torch._foreach_lerp_(list(self.mean.values()), [p.detach() for p in self.parameters.values()], 1 - decay)
        return loss, norm, self.optimizer.param_groups[0]["lr"]

    @contextlib.contextmanager
    def rounded(self, spent: float) -> Iterator[None]:
        """Round the chosen weights during a step's passes, where `train.qat` acts by now; the full values return after.

        Gradients with respect to the rounded values are left as they are, in the full weights' place: straight through.
        """
        names = self.rounds if self.qat.acts(spent) else []
        full = {name: self.parameters[name].data for name in names}
        try:
            for name, weight in full.items():
                self.parameters[name].data = self.qat.round(weight)
            yield
        finally:
            for name, weight in full.items():
                self.parameters[name].data = weight

    def gradients(self, batch: Batch) -> float:
        """Add up the gradient of the loss over the batch, micro-batch by micro-batch (`sums.tree`); returns the loss.

        Weights are those of the whole batch, so sizes of micro-batches do not weigh. Losses that balance mixtures are in
        the gradient and not in what is returned.
        """
        weight_BT, divisor = self.loss.weigh(batch.targets_BT, batch.spans_BT)
        whole = {"rows": len(batch.tokens_BT), "tokens": batch.tokens_BT.numel()}
        found = list[Tensor]()  # of each micro-batch the loss and, where there are spans, what `spanned` sums

        def one(at: int) -> None:
            here = slice(at, at + self.micro_rows)
            rows = (batch.tokens_BT[here], batch.targets_BT[here], batch.ids_BT[here])
            with machine.autocast(self.precision, self.device):
                nll_BT = self.model.nll(*(part.to(self.device, non_blocking=True) for part in rows), aux=self.aux)
            weighed = nll_BT if weight_BT is None else nll_BT * weight_BT[here].to(self.device)
            loss = weighed.sum() / divisor
            balance = None if self.aux is None else self.aux.take(**whole)
            # outside autocast, so that gradients are taken in the types of the forward pass
            (loss if balance is None else loss + balance).backward()
            row = [
                loss.detach().double()[None]
            ]  # read after the last: reading it here would wait for every micro-batch
            if self.spans:
                sums = spanned(nll_BT.detach().cpu(), batch.targets_BT[here], batch.spans_BT[here])
                row.append(sums.flatten().to(self.device))
            found.append(torch.cat(row))

        def chain(starts: Sequence[int]) -> Gradients:
            self.optimizer.zero_grad(set_to_none=True)
            for at in starts:
                one(at)
            return [p.grad for p in self.parameters.values()]

        starts = range(0, len(batch.tokens_BT), self.micro_rows)
        mine = self.group.share(len(starts))
        summed = tree(starts[mine.start : mine.stop], chain)
        rows = self.group.in_order(torch.stack(found), len(starts))
        for parameter, gradient in zip(self.parameters.values(), self._everywhere(summed), strict=True):
            parameter.grad = gradient
        if self.spans:
            self.spanned = named(rows[:, 1:].sum(0).view(2, 3))
        return math.fsum(rows[:, 0].tolist())

    def _everywhere(self, summed: Gradients) -> Gradients:
        """Sum gradients over the processes of the group; one that no process has is none."""
        if self.group.world == 1:
            return summed
        reached = self.group.most([gradient is not None for gradient in summed])
        weights = self.parameters.values()
        whole = [
            (torch.zeros_like(p) if g is None else g) if there else None
            for p, g, there in zip(weights, summed, reached, strict=True)
        ]
        across([gradient for gradient in whole if gradient is not None], self.group)
        return whole

    def warm_up(self, step: int, spent: float) -> None:
        """Have everything that step `step` needs compiled: its passes forward and backward, whose gradients are dropped.

        No step is taken, so weights, optimizer and means need no way back: none of them moves.
        """
        self.model.at(spent)
        self.aux = MixtureTally(self.group.world) if self.routed else None
        with self.rounded(spent):
            self.gradients(self.stream.batch(step))
        self.optimizer.zero_grad(set_to_none=True)

    def clip(self) -> float:
        """Scale the gradient down to the norm `clip` (0: never); returns the norm before. Raises Diverged."""
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))
        if not math.isfinite(norm):
            raise Diverged(f"the gradient norm is {norm} ({nonfinite(self.parameters)})")
        if self.asked["clip"] and norm > self.asked["clip"]:
            torch._foreach_mul_(gradients, self.asked["clip"] / norm)
        return norm

    def validates(self, tokens: int) -> bool:
        """Tell whether a multiple of `validate_every` tokens was passed by the step that ended at `tokens`."""
        every = self.asked["validate_every"]
        out: bool = every > 0 and tokens // every > (tokens - self.batch_tokens) // every
        return out

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Validate: nats per token and bits per byte over `held_out`, each a ratio of sums, with the weights to be saved."""
        rows, found = self.valid, list[Tensor]()
        step = rows_at_once(self.device, self.micro_rows, rows.tokens_RT.shape[1])
        starts = range(0, len(rows), step)
        mine = self.group.share(len(starts))
        self.swap()
        for at in starts[mine.start : mine.stop]:
            parts = (rows.tokens_RT, rows.targets_RT, rows.ids_RT)
            batch = [torch.from_numpy(part[at : at + step]).to(self.device) for part in parts]
            with machine.autocast(self.precision, self.device):
                nll_RT = self.model.nll(*batch)
            sums = torch.zeros(2, 3, dtype=torch.float64)
            if self.spans:
                sums = spanned(nll_RT.cpu(), batch[1].cpu(), torch.from_numpy(rows.spans_RT[at : at + step]))
            found.append(torch.cat([nll_RT.double().sum()[None].cpu(), sums.flatten()]))
        self.swap()
        nats, spans = 0.0, torch.zeros(2, 3, dtype=torch.float64)
        nothing = torch.zeros(0, 7, dtype=torch.float64)
        for row in self.group.in_order(torch.stack(found) if found else nothing, len(starts)):
            nats += float(row[0])
            spans += row[1:].view(2, 3)
        scored = rows.targets_RT >= 0
        n_bytes = int(rows.n_bytes_RT[scored].sum())
        metrics = {"nats_per_token": nats / int(scored.sum()), "bits_per_byte": nats / math.log(2) / n_bytes}
        return metrics | {metric_of(span): mean for span, mean in named(spans).items() if span in SPANS}

    def swap(self) -> None:
        """Exchange the weights and their running means, where there are any."""
        for name, mean in self.mean.items():
            weight = self.parameters[name]
            weight.data, self.mean[name] = mean, weight.data

    def weights(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the weights to be scored, and the last ones where running means take their place (else nothing)."""
        last = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        return ({**last, **self.mean}, last) if self.mean else (last, {})


def spanned(nll_BT: Tensor, targets_BT: Tensor, spans_BT: Tensor) -> Tensor:
    """Sum of nats (row 0) and number (row 1) of the targets in each span: fp64 (2, 3), columns none, reasoning, final."""
    scored = targets_BT >= 0
    spans, nll = spans_BT[scored], nll_BT[scored].double()
    sums = torch.zeros(2, 3, dtype=torch.float64)
    sums[0].index_add_(0, spans, nll)
    sums[1].index_add_(0, spans, torch.ones_like(nll))
    return sums


def named(sums: Tensor) -> dict[str, float]:
    """Name the mean nats of each span that has targets, and `SPAN_targets`."""
    means: dict[str, float] = {}
    for name, mark in SPANS.items():
        nats, count = float(sums[0, mark]), float(sums[1, mark])
        means |= {name: nats / count, f"{name}_targets": count} if count else {f"{name}_targets": 0.0}
    return means


WINDOW = 64  # steps that a step is compared with


SPREADS = 6.0  # of the robust standard deviation, 1.4826 times the median absolute deviation


NATS = 0.1  # and at least this much above the median


class Spikes:
    """A step spikes when its loss exceeds the median of the last 64 by 6 robust standard deviations and by 0.1 nats.

    `recent` is shared with the caller, who keeps it in checkpoints. Nothing is called a spike before 64 losses are known.
    A loss enters the window whether it spiked or not, so a lasting jump is counted until it is the new level.
    """

    def __init__(self, recent: list[float]) -> None:
        self.recent = recent

    def seen(self, loss: float) -> bool:
        """Take note of a loss; true where it is a spike."""
        spike = False
        if len(self.recent) == WINDOW:
            middle = statistics.median(self.recent)
            if loss > middle + NATS:  # the deviations are worth computing only then
                spread = 1.4826 * statistics.median(abs(x - middle) for x in self.recent)
                spike = loss > middle + SPREADS * spread
            self.recent.pop(0)
        self.recent.append(loss)
        return spike


def nonfinite(parameters: Mapping[str, nn.Parameter]) -> str:
    """Name the first parameter whose gradient holds NaN or Infinity, and how many others do."""
    bad = [name for name, p in parameters.items() if p.grad is not None and not bool(torch.isfinite(p.grad).all())]
    if not bad:
        return "every gradient is finite, their squares overflow"
    return f"first in {bad[0]}" + (f", {len(bad) - 1} more" if len(bad) > 1 else "")
