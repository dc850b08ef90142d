"""A trained run as a folder for transformers: config.json, model.safetensors, and the tokenizer where one can be written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save

from ablab.bridges.hf.express import express
from ablab.bridges.hf.names import renamed
from ablab.core import places
from ablab.core.files import write_atomic
from ablab.data.tokenizers.bytes import Bytes
from ablab.data.tokenizers.sentencepiece import SentencePiece
from ablab.scoring.stage import trained_decoder

if TYPE_CHECKING:
    from ablab.data import Corpus
    from ablab.runs.plan import Plan, Run

BOS = "<bos>"


@dataclass(frozen=True)
class Folder:
    """The files of the folder, the architecture, and what to know before using it."""

    files: tuple[Path, ...]
    architecture: str
    notes: tuple[str, ...]


def export(plan: Plan, run: Run, out: Path) -> Folder:
    """Write the folder `out` (new or empty) of a trained run.

    CheckFailed where no architecture of transformers computes what the arm computes, and where `out` holds something.
    """
    expressed = express(run.settings, run.arm)
    places.unused(out)
    corpus, weights = plan.corpus(run), plan.store.train(run.train_key) / "weights.safetensors"
    decoder = trained_decoder(run.settings, weights, corpus, seed=run.seed, where=plan.where)
    state = {name: tensor.cpu() for name, tensor in decoder.state_dict().items()}
    ids = {"bos_token_id": corpus.bos_id, "eos_token_id": corpus.bos_id, "pad_token_id": None}
    config = {**expressed.config, "vocab_size": corpus.vocab_size, **ids}
    write_atomic(out / "config.json", _json(config))
    write_atomic(out / "model.safetensors", save(renamed(expressed, state), metadata={"format": "pt"}))
    files, note = _tokenizer(corpus, run.settings["model"]["seq_len"], out)
    notes = [note] if note else []
    notes.append(f"every document begins with token {corpus.bos_id}, and ends where it comes again")
    written = (out / "config.json", out / "model.safetensors", *files)
    return Folder(written, expressed.of.name, tuple(notes))


def _tokenizer(corpus: Corpus, length: int, out: Path) -> tuple[list[Path], str]:
    """Write the tokenizer's files; returns them, and what to know where transformers cannot read them."""
    if isinstance(corpus.tokenizer, Bytes):
        config: dict[str, object] = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": BOS}
        config |= {"model_max_length": length, "clean_up_tokenization_spaces": False}
        write_atomic(out / "tokenizer.json", _json(_bytes()))
        write_atomic(out / "tokenizer_config.json", _json(config))
        return [out / "tokenizer.json", out / "tokenizer_config.json"], ""
    if isinstance(corpus.tokenizer, SentencePiece):
        corpus.tokenizer.save(out / "tokenizer.model")
        text = "tokenizer.model is for the library sentencepiece: put the document's start before what it encodes"
        return [out / "tokenizer.model"], text
    return [], f"the tokenizer {type(corpus.tokenizer).__name__} is not written: encode with ablab"


def _bytes() -> dict[str, object]:
    """Return tokenizer.json of a token for each byte, the document's start in front of every text.

    Its pre-tokenizer writes bytes as characters: printable ones of Latin-1 as themselves, the others from 256 on.
    """
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shown = {byte: chr(byte) for byte in plain}
    shown |= {byte: chr(256 + n) for n, byte in enumerate(byte for byte in range(256) if byte not in shown)}
    start = {"id": BOS, "type_id": 0}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "added_tokens": [{"id": 256, "content": BOS, **flags, "special": True}],
        "pre_tokenizer": level,
        "decoder": level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": start}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"SpecialToken": start}, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {BOS: {"id": BOS, "ids": [256], "tokens": [BOS]}},
        },
        "model": {"type": "BPE", "vocab": {shown[byte]: byte for byte in range(256)}, "merges": []},
    }  # fmt: skip


def _json(value: dict[str, object]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False) + "\n"
