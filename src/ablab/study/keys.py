"""Every key of a study file: type, default, bounds and meaning. The reader checks against this and docs/study.md shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ablab.artifact import codecs, compressors
from ablab.core.lever import Lever
from ablab.core.slot import Slot
from ablab.data import tokenizers
from ablab.data.corpus.build import TEXT_FIELD, VALID_FRACTION
from ablab.data.sources.sources import SEPARATOR
from ablab.model import (
    blocks,
    embeddings,
    gates,
    mlps,
    positions,
    projections,
    residuals,
    routers,
    skips,
    softmaxes,
    temperatures,
    values,
)
from ablab.scoring import evaluators
from ablab.study import average
from ablab.training import losses, optimizers, qats, schedules

REQUIRED = object()
MOST = 2**53  # integers that every reader of JSON keeps exact

SLOTS: dict[str, Slot[Lever]] = {
    "position": positions.slot,
    "projection": projections.slot,
    "softmax": softmaxes.slot,
    "temperature": temperatures.slot,
    "gate": gates.slot,
    "value": values.slot,
    "mlp": mlps.slot,
    "router": routers.slot,
    "residual": residuals.slot,
    "block": blocks.slot,
    "embedding": embeddings.slot,
    "skips": skips.slot,
    "tokenizer": tokenizers.slot,
    "optimizer": optimizers.slot,
    "schedule": schedules.slot,
    "loss": losses.slot,
    "qat": qats.slot,
    "compress": compressors.slot,
    "codec": codecs.slot,
    "evaluate": evaluators.slot,
}
# The slots of a layer kind, and those of the whole model, with their defaults.
IN_MODEL = {
    "projection": "gqa",
    "position": "rope",
    "softmax": "vanilla",
    "temperature": "constant",
    "gate": "off",
    "value": "own",
    "mlp": "relu2",
    "router": "deepseek_v3",
    "residual": "plain",
    "block": "sequential",
}
OF_MODEL = {"embedding": "plain", "skips": "none"}


@dataclass(frozen=True)
class Key:
    """One key: its type (or its slot), default, and bounds; `above` and `below` are exclusive."""

    type: object
    doc: str
    default: object = REQUIRED
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    slot: str | None = None
    shown: str = ""  # how the default is described where it is computed
    example: str = "..."
    span: bool = False  # seconds, which may be written as people say them: "1h30m"

    def bounds(self) -> str:
        """Spell the bounds in words, or nothing."""
        parts = [
            f"{name} {bound:,.17g}".replace(",", "_")
            for name, bound in (
                ("above", self.above),
                ("at least", self.least),
                ("below", self.below),
                ("at most", self.most),
            )
            if bound is not None and not (name == "at most" and bound == MOST)
        ]
        return " and ".join(parts)


def _size(doc: str, default: object = REQUIRED, *, most: int = 2**24, shown: str = "", example: str = "...") -> Key:
    return Key(int, doc, default, least=1, most=most, shown=shown, example=example)


SECTIONS: dict[str, dict[str, Key]] = {
    "study": {
        "name": Key(str, "letters, digits, - and _; names the study's folder", example='"global-position"'),
        "question": Key(str, "one sentence, printed above the answer", ""),
    },
    "decision": {
        "metric": Key(
            Literal["nats_per_token", "bits_per_byte", "nats_per_reasoning_token", "nats_per_final_token"],
            "what is compared; lower is better; the last two need data with spans",
            "nats_per_token",
        ),
        "stage": Key(str, "the stage that decides; the others are reported", "pre_quant"),
        "matters": Key(
            float, "a difference smaller than this is a tie, in the metric's unit", above=0, example="0.005"
        ),
        "confidence": Key(float, "of every interval, over all looks and arms", 0.95, above=0.5, below=1),
        "seeds": Key(
            int | dict, "seeds per arm: an integer n is { start = n, at_most = n }", None, shown="the table below"
        ),
        "tie": Key(
            list[str],
            'what breaks a tie, in order: "needle", "trajectory", "prefer X", "lowest"; X is an arm, "baseline" or the '
            "value of a changed setting (the baseline's own value means the baseline)",
            (),
            shown="[]",
        ),
    },
    "seeds": {
        "start": _size("seeds before the first look", 3, most=1000),
        "at_most": _size("seeds at the last look; stopping early is free", 8, most=1000),
        "probe": Key(int, "seeds that only choose which arms go on; fresh seeds then test them", 0, least=0, most=1000),
        "keep": Key(int | Literal["2 sigma"], "arms that go on after the probe or the first look", None, shown="all"),
        "first": Key(int, "the first seed; move it for fresh seeds", 0, least=0, most=MOST),
    },
    "budget": {
        "tokens": _size("training tokens of every arm", None, most=MOST, shown="none: give tokens or seconds"),
        "seconds": Key(float, "wall clock of every arm, instead of tokens", None, above=0, shown="none", span=True),
        "batch_tokens": _size("tokens of one optimizer step, whole rows of seq_len", most=MOST, example="32_768"),
    },
    "limits": {
        "bytes": _size(
            "of the largest artifact among stages that compress, code included; where none does, of the deciding stage's",
            None,
            most=MOST,
            shown="none",
        ),
        "parameters": _size("of the model", None, most=MOST, shown="none"),
        "seconds": Key(float, "of training", None, above=0, shown="none", span=True),
        "stage_seconds": Key(
            float, "of packing and evaluating in the slowest stage", None, above=0, shown="none", span=True
        ),
        "memory": _size("bytes that any stage held at its peak", None, most=MOST, shown="none"),
    },
    "data": {
        "source": Key(
            str | list[str],
            "files, patterns (relative to the study file): .txt, .jsonl, .parquet, .arrow; token files (a Megatron prefix, a "
            'folder that `ablab data build` made, golf shards, plain uint16 .bin); "hf:owner/name#configuration:train[:90%]"; '
            '"python" (the interpreter\'s own library); "mock"',
            example='"python"',
        ),
        "valid_source": Key(
            str | list[str],
            "the held-out part, where it has files of its own; the same kinds as source",
            None,
            shown="documents of source, chosen by their content",
        ),
        "valid_text_bytes": _size(
            "bytes of text that the whole held-out part must hold; anything else stops the study",
            None,
            most=MOST,
            shown="any",
        ),
        "text_field": Key(str, "the field or column of .jsonl and .parquet that holds the text", TEXT_FIELD),
        "text_separator": Key(
            str,
            'what stands between the documents of a .txt file ("\\n\\n": blank lines); "" takes each file as one document',
            SEPARATOR,
        ),
        "tokenizer": Key(None, "text to tokens", "bytes", slot="tokenizer"),
        "valid_fraction": Key(
            float, "of the documents held out, chosen by their content", VALID_FRACTION, above=0, below=1
        ),
        "valid_bytes": _size("at most so many bytes of held-out text", 1_000_000, most=MOST),
        "groups": Key(
            str,
            'held-out documents that belong together: "folder" (the top folder in which a file lies; of "python" the package) '
            "or a field of the rows, such as a site; intervals over documents then take groups as independent",
            None,
            shown="none: each document by itself",
        ),
        "order": Key(
            Literal["chunks", "megatron"],
            "chunks of span tokens in an order of their own, or the samples of Megatron's GPTDataset under the run's seed",
            "chunks",
        ),
        "weights": Key(list[float], "of the files of source in a Megatron blend", None, shown="none: each sample once"),
        "span": _size(
            "tokens of a shuffled chunk, a whole number of rows of every arm", None, most=MOST, shown="longest seq_len"
        ),
    },
    "model": {
        "layers": Key(
            str,
            'letters are the initials of the layer kinds; "(LLLG)*3" repeats, "L[LG]^3" meets the same layers three times',
            example='"(LLLG)*3"',
        ),
        "loop_from": Key(
            float, "fraction of training from which the loops of layers run", None, least=0, below=1, shown="0"
        ),
        "d_model": _size("width of the residual stream", example="768"),
        "n_heads": _size("query heads", example="12"),
        "n_kv_heads": _size("key and value heads; divides n_heads", None, shown="n_heads"),
        "head_dim": _size("width of a head", None, shown="d_model / n_heads"),
        "seq_len": _size("tokens of a row", example="1024"),
        "tied": Key(bool, "the head is the embedding", True),
        "qk_norm": Key(
            bool | Literal["after"],
            "the model's norm on queries and keys before the rotation, or \"after\" it, as GRAPE's own code has it: there "
            "scores depend on more than the distance once the norm's weights differ",
            True,
        ),
        "softcap": Key(float, "logits become c tanh(logits / c); 0 is none", 0.0, least=0),
        "bias": Key(bool, "linear layers within the layers have biases", False),
        "norm": Key(
            Literal["rms", "bare", "layer"], "RMS with a weight, RMS without, or LayerNorm with weight and bias", "rms"
        ),
        "norm_eps": Key(float, "added to the mean square in a norm", 1e-5, above=0, below=1),
        "init": Key(
            Literal["normal", "orthogonal"], "how matrices start; embedding, head and gates are always normal", "normal"
        ),
        "init_std": Key(float, "standard deviation of the initial weights", 0.02, above=0, most=10),
        "embed_std": Key(float, "that of the embedding", None, least=0, most=10, shown="init_std"),
        "out_std": Key(
            float, "that of the matrices that write to the stream", None, least=0, most=10, shown="init_std/sqrt(2L)"
        ),
        **{
            name: Key(None, f"{name} of every layer kind that names none", word, slot=name)
            for name, word in IN_MODEL.items()
        },
        "embedding": Key(None, "what is done to embeddings before the first layer", "plain", slot="embedding"),
        "skips": Key(None, "connections past many layers", "none", slot="skips"),
    },
    "kind": {
        "window": Key(
            int,
            "tokens that a query sees, the current one included: i - j < window; 0 sees everything",
            None,
            least=0,
            most=2**24,
            shown="all",
        ),
        "like": Key(str, "another layer kind, copied before this table's own keys", None, shown="none"),
        **{name: Key(None, f"{name} of these layers", None, slot=name, shown=f"model.{name}") for name in IN_MODEL},
    },
    "train": {
        "optimizer": Key(None, "parameters by role to updates", "adamw", slot="optimizer"),
        "schedule": Key(
            None, "fraction of the budget spent to the factor on each learning rate", "wsd", slot="schedule"
        ),
        "loss": Key(None, "what the nats of targets weigh in the gradient", "mean", slot="loss"),
        "qat": Key(None, "weights that the forward pass sees rounded during training", "off", slot="qat"),
        "weights": Key(
            list[str],
            "files of weights trained elsewhere, one for each seed in order, instead of training (relative to the study file; "
            "safetensors or a torch state_dict, of ablab's names or parameter-golf's); [] trains here",
            None,
            shown="[]",
        ),
        "clip": Key(float, "largest norm of the gradient; 0 is none", 1.0, least=0),
        "ema": Key(float, "decay of an exponential moving average of the weights; 0 is none", 0.0, least=0, below=1),
        "ema_warmup": Key(float, f"w: {average.DOC}", None, least=0, most=1e9, shown="9 beside ema"),
        "salt": Key(str, "draws other random numbers under the same seeds (an A/A arm)", ""),
        "validate_every": _size(
            "tokens between validations, rounded to whole batches", None, most=MOST, shown="a tenth of budget.tokens"
        ),
        "validate_bytes": _size(
            "of held-out text that each validation on the way scores: excerpts of documents that their content chooses, the "
            "same for every arm and seed (tokens where bytes are not counted); with more than there is all of it; stages "
            "score everything at the end",
            None,
            most=MOST,
            shown="0.12 validate_every: with n validations 4% (n + 1) / n of training at most, 4.4% by default",
        ),
    },
    "stage": {
        "after": Key(str, "another stage, whose compressed weights are used", None, shown="none"),
        "compress": Key(None, "weights to few numbers and back", "keep", slot="compress"),
        "codec": Key(None, "numbers to the bytes of the artifact and back", "raw", slot="codec"),
        "code": Key(str, "a script whose bytes, minified and compressed, count to the artifact's", None, shown="none"),
        "windows": Key(
            dict, "of layer kinds at evaluation, by the kind's name; 0 sees everything", None, shown="as trained"
        ),
        "evaluate": Key(None, "weights to scores per document", slot="evaluate", example='"disjoint"'),
    },
    "runner": {
        "command": Key(
            str,
            "the program; {seed} and {out} are the run's seed and folder, also in args, env and resume; {{ is a brace",
            example='"python train.py --seed={seed} --out_dir={out}"',
        ),
        "directory": Key(str, "a git checkout, relative to the study file; runs stand in a clean copy of it", "."),
        "reads": Key(
            list[str],
            "files and patterns, relative to the directory, that runs read beside what git keeps; their sha256 is in the key",
            (),
            shown="[]",
        ),
        "log": Key(str | dict, "where the score is read: a reader's name, or the table below", example='"nanogpt"'),
        "args": Key(
            dict, "appended as `--name=value`; `true` appends `--name` alone and `false` nothing", None, shown="none"
        ),
        "env": Key(dict, "variables of the environment, added to ablab's own", None, shown="none"),
        "patch": Key(str, "a diff that `git apply` takes, relative to the study file", None, shown="none"),
        "shell": Key(bool, "hands the command to /bin/sh instead of splitting it into words", False),
        "resume": Key(
            str, "words appended where a run goes on in the folder that it began", None, shown="none: it is redone"
        ),
        "timeout": Key(str, "after which a run is ended and has failed: 90s, 30m, 2h, 1d", None, shown="none"),
        "gpus": Key(int, "GPUs of a run, told by CUDA_VISIBLE_DEVICES; 0 leaves that alone", 0, least=0, most=1024),
        "repeats": Key(
            int, "further runs of the baseline's first seed: the floor of what is not the seed", 0, least=0, most=100
        ),
    },
    "log": {
        "reader": Key(str, "a reader's name (`docs/file_formats.md`)", None, shown="none"),
        "stage": Key(str, "of a reader that finds several stages, which one", None, shown="the only one"),
        "regex": Key(str, "searched in every line; its one group is the number", None, shown="none"),
        "last": Key(bool, "of regex: the last line that matches counts; false: the first", True),
        "json": Key(
            str,
            "a file below {out}: JSON, or lines of it, of which the last with the field counts",
            None,
            shown="none",
        ),
        "field": Key(str, "of json: the number's key, with points between keys", None, shown="none"),
        "file": Key(str, "for a reader or a regex: a file below {out}", None, shown="stdout"),
    },
    "runner.decision": {
        "metric": Key(str, "what the score is called", "val_loss"),
        "lower": Key(bool, "whether lower is better; with false the word is on minus the score", True),
    },
    "levers": {
        "from": Key(
            list[str],
            "Python files that hold levers of their own, relative to the study file; their code is run (`docs/add_a_lever.md`)",
            (),
            shown="[]",
            example='["my_levers.py"]',
        ),
    },
    "arm": {
        "on": Key(str, "the arm that this one is a diff of and is compared with", "baseline"),
        "because": Key(str, "why anyone would expect something", None, shown="none"),
        "together": Key(str, "why two paths change at once; the verdict credits neither alone", None, shown="none"),
        "expect": Key(dict, "stage = difference, printed beside what happened", None, shown="none"),
    },
}
DIFFED = ("model", "train", "data", "stage", "budget", "runner")  # sections that an arm may change
SCALED = (*DIFFED, "decision", "limits")  # sections that a scale may change
NAMED = ("arm", "factorial", "scale")  # sections whose tables have names of their own


def lever_slot(path: tuple[str, ...]) -> str | None:
    """Name the slot that `path` (of the baseline) fills, or None where it is no lever's place."""
    match path:
        case ("train", ("optimizer" | "schedule" | "loss" | "qat") as slot) | ("data", "tokenizer" as slot):
            return slot
        case ("stage", _, ("compress" | "codec" | "evaluate") as slot):
            return slot
        case ("model", slot) if slot in OF_MODEL:
            return slot
        case ("model", slot) | ("model", _, slot) if slot in IN_MODEL and not (len(path) == 3 and path[1] in IN_MODEL):
            return slot
    return None
