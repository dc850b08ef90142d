"""gptq against a plain column loop: python bench/gptq.py [--json PATH] [--whole] [--turns N] [--threads N] [--device cuda].

One matrix of 512 by 2048, int6, against a Hessian of 8,192 inputs that hang together. Forms: `ours`; `column loop`, the paper's
algorithm with the inverse and one update of all later columns per column; `blocked`, the same with lazy updates in blocks of
128, as most scripts have it. The forms take turns; a ratio is the median over turns of (form / ours) within a turn. Codes are
compared with those of the column loop in fp64. --whole: all 67 matrices of the preset golf_11x512 too (36 million weights,
the tied embedding among them), with the seconds of its calibration; the column loop has one turn there. Asked of both: the
column loop takes at least 5 times as long as ours. About 3 minutes on 2 cores, some 20 with --whole.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ablab.artifact.compressors.bounds import Bits, Sigmas
from ablab.artifact.compressors.calibration import Calibration
from ablab.artifact.compressors.gptq import Gptq
from ablab.artifact.compressors.solve import How, solve
from ablab.core.rng import stream
from ablab.data.corpus.corpus import Corpus, Valid
from ablab.model.decoder import Decoder, build
from ablab.model.parts.rounding import most, scales
from ablab.runtime import machine
from ablab.runtime.provenance import of_ablab
from ablab.study import preset
from ablab.study.model import model as canonical

ROWS, COLUMNS, INPUTS, BITS, SIGMAS, DAMP = 512, 2048, 8192, 6, 12.85, 0.01
VOCAB, CALIBRATED = 8192, 8192
TARGET = 5.0


def drawn(name: str, *size: int) -> Tensor:
    return torch.from_numpy(stream(0, "bench", "gptq", name).standard_normal(size, dtype=np.float32))


def textbook(w: Tensor, h: Tensor, scale: Tensor, *, block: int, dtype: torch.dtype) -> Tensor:
    """Frantar et al. 2022: the factor of the inverse; errors go to all columns of the block, then to the others."""
    w, h, scale, reach = w.to(dtype), h.to(dtype).clone(), scale.to(dtype), most(BITS)
    h.diagonal().add_(DAMP * h.diagonal().mean())
    order = torch.argsort(h.diagonal(), descending=True)
    w, h = w[:, order].clone(), h[order][:, order]
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    found = torch.empty_like(w)
    for start in range(0, w.shape[1], block):
        end = min(start + block, w.shape[1])
        wrong = w.new_empty(w.shape[0], end - start)
        for j in range(start, end):
            found[:, j] = torch.round(w[:, j] / scale[:, 0]).clamp(-reach, reach)
            wrong[:, j - start] = (w[:, j] - found[:, j] * scale[:, 0]) / upper[j, j]
            w[:, j:end] -= wrong[:, j - start, None] * upper[j, j:end]
        w[:, end:] -= wrong @ upper[start:end, end:]
    return found[:, torch.argsort(order)]


def forms(w: Tensor, h: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Codes of one matrix, by form."""
    scale, fp32, fp64 = scales(w, BITS, sigmas=SIGMAS), torch.float32, torch.float64
    return {
        "ours": lambda: solve(w[None], h[None], scale[None], BITS, How(DAMP)).codes_nRC[0],
        "column loop": lambda: textbook(w, h, scale, block=w.shape[1], dtype=fp32),
        "column loop, fp64": lambda: textbook(w, h, scale, block=w.shape[1], dtype=fp64),
        "blocked": lambda: textbook(w, h, scale, block=128, dtype=fp32),
    }


