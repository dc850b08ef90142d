"""Speed of building Harmony shards: python bench/harmony.py [--rows N] [--turns N] [--json PATH].

Rows as in SYNTH (a question, a reasoning, an answer; about 3 kB) cut from this interpreter's library and pydoc's topics, in
one Parquet file. Ways, in turns, on the same rows: openai-harmony called message by message in one process, writing the
same three arrays; our build with one worker and with two, start of the processes and sampled check included; and tiktoken
alone on the same texts, the ceiling. The files must be equal, id by id. Times are medians. Also: what a build of one row
takes, where a worker's time goes, and peak memory of builds of 20,000 and of 80,000 short rows. About 4 minutes on 2 quiet
cores.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from ablab.core.inputs import Inputs
from ablab.core.rng import stream
from ablab.data.formats.indexed import IndexedWriter
from ablab.data.harmony.build import build
from ablab.data.harmony.conversation import from_synth
from ablab.data.harmony.official import EOD, OfficialRenderer
from ablab.data.harmony.plan import plan, settings
from ablab.data.harmony.rows import SYNTH
from ablab.data.harmony.unit import KINDS, PARTS, Builder
from ablab.data.sources.sources import PythonLibrary
from ablab.data.tokenizers.o200k_harmony import SPECIAL, O200kHarmony

RETURN = SPECIAL["<|return|>"]
SPANS = {None: 0, "analysis": 1, "final": 2}
SHARES = (400, 1800, 800)  # characters of question, reasoning and answer, on average
TARGET = {"one worker": 2.5, "two workers": 4.5}


def rows(count: int) -> Iterator[tuple[str, str, str, str]]:
    """`count` rows out of the library's text, read on and on."""
    text = "\n".join(one for _, one in PythonLibrary().documents() if one)
    draw, place = stream(0, "bench", "harmony"), 0
    for index in range(count):
        parts = []
        for mean in SHARES:
            length = int(mean * (0.5 + draw.random()))
            if place + length > len(text):
                place = int(draw.random() * 1000)
            parts.append(text[place : place + length])
            place += length
        yield f"row-{index}", parts[0], parts[1], parts[2]


def write_rows(path: Path, count: int) -> int:
    """The Parquet file of the bench; returns the bytes of its texts."""
    made = list(rows(count))
    table = pyarrow.table({name: [row[i] for row in made] for i, name in enumerate(SYNTH)})
    pyarrow.parquet.write_table(table, path, row_group_size=4096)
    return sum(len(part.encode()) for row in made for part in row[1:])


def read_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(256, columns=list(SYNTH[1:])):
            yield from zip(*(column.to_pylist() for column in batch.columns))


def official(source: Path, out: Path) -> int:
    """openai-harmony, row by row, each message once: what a script does that wants masks. Returns the tokens."""
    renderer = OfficialRenderer()
    with (
        IndexedWriter(out / "tokens", np.int32) as tokens,
        IndexedWriter(out / "lossmask", np.uint8) as masks,
        IndexedWriter(out / "span", np.uint8) as spans,
    ):
        for row in read_rows(source):
            ids: list[int] = []
            span: list[int] = []
            for message in from_synth(*row):
                part = renderer.message_ids(message)
                ids += part
                span += [SPANS[message.channel]] * len(part)
            ids[-1] = RETURN
            ids.append(EOD)
            aligned = np.array([*span[1:], 0, 0], np.uint8)
            for writer, values in ((tokens, np.array(ids, np.int32)), (masks, aligned > 0), (spans, aligned)):
                writer.add(values.astype(np.uint8) if values.dtype == bool else values)
                writer.end_document()
    return tokens.n_tokens


def alone(source: Path) -> int:
    """tiktoken's own encoding of the same texts, nothing else."""
    encode = O200kHarmony().table().encoding.encode_ordinary
    return sum(len(encode(text)) for row in read_rows(source) for text in row)


def ours(source: Path, out: Path, workers: int) -> int:
    """Our build; returns the tokens."""
    made = build([str(source)], out, settings(valid_fraction=0.0), workers=workers, say=lambda text: None)
    return int(made["splits"]["train"]["tokens"])


def same(theirs: Path, built: Path) -> bool:
    """Whether our shards, laid end to end, hold openai-harmony's very bytes."""
    for kind in KINDS:
        digest = hashlib.sha256()
        for path in sorted((built / "train").glob(f"*_{kind}.bin")):
            digest.update(path.read_bytes())
        if digest.digest() != hashlib.sha256((theirs / f"{kind}.bin").read_bytes()).digest():
            return False
    return True


