"""What the inputs of every matrix look like on training text: the Hessians that gptq rounds against."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from ablab.core.rng import stream
from ablab.data.corpus.corpus import Corpus, Valid
from ablab.data.corpus.tokens import Tokens
from ablab.model.decoder import FORWARD_TOKENS, Decoder, inference
from ablab.model.parts.grouped import Stacked
from ablab.model.parts.linear import Linear

STRIP = 512  # rows of X^T X at a time: what lies above the diagonal is not multiplied


class Sealed(Valid):
    """The held-out text while weights are packed: a compressor that reads it learns before anything is scored.

    It can be read, so that a run ends and says so; `read` tells whether it was.
    """

    def __init__(self, valid: Valid) -> None:
        super().__init__(valid.tokens, valid.n_bytes, valid.starts[:-1], valid.digests, valid.marks)
        self.read = False

    def __getattribute__(self, name: str) -> object:
        if name in ("tokens", "n_bytes", "starts", "digests", "marks"):
            self.__dict__["read"] = True
        return super().__getattribute__(name)


class Calibration:
    """Rows of training text through the weights as trained, and the sums of squares of what reaches each matrix.

    model(): the decoder with the weights as trained. Rows are drawn from stream(seed, "calibration", corpus.key) among those
    of a grid of seq_len, none twice; held-out text is never touched. After `hessians`: `rows` says how many inputs each
    matrix got (of a stack each expert), `read` how many tokens were read.
    """

    def __init__(
        self, model: Callable[[], Decoder], corpus: Corpus, seq_len: int, seed: int = 0, precision: str = "fp32"
    ) -> None:
        self.model, self.corpus, self.seq_len, self.seed, self.precision = model, corpus, seq_len, seed, precision
        self.rows: dict[str, list[int]] = {}
        self.read = 0
        self._roles: dict[str, str] | None = None

    @property
    def roles(self) -> dict[str, str]:
        """Role of every parameter, by name."""
        if self._roles is None:
            self._roles = self.model().roles()
        return self._roles

    def hessians(self, tokens: int) -> dict[str, Tensor]:
        """Compute X^T X / rows of the inputs of each matrix, (d_in, d_in), or (n, d_in, d_in) for a stack of experts.

        The head's are the hidden states behind the final norm: of `lm_head.weight`, or of `embed.weight` where that is the
        head. fp32 (fp64 for a model in fp64), whatever the precision of the forward pass; on the model's device. A matrix
        that nothing reached has zeros. `tokens` are rounded up to whole rows, or to the whole training text if that is less.
        """
        model, sums = self.model(), _Sums()
        self._roles = model.roles()
        head = "embed.weight" if model.lm_head is None else "lm_head.weight"
        with inference(model, self.precision) as device, _watched(model, sums):
            for tokens_BT, ids_BT in self._batches(tokens):
                hidden_BTD = model(torch.from_numpy(tokens_BT).to(device), torch.from_numpy(ids_BT).to(device))
                sums.add(head, hidden_BTD)
                sums.forget()
        self.rows = {name: rows.tolist() for name, rows in sums.rows.items()}
        stacks = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, Stacked)}
        return {name: sums.mean(name) if name in stacks else sums.mean(name)[0] for name in sorted(sums.squares)}

    def _batches(self, tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield tokens and document ids, int64 (B, T), FORWARD_TOKENS at most at once."""
        text = self.corpus.tokens if isinstance(self.corpus.tokens, Tokens) else Tokens([self.corpus.tokens])
        length = min(self.seq_len, tokens, len(text))
        if length < 1:
            raise ValueError("there is no training text to calibrate on; give data, or compress without calibration")
        chunks, draws = len(text) // length, stream(self.seed, "calibration", self.corpus.key)
        wanted = min(chunks, -(-tokens // length))
        starts = length * draws.choice(chunks, wanted, replace=False)
        step, self.read = max(1, FORWARD_TOKENS // length), length * wanted
        for at in range(0, wanted, step):
            starts_B = starts[at : at + step]
            places_BT = starts_B[:, None] + np.arange(length)
            yield text.rows(starts_B, length), np.searchsorted(self.corpus.documents, places_BT, side="right")


class _Sums:
    """Sums of x x^T by name, lower half, in fp32 at least. Inputs that several matrices share are multiplied once."""

    def __init__(self) -> None:
        self.squares: dict[str, Tensor] = {}
        self.rows: dict[str, Tensor] = {}
        self._last: tuple[Tensor, Tensor | None, tuple[Tensor, Tensor]] | None = None

    def add(self, name: str, x: Tensor, ends_E: Tensor | None = None) -> None:
        """Add inputs (..., d_in) of matrix `name`; of a stack, sorted by expert with `ends_E` the running count of rows."""
        if self._last is None or self._last[0] is not x or self._last[1] is not ends_E:
            self._last = (x, ends_E, _squares(x.flatten(0, -2), ends_E))
        square, rows = self._last[2]
        if name in self.squares:
            self.squares[name] += square
            self.rows[name] += rows
        else:
            self.squares[name], self.rows[name] = square.clone(), rows.clone()

    def forget(self) -> None:
        """Drop the last inputs."""
        self._last = None

    def mean(self, name: str) -> Tensor:
        """Return the sum over the rows, divided by their number; both halves alike."""
        lower = self.squares.pop(name).tril()
        lower = lower / self.rows[name].clamp(min=1).to(lower)[:, None, None]
        return lower + lower.tril(-1).mT


def _squares(x_ND: Tensor, ends_E: Tensor | None) -> tuple[Tensor, Tensor]:
    wide = x_ND.to(torch.promote_types(x_ND.dtype, torch.float32))
    with torch.autocast(x_ND.device.type, enabled=False):
        if ends_E is None:
            return _square(wide)[None], torch.tensor([len(wide)])
        ends = ends_E.tolist()
        parts = [wide[start:end] for start, end in zip([0, *ends[:-1]], ends)]
        return torch.stack([_square(part) for part in parts]), torch.tensor([len(part) for part in parts])


def _square(x_NC: Tensor) -> Tensor:
    """Compute X^T X on and below the diagonal; above it nothing that means anything."""
    square_CC = x_NC.new_zeros(x_NC.shape[1], x_NC.shape[1])
    for start in range(0, x_NC.shape[1], STRIP):
        square_CC[start : start + STRIP, : start + STRIP] = x_NC[:, start : start + STRIP].mT @ x_NC[:, : start + STRIP]
    return square_CC


@contextlib.contextmanager
def _watched(model: Decoder, sums: _Sums) -> Iterator[None]:
    """Have every matrix of the model hand its inputs to `sums`."""

    def watch(name: str) -> Callable[[torch.nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, given: sums.add(f"{name}.weight", *given[:2])

    parts = [(name, part) for name, part in model.named_modules() if isinstance(part, Linear | Stacked)]
    handles = [part.register_forward_pre_hook(watch(name)) for name, part in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
