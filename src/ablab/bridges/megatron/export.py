"""An arm as a Megatron command line for the vpMoE fork, in the order of that fork's own renderer."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from ablab.bridges.megatron.blends import HARMONY
from ablab.bridges.megatron.flags import FORK_ONLY
from ablab.bridges.megatron.from_data import from_data, vocabulary
from ablab.bridges.megatron.from_model import from_model
from ablab.bridges.megatron.from_train import from_train
from ablab.bridges.megatron.notes import Note, note, warn
from ablab.bridges.noted import left, noted
from ablab.core.fault import CheckFailed, Fault
from ablab.records.settings import Settings

# The renderer's order (render_vpmoe_megatron_args.py), what it leaves to the caller behind it.
_ORDER = """
vocab-size padded-vocab-size make-vocab-size-divisible-by num-layers hidden-size num-attention-heads
group-query-attention num-query-groups kv-channels ffn-hidden-size seq-length max-position-embeddings normalization
norm-epsilon qk-layernorm softmax-type disable-bias-linear add-qkv-bias squared-relu no-bias-gelu-fusion
no-bias-swiglu-fusion swiglu value-residual value-residual-init untie-embeddings-and-output-weights optimizer
normuon-momentum normuon-beta2 normuon-eps normuon-aux-lr normuon-aux-min-lr polar-express-safety-factor
position-embedding-type attention-dropout hidden-dropout rotary-base rotary-percent no-rope-fusion grape-a no-rope-freq
grapem-learnable-freq no-grapem-learnable-freq grapem-share-across-heads grapem-per-head grapem-log-freq-scale
window-size window-attn-skip-freq use-tpa tpa-rank tpa-q-rank num-experts moe-router-topk moe-ffn-hidden-size
moe-router-load-balancing-type moe-aux-loss-coeff moe-z-loss-coeff moe-router-score-function moe-router-pre-softmax
moe-router-num-groups moe-router-group-topk moe-router-topk-scaling-factor moe-router-enable-expert-bias
moe-router-bias-update-rate moe-router-dtype moe-shared-expert-intermediate-size moe-layer-freq init-method-std
embedding-init-method-std mock-data synth-kd-data kd-span-weight-reasoning kd-span-weight-final train-data-path
valid-data-path tokenizer-type tokenizer-model reset-position-ids reset-attention-mask eod-mask-loss micro-batch-size
global-batch-size train-iters eval-interval lr min-lr decoupled-lr decoupled-min-lr lr-decay-style lr-warmup-fraction
lr-wsd-decay-style lr-wsd-decay-iters weight-decay adam-beta1 adam-beta2 adam-eps clip-grad seed
"""
ORDER = tuple(_ORDER.split())
# What no flag is for, and why the same network is trained without it. Everything else must be read by name, or is refused.
UNSAID = {
    "budget.seconds": "is given instead of tokens, or not at all",
    "model.loop_from": "acts on loops, which are refused",
    "train.ema_warmup": "acts on train.ema, which is refused",
    "train.validate_bytes": "is of the validations on the way",
    "data.valid_bytes": "is of what is scored",
    "data.valid_text_bytes": "checks what is held out",
    "data.valid_fraction": "chooses documents while ablab prepares the data",
    "data.text_field": "is read while ablab prepares the data",
    "data.text_separator": "is read while ablab prepares the data",
    "data.groups": "is of the intervals of a verdict",
    "data.span": "is of ablab's order, which a note says is not the fork's",
    "stage": "comes after the training",
}


@dataclass(frozen=True)
class Exported:
    """The words of the command line, and what to know before using it."""

    argv: tuple[str, ...]
    notes: tuple[Note, ...]

    def shell(self) -> str:
        """Write one flag a line, quoted for a shell, with backslashes at the ends."""
        lines: list[list[str]] = []
        for word in self.argv:
            if word.startswith("--"):
                lines.append([word])
            else:
                lines[-1].append(word)
        return " \\\n".join(shlex.join(line) for line in lines)


def export(settings: Settings, arm: str, seed: int | None = None) -> Exported:
    """Return the flags of an arm's canonical settings (budget, data, model, train).

    Raises CheckFailed with everything that the fork cannot do, and with every setting of which nothing was said, each with its
    place and cure.
    """
    (asked, table), faults = noted(settings), list[Fault]()
    out = from_model(asked["model"], vocabulary(asked), faults)
    notes = [*from_train(asked, out, faults), *from_data(asked, out, faults)]
    if not faults:  # where a lever is refused, so are its settings
        cure = f"train this arm in ablab, or say in {__name__.rpartition('.')[0]} what it is"
        faults += left(settings, table, UNSAID, "no flag says {}: the command line would train without it", cure)
    if faults:
        unique = {str(fault): fault for fault in faults}.values()
        raise CheckFailed(Fault(f"arm {arm}: {fault.place}", fault.fault, fault.cure) for fault in unique)
    out["hidden-dropout"] = out["attention-dropout"] = ["0.0"]
    if seed:
        out["seed"] = [str(seed)]
    unplaced = sorted(set(out) - set(ORDER))
    assert not unplaced, f"no place in the order for {unplaced}"
    argv = [word for name in ORDER if name in out for word in (f"--{name}", *out[name])]
    return Exported(tuple(argv), (*notes, *_known(argv, settings, seed)))


def _known(argv: list[str], settings: Settings, seed: int | None) -> list[Note]:
    out = []
    only = [word for word in argv if word in FORK_ONLY or word in ("grapem", "normuon", HARMONY)]
    if only:
        out.append(note("fork", f"only the vpMoE fork has {', '.join(only)}"))
    if not seed:
        out.append(note("--seed", "the study's first seed is 0, which Megatron refuses: choose one"))
    if "--train-data-path" in argv and settings["data"]["order"] == "megatron":
        first = seed or "the one you choose"
        text = f"rows come in the fork's order where the seed of the run is --seed: {first}; other seeds, other orders"
        out.append(note("data.order", text))
    if "--grape-a" in argv:
        out.append(note("--grape-a", "trains only: decode in ablab"))
    if "--window-size" in argv and "--softmax-type" in argv and argv[argv.index("--softmax-type") + 1] == "vanilla":
        text = "with --transformer-impl local and bf16 the fused softmax ignores it: add --no-masked-softmax-fusion"
        out.append(warn("--window-size", text))
    if settings["model"]["bias"] and "--num-experts" in argv:
        out.append(note("router", "its bias starts at N(0, 0.02) there, at zero in ablab"))
    stages = ", ".join(settings["stage"])
    out.append(note("stage", f"the flags train, and that is all: what {stages} packs and scores stays in ablab"))
    out.append(note("learning rate", "Megatron's first step has the rate of step 0, ablab's that of its middle"))
    return out
