"""Data, tokenizer and loss in Megatron's words as ablab's [data] and train.loss."""

from __future__ import annotations

from pathlib import Path

from ablab.bridges.megatron.blends import DEFAULT_SPLIT, HARMONY, held, training
from ablab.bridges.megatron.net import Net
from ablab.bridges.megatron.notes import Note, note, warn
from ablab.bridges.megatron.parse import Given
from ablab.bridges.megatron.to_train import length
from ablab.core.fault import Fault
from ablab.core.lever import Choice

PIECES = "SentencePieceTokenizer"
SPAN_WEIGHTS = ("kd_span_weight_reasoning", "kd_span_weight_final")


def data(net: Net) -> dict[str, object]:
    """Return the part of [data] that the flags decide."""
    given, out = net.given, dict[str, object]()
    trained, valid = training(given), held(given)
    if given["mock_data"]:
        out["source"] = "mock"
    if trained is not None:
        out["source"] = _short(trained.prefixes)
        out["order"] = "megatron"
        if trained.weights is not None:
            out["weights"] = list(trained.weights)
    if valid is not None:
        out["valid_source"] = _short(valid.prefixes)
    chosen = _tokenizer(net)
    return out if chosen is None else {**out, "tokenizer": chosen}


def _short(prefixes: tuple[str, ...]) -> str | list[str]:
    return prefixes[0] if len(prefixes) == 1 else list(prefixes)


def _tokenizer(net: Net) -> str | Choice | None:
    kind, file, size = net.given["tokenizer_type"], net.given["tokenizer_model"], net.vocab_size
    if kind == "NullTokenizer" and size == 257:
        return "bytes"
    if kind == HARMONY:
        return {"name": "o200k_harmony", "vocab": file} if file else "o200k_harmony"
    if kind == PIECES and file:
        return {"name": "sentencepiece", "model": file}
    if kind == PIECES and size is not None and 259 <= size <= 65_536:
        return {"name": "sentencepiece", "vocab_size": size}
    return None


def loss(net: Net) -> dict[str, object]:
    """Return `loss` of [train], where the flags say one. A micro-batch that is the whole batch is no group."""
    given = net.given
    if not given["synth_kd_data"]:
        return {}
    micro, rows = given["micro_batch_size"], length(given).rows
    reasoning, final = (given[dest] for dest in SPAN_WEIGHTS)
    group = 0 if micro is None or micro == rows else micro
    return {"loss": {"name": "spans", "reasoning": reasoning, "final": final, "group_rows": group}}


def first_seed(given: Given) -> int | None:
    """Return the study's first seed: --seed; where the order of the data hangs on it, Megatron's default too."""
    if "seed" not in given and training(given) is None:
        return None
    return int(given["seed"]) if given["seed"] >= 0 else None


def refusals(net: Net) -> list[Fault]:
    """Return faults for what would make [data] or train.loss of these flags mean another thing."""
    given, out = net.given, list[Fault]()
    if training(given) is not None and given["dataloader_type"] in ("cyclic", "external"):
        text = f"ablab has no order like {given['dataloader_type']}"
        out.append(Fault("--dataloader-type", text, "use single"))
    if not given["synth_kd_data"]:
        return out
    if not any(given[dest] for dest in SPAN_WEIGHTS):
        text = "is 0 like the weight of the final answers: nothing is trained"
        out.append(Fault("--kd-span-weight-reasoning", text, "give one of them a weight"))
    if "calculate_per_token_loss" in given:
        text = "weighs each micro-batch by its tokens in spans; ablab's groups weigh the same"
        out.append(Fault("--calculate-per-token-loss", text, "remove it"))
    return out


def left(net: Net) -> list[tuple[str, str]]:
    """List flags about data that no study can say, with the reason."""
    given, out = net.given, list[tuple[str, str]]()
    if given["data_path"] and training(given) is None:
        split = given["split"] or f"{DEFAULT_SPLIT} (the default)"
        text = f"--split {split} cuts ranges of sequences, and ablab has no such split: write the parts to prefixes of"
        out.append(("--data-path", f"{text} their own (--train-data-path, --valid-data-path)"))
    if given["test_data_path"]:
        out.append(("--test-data-path", "ablab trains and validates; it has no third part"))
    kind = given["tokenizer_type"]
    if _tokenizer(net) is None:
        if kind not in (None, PIECES, "NullTokenizer"):
            out.append((f"--tokenizer-type {kind}", "ablab has no such tokenizer: choose data.tokenizer"))
        if given["tokenizer_model"]:
            out.append((f"--tokenizer-model {given['tokenizer_model']}", "the file of a tokenizer that is not carried"))
        if net.vocab_size is not None:
            out.append((f"vocabulary of {net.vocab_size:,}", "is the tokenizer's in ablab: choose data.tokenizer"))
    return out