def profile(source: Path, out: Path) -> dict[str, float]:
    """Seconds of one unit in this process: all of it, and what of that is tiktoken's encode and reading alone."""
    asked = settings(0.0, None, None, 1 << 30, 0)
    (out / PARTS).mkdir(parents=True)
    wanted = plan(asked, [str(source)], Inputs(out / PARTS / "inputs.json"))
    builder = Builder(wanted.job(out, ""))
    encode = builder.renderer.tokenizer.table().encode
    parts: dict[str, float] = {}

    def timed(name: str, step: Callable[[], object]) -> None:
        began = time.perf_counter()
        step()
        parts[name] = time.perf_counter() - began

    reader = wanted.inputs[0].reader()
    timed("read", lambda: sum(1 for _ in reader.rows(0, wanted.rows)))
    kept = [cells for _, cells in reader.rows(0, wanted.rows)]
    timed("encode", lambda: [encode(text) for cells in kept for text in cells[1:]])
    timed("unit", lambda: builder.make(wanted.units[0]))
    return parts | {"encode / unit": parts["encode"] / parts["unit"]}


def started(out: Path) -> float:
    """Seconds of a build of one row that is compared: what every build pays, however large."""
    began = time.perf_counter()
    build(["mock:1"], out, settings(check_every=1), say=lambda text: None)
    return time.perf_counter() - began


def peaks(folder: Path) -> dict[str, float]:
    """MiB: the largest process of a build of so many mock rows, and the one that starts it, by the kernel's account."""
    code = (
        "import re, resource, sys\nfrom pathlib import Path\nfrom ablab.data.harmony.build import build\n"
        "from ablab.data.harmony.plan import settings\n"
        "if __name__ == '__main__':\n"
        "    build([sys.argv[1]], Path(sys.argv[2]), settings(), workers=2)\n"
        "    own = re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())\n"
        "    print(int(own[1]) / 1024, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)\n"
    )
    found = {}
    for count in (20_000, 80_000):
        script, out = folder / "peak.py", folder / f"peak{count}"
        script.write_text(code)
        asked = [sys.executable, str(script), f"mock:{count}", str(out)]
        printed = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.split()
        found |= {f"{count} rows, parent": float(printed[-2]), f"{count} rows, worker": float(printed[-1])}
        shutil.rmtree(out)
    return found


def measure(count: int, turns: int, folder: Path) -> dict[str, Any]:
    """All of it. AssertionError where files differ."""
    source = folder / "rows.parquet"
    n_bytes = write_rows(source, count)
    times: dict[str, list[float]] = {}
    tokens: dict[str, int] = {}

    def turn(name: str, step: Callable[[Path], int]) -> Path:
        out = folder / name.replace(" ", "_")
        shutil.rmtree(out, ignore_errors=True)
        began = time.perf_counter()
        tokens[name] = step(out)
        times.setdefault(name, []).append(time.perf_counter() - began)
        return out

    for _ in range(turns):
        theirs = turn("openai-harmony", lambda out: official(source, out))
        one = turn("one worker", lambda out: ours(source, out, 1))
        two = turn("two workers", lambda out: ours(source, out, 2))
        turn("tiktoken alone", lambda out: alone(source))
    assert same(theirs, one) and same(theirs, two), "our shards differ from openai-harmony's ids"
    seconds = {name: statistics.median(found) for name, found in times.items()}
    return {
        "rows": count,
        "bytes": n_bytes,
        "tokens": tokens["one worker"],
        "ids": "equal on every row",
        "seconds": seconds,
        "all_seconds": times,
        "tokens_per_second": {name: tokens[name] / took for name, took in seconds.items()},
        "ratios": {name: seconds["openai-harmony"] / seconds[name] for name in (*TARGET, "tiktoken alone")},
        "target": TARGET,
        "start": started(folder / "start"),
        "worker": profile(source, folder / "profile"),
        "peak_mib": peaks(folder),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--turns", type=int, default=3)
    asked = parser.parse_args()
    names = ("tiktoken", "openai-harmony", "numpy", "pyarrow")
    environment = {
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "python": platform.python_version(),
        **{name: version(name) for name in names},
        "date": str(datetime.date.today()),
    }
    with tempfile.TemporaryDirectory() as folder:
        found = {"environment": environment, **measure(asked.rows, asked.turns, Path(folder))}
    # The share of a tiny training step that is spent reading batches from .bin/.idx belongs here: found["reading"].
    print(json.dumps(found, indent=1))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
