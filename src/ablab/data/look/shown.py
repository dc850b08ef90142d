"""show(): facts about token data on a terminal, in at most 100 columns; in words alone where it has no colours."""

from __future__ import annotations

from typing import NotRequired, TypedDict, final

from rich.console import Console
from rich.text import Text

from ablab.core import grid
from ablab.core.plain import plain
from ablab.data.corpus.split import counted
from ablab.data.look.excerpt import RunShown
from ablab.records.harmony import Carried

WIDTH = 100
COLOURS = {
    "": "",
    "not trained": "dim",
    "reasoning": "cyan",
    "final": "bold yellow",
    "trained": "green",
    "unknown": "bold red",
}


class Excerpt(TypedDict):
    """One document: its first ids, and as text in runs of one mark. `note` says why that is not its text."""

    document: int
    file: str
    tokens: int
    shown: int
    ids: list[int]
    marked: bool
    note: str
    runs: list[RunShown]
    split: NotRequired[str]


class Numbers(TypedDict):
    """Token files counted. `documents` None: not known without a tokenizer; `trained` and `spans`: tokens as targets."""

    documents: int | None
    tokens: int
    dtype: list[str]
    largest_id: int
    shards: NotRequired[int]
    sequences: NotRequired[int]
    lengths: NotRequired[dict[str, float]]
    modes: NotRequired[str]
    trained: NotRequired[int]
    spans: NotRequired[dict[str, int]]
    warnings: NotRequired[list[str]]
    bytes: NotRequired[int]
    sample: NotRequired[Excerpt]


@final
class FileFacts(Numbers):
    """Of a prefix or a shard."""

    kind: str
    place: str


@final
class BuildFacts(Carried):
    """Of a build."""

    kind: str
    place: str
    tokenizer: dict[str, object]
    splits: dict[str, Numbers]
    sample: Excerpt


def show(facts: FileFacts | BuildFacts, console: Console) -> None:
    """Print the facts of inspect(). Colours mark what is trained on a terminal that has them; else each line says it."""
    coloured = console.is_terminal and not console.no_color
    for line in _lines(facts):
        _say(console, Text(_safe(line, console)))
    sample = facts["sample"]
    rest = f", the first {sample['shown']:,} shown" if sample["shown"] < sample["tokens"] else ""
    where = f"{sample['split']}/" if "split" in sample else ""
    head = f"document {sample['document']} of {where}{sample['file']}: {sample['tokens']:,} tokens{rest}"
    _say(console, Text("\n" + _safe(head, console)), "bold" if coloured else "")
    if sample["note"]:
        _say(console, Text(_safe(f"({sample['note']})", console)))
    if sample["marked"] and sample["runs"]:
        _say(console, _legend(sample, coloured))
    if coloured:
        text = Text()
        for run in sample["runs"]:
            for control, part in run["parts"]:
                text.append(_safe(part, console), f"{COLOURS[run['mark']]} {'reverse' if control else ''}".strip())
        _say(console, text)
        return
    width = max((len(run["mark"]) for run in sample["runs"]), default=0)
    for run in sample["runs"]:
        for line in _safe("".join(part for _, part in run["parts"]), console).split("\n"):
            _say(console, Text(f"{run['mark']:<{width}} | {line}".rstrip() if width else line))


def _legend(sample: Excerpt, coloured: bool) -> Text:
    marks = list(dict.fromkeys(run["mark"] for run in sample["runs"]))
    counts = {mark: sum(run["tokens"] for run in sample["runs"] if run["mark"] == mark) for mark in marks}
    text = Text("tokens as targets: ")
    for i, mark in enumerate(marks):
        text.append(", " if i else "")
        text.append(f"{mark} {counts[mark]:,}", COLOURS[mark] if coloured else "")
    if any(control for run in sample["runs"] for control, _ in run["parts"]):
        text.append("; control tokens ")
        text.append("<|name|>", "reverse" if coloured else "")
        text.append(", the same in text \\<|name|>")
    return text


def _lines(facts: FileFacts | BuildFacts) -> list[str]:
    kinds = {
        "harmony": "Harmony dataset",
        "megatron": "Megatron token files",
        "golf": "golf shard",
        "plain": "uint16 tokens without a header",
    }
    lines = [f"{facts['place']}: {kinds[facts['kind']]}"]
    if "splits" not in facts:
        return lines + [f"  {line}" for line in _numbers(facts)]
    made = facts["tokenizer"]
    lines.append(f"  tokenizer {made['name']}, {_whole(made['vocab_size'])} ids, sha256 {str(made['sha256'])[:12]}")
    odd = {
        "quarantined": facts.get("quarantined"),
        "dropped": facts.get("dropped"),
        "truncated": facts.get("truncated"),
    }
    lines += [f"  {count:,} row{'s' if count != 1 else ''} {name}" for name, count in odd.items() if count]
    for split, entry in facts["splits"].items():
        lines.append(f"  {split}: {entry['shards']:,} shard{'s' if entry['shards'] != 1 else ''}")
        if entry["shards"]:
            lines += [f"    {line}" for line in _numbers(entry)]
    return lines


def _numbers(facts: Numbers) -> list[str]:
    documents = facts["documents"]
    counts = [counted(documents, "document") if documents is not None else "documents unknown without a tokenizer"]
    if "sequences" in facts and facts["sequences"] != documents:
        counts.append(f"{facts['sequences']:,} sequences")
    counts += [counted(facts["tokens"], "token"), f"{', '.join(facts['dtype'])}, largest id {facts['largest_id']:,}"]
    lines = [", ".join(counts)]
    if lengths := facts.get("lengths"):
        lines.append("tokens per document: " + ", ".join(f"{name} {value:,.0f}" for name, value in lengths.items()))
    if "trained" in facts:
        share = facts["trained"] / facts["tokens"] if facts["tokens"] else 0.0
        spans = ", ".join(f"{name} {count:,}" for name, count in facts["spans"].items())
        lines.append(f"trained on {facts['trained']:,} tokens ({100 * share:.1f} %); spans: {spans}")
    lines += [f"warning: {text}; `ablab data verify` says where" for text in facts.get("warnings", ())]
    if facts.get("bytes"):
        ratio = facts["tokens"] / facts["bytes"]
        lines.append(f"byte sidecar: {facts['bytes']:,} bytes of text, {ratio:.4f} tokens per byte")
    if "modes" in facts:
        lines.append(facts["modes"])
    return lines


def _whole(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _say(console: Console, text: Text, style: str = "") -> None:
    """Print one paragraph; no markup, no highlighting, and not wrapped where it is no terminal."""
    text.stylize(style)
    grid.say(text, console, width=min(WIDTH, console.width), hang=4 if text.plain[:1] == " " else 0)


def _safe(value: str, console: Console) -> str:
    """Drop what the stream cannot encode, and what commands the terminal."""
    return plain(value).encode(console.encoding, "backslashreplace").decode(console.encoding)
