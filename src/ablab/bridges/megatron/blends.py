"""Where Megatron's data flags point: prefixes with or without weights, and the combinations at which Megatron stops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ablab.bridges.megatron.parse import Given
from ablab.core.fault import Fault
from ablab.data.batches.megatron_index import split_ranges
from ablab.data.tokenizers.o200k_harmony import VOCAB_SIZE

HARMONY = "O200kHarmonyTokenizer"
PER_SPLIT = ("train_data_path", "valid_data_path", "test_data_path")
DEFAULT_SPLIT = "969, 30, 1"  # Megatron's own, with --data-path and no --split


@dataclass(frozen=True)
class Blend:
    """Prefixes in their order; `weights` None where the list has none."""

    prefixes: tuple[str, ...]
    weights: tuple[float, ...] | None = None


def blend(words: Sequence[str]) -> Blend:
    """Read a list of prefixes, or of weights and prefixes by turns. ValueError, with the cure, where Megatron stops.

    Megatron's rule: an even number of words of which every other one is a number are weights; an odd number never are.
    """
    if not words:
        raise ValueError("names nothing; give a prefix")
    numbers = [_number(word) for word in words[::2]]
    if len(words) % 2 or all(number is None for number in numbers):
        return Blend(tuple(word.strip() for word in words))
    weights = [number for number in numbers if number is not None]
    if len(weights) < len(numbers):
        raise ValueError("gives weights to some of its prefixes; give one before each, or none")
    if not all(weight > 0 and math.isfinite(weight) for weight in weights):
        raise ValueError("has a weight that is not above 0; leave out the prefixes that are not used")
    return Blend(tuple(word.strip() for word in words[1::2]), tuple(weights))


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def training(given: Given) -> Blend | None:
    """Return all data that is trained on: --train-data-path, or --data-path where --split gives training everything.

    One prefix behind --train-data-path keeps no weight: Megatron reads it without.
    """
    if given["train_data_path"]:
        blend_given = blend(given["train_data_path"])
        return Blend(blend_given.prefixes) if len(blend_given.prefixes) == 1 else blend_given
    if given["data_path"] and split_ranges(given["split"] or DEFAULT_SPLIT)[0] == (0.0, 1.0):
        return blend(given["data_path"])
    return None


def held(given: Given) -> Blend | None:
    """Return what is validated on: --valid-data-path."""
    return blend(given["valid_data_path"]) if given["valid_data_path"] else None


def stops(given: Given) -> list[Fault]:
    """List the faults in data and tokenizer at which Megatron itself would stop."""
    out = []
    for dest in ("data_path", *PER_SPLIT):
        if dest in given:
            try:
                blend(given[dest])
            except ValueError as error:
                out.append(Fault(_flag(dest), *str(error).split("; ", 1)))
    apart = [dest for dest in PER_SPLIT if given[dest]]
    kinds = [dest for dest in ("mock_data", "data_path", *apart[:1]) if given[dest]]
    if len(kinds) > 1:
        out.append(Fault(_flag(kinds[1]), f"stands beside {_flag(kinds[0])}: one source of data only", "keep one"))
    if apart and given["split"] is not None:
        out.append(Fault("--split", f"splits nothing beside {_flag(apart[0])}, so Megatron stops", "remove it"))
    if given["data_path"] and given["split"] is not None:
        try:
            split_ranges(given["split"])
        except ValueError as error:
            out.append(Fault("--split", *str(error).split("; ", 1)))
    micro, rows = given["micro_batch_size"], given["global_batch_size"]
    if micro and rows and rows % micro:
        text = f"{rows} rows are no multiple of --micro-batch-size {micro}, so Megatron stops"
        out.append(Fault("--global-batch-size", text, "give whole micro-batches"))
    return [*out, *_harmony(given)]


def _harmony(given: Given) -> list[Fault]:
    out = []
    for dest in ("vocab_size", "padded_vocab_size"):
        if given["tokenizer_type"] == HARMONY and given[dest] not in (None, VOCAB_SIZE):
            text = f"{given[dest]} is not the {VOCAB_SIZE} of {HARMONY}, so Megatron stops"
            out.append(Fault(_flag(dest), text, f"give {VOCAB_SIZE}"))
    if not given["synth_kd_data"]:
        return out
    if given["mock_data"]:
        out.append(Fault("--synth-kd-data", "stands beside --mock-data, so Megatron stops", "keep one"))
    if given["tokenizer_type"] not in (None, HARMONY) or "legacy_tokenizer" in given:
        text = f"needs {HARMONY} and not the older tokenizers, or Megatron stops"
        out.append(Fault("--synth-kd-data", text, f"give --tokenizer-type {HARMONY}, and no --legacy-tokenizer"))
    for dest in ("data_path", *PER_SPLIT):
        try:
            named = blend(given[dest]).prefixes if given[dest] else ()
        except ValueError:
            continue  # said above
        odd = [prefix for prefix in named if not prefix.endswith("_tokens")]
        if odd:
            text = f"'{odd[0]}' does not end in _tokens, so --synth-kd-data finds no masks beside it"
            out.append(Fault(_flag(dest), text, "name the prefixes of the tokens"))
    return out


def _flag(dest: str) -> str:
    return f"--{dest.replace('_', '-')}"
