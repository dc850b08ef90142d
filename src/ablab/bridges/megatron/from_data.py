"""ablab's [data] and train.loss as Megatron's flags, and what the fork cannot do."""

from __future__ import annotations

import glob
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ablab.bridges.megatron.blends import HARMONY
from ablab.bridges.megatron.from_layers import Words
from ablab.bridges.megatron.notes import Note, note, warn
from ablab.core.fault import Fault
from ablab.core.lever import Choice, value_of, value_or_none
from ablab.core.patterns import literal, matched
from ablab.data.formats.indexed import bare, sidecars
from ablab.data.formats.parts import is_sidecar, parts_at
from ablab.data.tokenizers.o200k_harmony import VOCAB_SIZE
from ablab.records.settings import DataSettings, Settings

TEXTS = (".txt", ".jsonl", ".parquet")


@dataclass
class SourceFiles:
    """What a study's sources are: prefixes (those of a built folder's held-out part apart), and `others`."""

    prefixes: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)  # prefixes without a file here


def from_data(settings: Settings, out: Words, faults: list[Fault]) -> list[Note]:
    """Write the flags of canonical data and train.loss. Appends faults; returns what to know."""
    notes, data = list[Note](), settings["data"]
    _tokenizer(data["tokenizer"], out, faults, notes)
    files = _source(data, out, faults, notes)
    notes += from_loss(settings, out, faults)
    _masks(settings["train"]["loss"], files.prefixes, out.get("valid-data-path", []), faults)
    out["reset-position-ids"] = out["reset-attention-mask"] = out["eod-mask-loss"] = []
    text = "ablab keeps documents apart; there the flag needs a full mask, and local backends leak inside windows"
    notes.append(warn("--reset-attention-mask", text))
    return notes


def vocabulary(settings: Settings) -> int | None:
    """Count the tokens of the study's tokenizer; None where only its training or its file tells."""
    tokenizer = settings["data"]["tokenizer"]
    if not tokenizer:
        return None
    size = value_or_none(tokenizer, "vocab_size", int)  # of one that is to be trained: a file that is named has its own
    known = {"bytes": 257, "o200k_harmony": VOCAB_SIZE}
    return known.get(value_of(tokenizer, "name", str), None if tokenizer.get("model") else size)


def _tokenizer(tokenizer: Choice | None, out: Words, faults: list[Fault], notes: list[Note]) -> None:
    name = tokenizer["name"] if tokenizer else None
    if tokenizer is None or name not in ("bytes", "o200k_harmony", "sentencepiece", "case_ops"):
        notes.append(note("data.tokenizer", "add --tokenizer-type and --tokenizer-model"))
    elif name == "bytes":
        out["vocab-size"], out["tokenizer-type"] = ["256"], ["NullTokenizer"]
        notes.append(note("data.tokenizer", "bytes: NullTokenizer takes ids as they are; its end of document is 256"))
    elif name == "case_ops":
        text = "the fork has no case operators: its SentencePiece would read upper case as it stands, for other tokens"
        faults.append(Fault("data.tokenizer", text, "use sentencepiece, which it has"))
    elif name == "o200k_harmony":
        out["tokenizer-type"] = [HARMONY]
        if file := value_or_none(tokenizer, "vocab", str):
            out["tokenizer-model"] = [file]
        else:
            text = "add --tokenizer-model: o200k_base.tiktoken, the file that `ablab data vocab` installs"
            notes.append(note("data.tokenizer", text))
    else:
        out["tokenizer-type"] = ["SentencePieceTokenizer"]
        if file := value_or_none(tokenizer, "model", str):
            out["tokenizer-model"] = [file]
            out["make-vocab-size-divisible-by"] = ["1"]  # the embedding has the file's rows, as here
        else:
            notes.append(note("data.tokenizer", "add --tokenizer-model: the file that ablab trained"))


def _source(data: DataSettings, out: Words, faults: list[Fault], notes: list[Note]) -> SourceFiles:
    """Write the flags of the data. Only Megatron prefixes with held-out ones of their own can be said; else a note."""
    train, ordered, weights = _found(data, "source", faults), data["order"] == "megatron", data["weights"]
    valid = _found(data, "valid_source", faults) if data["valid_source"] else SourceFiles(train.held)
    others = [*train.others, *valid.others]
    if data["source"] == ["mock"]:
        out["mock-data"] = []
        notes.append(note("data.source", "mock data is other data there"))
    elif others and ordered:
        faults.append(Fault("data.source", f"'{others[0]}' is no Megatron prefix", 'use order = "chunks", or prefixes'))
    elif others:
        text = f"add --train-data-path and --valid-data-path: '{others[0]}' is no Megatron prefix that is here"
        notes.append(note("data.source", text))
    elif not valid.prefixes:
        text = "holds documents out by their content; the fork splits ranges of sequences"
        if ordered:
            faults.append(Fault("data.source", f"{text}, and its order needs the whole file", "give valid_source"))
        else:
            notes.append(note("data.source", f"{text}: add --train-data-path and --valid-data-path"))
    else:
        out["train-data-path"] = _weighted(train.prefixes, weights, faults)
        out["valid-data-path"] = valid.prefixes
        unseen = [*train.unseen, *valid.unseen]
        if unseen:
            notes.append(note("data.source", f"no file here is called {unseen[0]}.idx; it is written as a prefix"))
        if not ordered:
            text = 'the fork reads rows in an order of its own; order = "megatron" gives it here too'
            notes.append(warn("data.order", text))
        text = "documents end at the tokenizer's end of document there, and where the index says here"
        notes.append(note("data.source", f"{text}: the same where each ends in one such token"))
    return train


