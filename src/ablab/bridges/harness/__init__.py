"""An arm as a model of EleutherAI's lm-evaluation-harness, so that it meets the usual tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ablab.core.fault import CheckFailed, Fault, to_install

ARGUMENTS = "study, arm, seed, runs, scale, device, max_length"


def model() -> type[Any]:
    """Return the class that the harness calls `ablab`, a child of its LM. CheckFailed where the harness is not installed."""
    try:
        from lm_eval.api.model import LM
    except ModuleNotFoundError:
        raise CheckFailed(Fault("lm_eval", "is not installed", to_install("lm_eval"))) from None
    from ablab.bridges.harness.texts import RunOnTexts, opened

    class Ablab(LM):  # type: ignore[misc]
        """A trained run; `seed` is by default the first that is trained, `max_length` (tokens) the arm's seq_len."""

        def __init__(
            self,
            study: str,
            arm: str,
            seed: int | None = None,
            runs: str = "runs",
            scale: str | None = None,
            device: str = "cpu",
            max_length: int | None = None,
            **batches: int | str | None,
        ) -> None:
            super().__init__()
            if unknown := sorted(set(batches) - {"batch_size", "max_batch_size"}):
                raise CheckFailed(Fault("--model_args", f"ablab has no {', '.join(unknown)}", f"known: {ARGUMENTS}"))
            rows = _rows(batches)
            run = opened(Path(study), str(arm), seed, Path(runs), scale, device)
            self.texts = RunOnTexts(*run, length=max_length, rows=rows)

        @property
        def tokenizer_name(self) -> str:
            """The tokenizer's content: what caches of requests are told apart by."""
            return self.texts.corpus.fingerprint

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            """Return (log-probability, whether the likeliest tokens are these) of each continuation behind its context."""
            return self.texts.continuations([request.args for request in requests])

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            """Return the log-probability of each whole text."""
            return self.texts.whole([request.args[0] for request in requests])

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            """Continue each text as its arguments say."""
            return [self.texts.until(*request.args) for request in requests]

    return Ablab


def _rows(batches: dict[str, int | str | None]) -> int | None:
    """Return how many rows go together by the harness's own arguments; None where it leaves that open."""
    asked = {
        name: str(value) for name, value in batches.items() if value is not None and not str(value).startswith("auto")
    }
    for name, value in asked.items():
        if not value.isdigit() or int(value) < 1:
            raise CheckFailed(Fault(f"--{name}", f"'{value}' is no number of rows", "give one from 1 on, or auto"))
    return min(map(int, asked.values()), default=None)
