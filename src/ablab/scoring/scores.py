"""Scores: nats, tokens and bytes per document, never only a mean."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ablab.core.fault import CheckFailed, Fault
from ablab.core.files import write_atomic
from ablab.core.forms import fits, misfit
from ablab.core.opened import read_whole
from ablab.core.strict_json import record
from ablab.data.spans import SPANS, metric_of
from ablab.records.result import BesideScores, Result, present

FILE = "scores.npz"
MOST_BYTES = 1 << 30  # of a file of scores: 24 bytes a document, and 16 for each of its spans
MOST_COUNTED = 1 << 40  # tokens or bytes of one document; 2^23 of them still count below 2^63
_HEAD = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([^']{1,8})', 'fortran_order': (?:False|True), 'shape': \(([0-9]{1,18}),\), \} *\n",
    re.DOTALL,
)
TYPES: dict[str, np.dtype] = {
    "nats": np.dtype("<f8"),
    "tokens": np.dtype("<i8"),
    "bytes": np.dtype("<i8"),
    "json": np.dtype("|u1"),
}


@dataclasses.dataclass
class Scores:
    """The scores of one evaluation, document by document.

    nats float64, tokens int64 and bytes int64: one entry per document, over its scored targets. `bands` splits the same
    nats by position in the window: {"edges": n + 1 numbers, "nats": n, "tokens": n}, band i is [edges[i], edges[i + 1]).
    `spans` splits them by what a target is for: {"reasoning": {"nats": (n,), "tokens": (n,)}, "final": ...}, nothing where
    the text has no spans. `extra` holds what an evaluator wants to show; `violations` names the rules that it saw violated. A
    probe that scores no documents leaves the three arrays empty.
    """

    nats: np.ndarray
    tokens: np.ndarray
    bytes: np.ndarray
    bands: Mapping[str, Sequence[float | None]] = dataclasses.field(default_factory=dict)
    extra: dict[str, object] = dataclasses.field(default_factory=dict)
    violations: list[str] = dataclasses.field(default_factory=list)
    spans: dict[str, dict[str, np.ndarray]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.nats = np.asarray(self.nats, dtype=np.float64)
        self.tokens = np.asarray(self.tokens, dtype=np.int64)
        self.bytes = np.asarray(self.bytes, dtype=np.int64)
        if self.nats.ndim != 1 or not self.nats.shape == self.tokens.shape == self.bytes.shape:
            shapes = self.nats.shape, self.tokens.shape, self.bytes.shape
            raise ValueError(f"nats, tokens and bytes have shapes {shapes}; give one entry per document to each")

    @property
    def nats_per_token(self) -> float | None:
        """sum(nats) / sum(tokens); None where nothing was scored."""
        tokens = int(self.tokens.sum())
        return float(self.nats.sum()) / tokens if tokens else None

    @property
    def bits_per_byte(self) -> float | None:
        """sum(nats) / (ln 2 * sum(bytes)); None where nothing was scored."""
        size = int(self.bytes.sum())
        return float(self.nats.sum()) / (math.log(2) * size) if size else None

    @property
    def metrics(self) -> dict[str, float | None]:
        """Every number that may decide, by its name; nats_per_SPAN_token where the text has spans."""
        metrics = {"nats_per_token": self.nats_per_token, "bits_per_byte": self.bits_per_byte}
        for name, part in self.spans.items():
            tokens = int(part["tokens"].sum())
            metrics[metric_of(name)] = float(part["nats"].sum()) / tokens if tokens else None
        return metrics

    def of_metric(self, metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return nats, tokens and bytes per document of what `metric` speaks of: of everything, or of one span (no bytes).

        KeyError for a span that these scores do not have.
        """
        if metric in (metric_of(name) for name in SPANS):
            part = self.spans[metric.removeprefix("nats_per_").removesuffix("_token")]
            return part["nats"], part["tokens"], np.zeros_like(part["tokens"])
        return self.nats, self.tokens, self.bytes

    def save(self, directory: Path) -> dict[str, str]:
        """Write `scores.npz` into `directory`, atomically. Returns {"file", "sha256"}, which `load` checks."""
        text = {"bands": finite(self.bands), "extra": finite(self.extra), "violations": list(self.violations)}
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {"nats": self.nats, "tokens": self.tokens, "bytes": self.bytes}
        arrays |= {f"{name}.{key}": array for name, part in self.spans.items() for key, array in part.items()}
        arrays["json"] = np.frombuffer(json.dumps(text, allow_nan=False, sort_keys=True).encode(), dtype=np.uint8)
        np.savez(buffer, **arrays)
        blob = buffer.getvalue()
        write_atomic(directory / FILE, blob)
        return {"file": FILE, "sha256": hashlib.sha256(blob).hexdigest()}

    @classmethod
    def load(cls, directory: Path, result: Result) -> Scores:
        """Load the scores that `result` (the stage's result.json) describes; CheckFailed where the file is not that file."""
        path = directory / FILE
        try:
            blob = read_whole(path, MOST_BYTES)
        except OSError as error:
            raise _broken(path, f"cannot be read ({error.strerror or error})") from error
        if hashlib.sha256(blob).hexdigest() != result["scores"]["sha256"]:
            raise _broken(path, "is not the file that was scored (its sha256 differs from the one in result.json)")
        try:
            arrays = _arrays(blob)
            text = record(arrays["json"].tobytes())
            present(text)
            if not fits(text, BesideScores):
                raise ValueError(misfit(text, BesideScores))
            spans = {
                name: {k: arrays[f"{name}.{k}"] for k in ("nats", "tokens")}
                for name in SPANS
                if f"{name}.nats" in arrays
            }
            scores = cls(
                arrays["nats"],
                arrays["tokens"],
                arrays["bytes"],
                text["bands"],
                text["extra"],
                text["violations"],
                spans,
            )
            counted = (scores.tokens, scores.bytes, *(part["tokens"] for part in spans.values()))
            if any(len(part) != len(scores.tokens) for one in spans.values() for part in one.values()):
                raise ValueError("its spans are of other documents")
            if any(len(counts) and (counts.min() < 0 or counts.max() > MOST_COUNTED) for counts in counted):
                raise ValueError("it counts less than nothing, or more than any text has")
        except (ValueError, KeyError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
            raise _broken(path, f"does not hold scores ({error})") from error
        if "metrics" in result and finite(scores.metrics) != result["metrics"]:
            said = ", ".join(f"{name} {value}" for name, value in result["metrics"].items())
            raise _broken(path, f"does not come to what result.json says of it ({said})")
        return scores


def _arrays(blob: bytes) -> dict[str, np.ndarray]:
    """Read the arrays of an .npz that `save` wrote, every length checked against the bytes before anything is made of it.

    numpy's own reader takes memory for as many numbers as a header claims, and unpacks what is compressed without a limit.
    """
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(io.BytesIO(blob)) as opened:
        for entry in opened.infolist():
            name = entry.filename.removesuffix(".npy")
            wanted = TYPES.get(name.rpartition(".")[2])
            if wanted is None or name in arrays:
                raise ValueError(f"holds {name[:40]!a}, which no scores have")
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > len(blob):
                raise ValueError(f"{name} is compressed")
            # what is stored lies there as it is, behind a header of 30 bytes, a name and a rest; its sha256 has held, so the
            # checksum that `read` would compute tells nothing more
            lengths = (blob[entry.header_offset + at : entry.header_offset + at + 2] for at in (26, 28))
            at = entry.header_offset + 30 + sum(int.from_bytes(length, "little") for length in lengths)
            arrays[name] = _array(blob[at : at + entry.file_size], wanted, name)
    return arrays


def _array(data: bytes, wanted: np.dtype, name: str) -> np.ndarray:
    """Read one array of an .npz: in one dimension, of the type that it must have, as long as its bytes say."""
    head = _HEAD.match(data)
    if head is None:
        raise ValueError(f"{name} is no array in one dimension as numpy saves it")
    told, count, left = head[1].decode(), int(head[2]), len(data) - head.end()
    if told != wanted.str or count * wanted.itemsize != left:
        raise ValueError(f"{name} says that it has {count} numbers of {told}, and holds {left:,} bytes")
    return np.frombuffer(data, wanted, offset=head.end()).copy()


def finite(value: object) -> Any:
    """Return `value` as plain JSON: numpy turned into numbers and lists, NaN and infinities into None."""
    if isinstance(value, dict):
        return {str(key): finite(part) for key, part in value.items()}
    if isinstance(value, np.ndarray):
        return finite(value.tolist())
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    if isinstance(value, np.generic):
        return finite(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _broken(path: Path, fault: str) -> CheckFailed:
    return CheckFailed(Fault(str(path), fault, f"delete {path.parent} to have the stage run again"))