def _found(data: DataSettings, key: Literal["source", "valid_source"], faults: list[Fault]) -> SourceFiles:
    """Find the prefixes behind data.source or data.valid_source. Files that are not here are prefixes in Megatron's order."""
    out = SourceFiles()
    for pattern in data[key] or ():
        if pattern in ("mock", "python") or pattern.startswith("hf:"):
            out.others.append(pattern)
            continue
        alone = literal(pattern)
        paths = [alone or Path(pattern)]
        if alone is None or (parts_at(alone, f"data.{key}") is None and not alone.exists()):
            paths = [path for path in matched(pattern) if not is_sidecar(path)] or paths
        for path in paths:
            parts = parts_at(path, f"data.{key}")
            if isinstance(parts, Fault):
                faults.append(parts)
            elif parts is not None and all(part.kind == "megatron" for side in parts for part in side):
                out.prefixes += [part.name for part in parts[0]]
                out.held += [part.name for part in parts[1]]
            elif parts is None and data["order"] == "megatron" and not path.exists() and _bare(path):
                out.prefixes.append(str(bare(path)))
                out.unseen.append(out.prefixes[-1])
            else:
                out.others.append(pattern)
    return out


def _bare(path: Path) -> bool:
    return path.suffix not in TEXTS and not glob.has_magic(str(path))


def _weighted(prefixes: list[str], weights: list[float] | None, faults: list[Fault]) -> list[str]:
    """Write prefixes as --train-data-path has them, each behind its weight."""
    if weights is None:
        return prefixes
    if len(weights) != len(prefixes):
        text = f"{len(weights)} weights for {len(prefixes)} prefixes"
        faults.append(Fault("data.weights", text, "give one for each, or none"))
    elif len(prefixes) == 1:
        text = "the fork ignores the weight of a single --train-data-path, and may lay out other epochs without it"
        faults.append(Fault("data.weights", text, "remove it"))
    return [word for weight, prefix in zip(weights, prefixes) for word in (repr(weight), prefix)]


def from_loss(settings: Settings, out: Words, faults: list[Fault]) -> list[Note]:
    """Write the flags of train.loss. Appends faults; returns what to know."""
    loss, data = settings["train"]["loss"], settings["data"]
    if loss["name"] != "spans":
        return []
    out["synth-kd-data"] = []
    out["kd-span-weight-reasoning"], out["kd-span-weight-final"] = [repr(loss["reasoning"])], [repr(loss["final"])]
    if data["tokenizer"] and data["tokenizer"]["name"] != "o200k_harmony":
        text = "the fork's --synth-kd-data takes no other tokenizer than o200k_harmony"
        faults.append(Fault("data.tokenizer", text, 'use it, or train.loss = "mean"'))
    if data["source"] == ["mock"]:
        faults.append(Fault("train.loss", "mock data has no spans, and the fork stops", 'use loss = "mean"'))
    rows, group = settings["budget"]["batch_tokens"] // settings["model"]["seq_len"], value_of(loss, "group_rows", int)
    out["micro-batch-size"] = [str(group or rows)]
    if group:
        text = f"a micro-batch has {group} rows there, as a group here: leave --micro-batch-size as it is"
    else:
        text = (
            f"0 is the whole batch: the fork's means are over a micro-batch, so its {rows} rows are one, on one device"
        )
        text += "; with smaller ones set group_rows to their rows"
    return [note("train.loss.group_rows", text)]


def _masks(loss: Choice, train: list[str], valid: list[str], faults: list[Fault]) -> None:
    """Append faults where the fork would miss the masks beside the tokens."""
    odd = [name for name in (*train, *valid) if not name.endswith("_tokens")]
    masked = [name for name in train if sidecars(name) is not None]
    if loss["name"] == "spans" and odd:
        text = f"the fork finds masks beside prefixes that end in _tokens; '{odd[0]}' does not"
        faults.append(Fault("data.source", text, "rename its files"))
    elif loss["name"] != "spans" and masked:
        text = f"the fork reads the loss mask beside {masked[0]} only with --synth-kd-data, which weighs spans"
        faults.append(Fault("train.loss", text, 'use loss = "spans"'))