def turns_of(steps: dict[str, Callable[[], Any]], turns: int, sync: Callable[[], None]) -> dict[str, list[float]]:
    """Seconds of each step in each turn, after one turn that does not count."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(turns + 1):
        for name, step in steps.items():
            sync()
            began = time.perf_counter()
            step()
            sync()
            if turn:
                times[name].append(time.perf_counter() - began)
    return times


def summary(times: dict[str, list[float]]) -> dict[str, Any]:
    """Median seconds, and how many times as long as ours each form takes."""
    ratios = {name: statistics.median(b / a for a, b in zip(times["ours"], found)) for name, found in times.items()}
    seconds = {name: statistics.median(found) for name, found in times.items()}
    return {"seconds": seconds, "ratios": {name: ratio for name, ratio in ratios.items() if name != "ours"}}


def one_matrix(turns: int, device: str, sync: Callable[[], None]) -> dict[str, Any]:
    """512 by 2048: seconds, ratios, and how far the codes of each form lie from the loop in fp64."""
    x = drawn("inputs", INPUTS, COLUMNS) @ drawn("mix", COLUMNS, COLUMNS) * torch.linspace(0.1, 2, COLUMNS)
    w, h = (0.02 * drawn("weights", ROWS, COLUMNS)).to(device), (x.mT @ x / INPUTS).to(device)
    every = forms(w, h)
    scale, true = scales(w, BITS, sigmas=SIGMAS).double(), every["column loop, fp64"]()

    def lost(codes: Tensor) -> float:
        off = w.double() - codes.double() * scale
        return float(((off @ h.double()) * off).sum())

    made = {name: form() for name, form in every.items()}
    return {
        "rows": ROWS,
        "columns": COLUMNS,
        "bits": BITS,
        **summary(turns_of(every, turns, sync)),
        "codes_that_differ": {name: int((codes.double() != true.double()).sum()) for name, codes in made.items()},
        "error": {name: lost(codes) for name, codes in made.items()} | {"rtn": lost(torch.round(w.double() / scale))},
        "target": {"column loop": TARGET},
    }


def golf() -> Decoder:
    """The preset with every matrix drawn: those that start at zero would have nothing to round."""
    decoder = build(canonical(preset.model("golf_11x512"), []), vocab_size=VOCAB, seed=0)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if parameter.dim() == 2 and not parameter.any():
                parameter.copy_(0.02 * drawn(name, *parameter.shape))
    return decoder


def whole(turns: int, device: str, sync: Callable[[], None]) -> dict[str, Any]:
    """The preset: seconds of its calibration, and of rounding all of it: ours, and matrix by matrix in the plain forms."""
    decoder = golf().to(device)
    tokens = stream(0, "bench", "gptq", "tokens").integers(0, VOCAB, 20 * CALIBRATED).astype(np.uint16)
    empty = Valid(tokens[:0], tokens[:0], np.zeros(0, np.int64), np.zeros((0, 16), np.uint8))
    corpus = Corpus(Path("nowhere"), "bench", {}, VOCAB, 0, tokens, np.arange(0, len(tokens), 1000), empty)
    calibration, weights = Calibration(lambda: decoder, corpus, 2048), dict(decoder.state_dict())
    began = time.perf_counter()
    hessians = calibration.hessians(CALIBRATED)
    sync()
    calibrated = time.perf_counter() - began

    @dataclasses.dataclass
    class Known:
        """The Hessians as they are: only the rounding is timed."""

        rows = calibration.rows
        read = CALIBRATED

        def hessians(self, tokens: int) -> dict[str, Tensor]:
            return hessians

    lever: Any = Gptq(tokens=CALIBRATED, bits=Bits(BITS), sigmas=Sigmas(SIGMAS))
    packed = lever.quantise(weights, Known())

    def plain(block: int | None) -> None:
        for name, h in hessians.items():
            w = weights[name]
            if w.numel() > lever.small:
                textbook(w, h, scales(w, BITS, sigmas=SIGMAS), block=block or w.shape[1], dtype=torch.float32)

    times = turns_of({"ours": lambda: lever.quantise(weights, Known()), "blocked": lambda: plain(128)}, turns, sync)
    sync()
    began = time.perf_counter()
    plain(None)  # once: it takes minutes
    sync()
    loop = time.perf_counter() - began
    found = summary(times)
    found["seconds"]["column loop"], found["ratios"]["column loop"] = loop, loop / found["seconds"]["ours"]
    return {
        "preset": "golf_11x512",
        "matrices": packed.report["schemes"]["gptq int6"]["tensors"],
        "weights": packed.report["schemes"]["gptq int6"]["numbers"],
        "calibration_tokens": CALIBRATED,
        "calibration_seconds": calibrated,
        **found,
        "target": {"column loop": TARGET},
    }


def said(found: dict[str, Any]) -> list[str]:
    """Measured beside asked, a line for each part."""
    parts = {"one matrix": found["matrix"], "golf_11x512": found.get("whole")}
    return [
        f"{name}: the column loop takes {part['ratios']['column loop']:.1f} times as long as ours; asked: at least {TARGET:g}"
        for name, part in parts.items()
        if part is not None
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--whole", action="store_true", help="the whole preset golf_11x512 too")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    sync: Callable[[], None] = torch.cuda.synchronize if asked.device.startswith("cuda") else lambda: None
    environment = {"commit": of_ablab(), **machine.describe(asked.device), "date": str(datetime.date.today())}
    found: dict[str, Any] = {"environment": environment, "matrix": one_matrix(asked.turns, asked.device, sync)}
    if asked.whole:
        found["whole"] = whole(asked.turns, asked.device, sync)
    print(json.dumps(found, indent=1))
    print("\n".join(said(found)))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