def on_data(net: Net) -> list[Note]:
    """List traps about data, tokenizer and loss."""
    return [*_sources(net), *_spans(net), *_documents(net)]


def _sources(net: Net) -> list[Note]:
    given, out = net.given, list[Note]()
    trained, size = training(given), length(net.given)
    for dest in ("data_path", "train_data_path", "valid_data_path"):
        words = given[dest] or []
        if len(words) % 2 and len(words) > 1 and words[0].replace(".", "", 1).isdigit():
            text = f"{len(words)} words are prefixes, {words[0]} too: weights stand before every prefix or before none"
            out.append(warn(f"--{dest.replace('_', '-')}", text))
    if len(given["train_data_path"] or ()) == 2 and trained is not None and len(trained.prefixes) == 1:
        out.append(note("--train-data-path", "Megatron ignores the weight of a single prefix"))
    valid = held(given)
    named = [name for one in (trained, valid) if one is not None for name in one.prefixes]
    if any(not Path(name).is_absolute() for name in named):
        text = "relative paths count from the study file's folder in ablab, from where it is started in Megatron"
        out.append(note("data.source", text))
    if valid is not None and valid.weights is not None:
        out.append(note("--valid-data-path", "ablab scores every held-out document once, whatever the weights"))
    if trained is not None:
        text = f'is the order of the rows: data.order = "megatron" has it in the run whose seed is {given["seed"]}'
        out.append(note("--seed", f"{text} (seeds.first); initial weights are other ones"))
        if given["train_samples"] and size.rows and given["train_samples"] % size.rows:
            text = "are no whole steps: Megatron lays out rows for all of them, ablab for whole steps"
            out.append(warn("--train-samples", f"{text}, so the last epoch may be shuffled otherwise"))
        masked = [prefix for prefix in trained.prefixes if prefix.endswith("_tokens")]
        if masked and not given["synth_kd_data"]:
            text = f"ignores loss masks beside {masked[0]} without --synth-kd-data; ablab reads them"
            out.append(warn("--train-data-path" if given["train_data_path"] else "--data-path", text))
    if given["mock_data"]:
        out.append(note("--mock-data", "counts upwards in every document there; ablab's mock is other data"))
    kind = given["tokenizer_type"]
    if kind in (HARMONY, PIECES) and not given["tokenizer_model"]:
        out.append(warn("--tokenizer-model", f"is not given: Megatron stops without the file of {kind}"))
    return out


def _spans(net: Net) -> list[Note]:
    given = net.given
    if not given["synth_kd_data"]:
        idle = [f"--{dest.replace('_', '-')}" for dest in SPAN_WEIGHTS if dest in given]
        return [warn(idle[0], "does nothing without --synth-kd-data")] if idle else []
    micro, rows = given["micro_batch_size"], length(given).rows
    if micro is None:
        text = "is not given: --synth-kd-data takes means over each micro-batch, here over the whole batch"
        return [warn("--micro-batch-size", text)]
    if micro == rows:
        return [
            note("--synth-kd-data", "means are over the whole batch: one micro-batch on one device (group_rows = 0)")
        ]
    return [note("--synth-kd-data", f"means are over each {micro} rows, a micro-batch: group_rows = {micro}")]


def _documents(net: Net) -> list[Note]:
    """Note what ablab always does: attention within documents, positions from their start, first tokens no targets."""
    given, out = net.given, list[Note]()
    masked = given["reset_attention_mask"]
    if not masked and not given["dataloader_inter_document_masking"]:
        text = "is not given: tokens see the document before theirs in a row (ablab keeps documents apart)"
        out.append(note("--reset-attention-mask", text))
    elif masked and not given["create_attention_mask_in_dataloader"]:
        text = (
            "has no mask to reset with --no-create-attention-mask-in-dataloader: tokens see the document before theirs"
        )
        out.append(warn("--reset-attention-mask", f"{text} (ablab keeps documents apart)"))
    if net.position == "learned_absolute" and not given["reset_position_ids"]:
        text = "is not given: positions count from the beginning of a row (ablab: of a document)"
        out.append(note("--reset-position-ids", text))
    if not given["eod_mask_loss"] and not given["synth_kd_data"]:
        text = "is not given: the first token of a document is learned from the one before it (ablab: no target)"
        out.append(note("--eod-mask-loss", text))
    return out
