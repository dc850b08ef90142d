"""`torchrun -m ablab.bridges.megatron.plugin.pretrain --study S --arm A`: an arm trained under stock Megatron-Core.

What is printed has the form of Megatron's own log, which `ablab judge` reads. Everything that can be refused is refused before
the processes meet.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablab import study as studies
from ablab.bridges.megatron.plugin import look
from ablab.bridges.megatron.plugin.express import Expressed, express, whole_batch
from ablab.core.fault import CheckFailed, Fault, Refused

if TYPE_CHECKING:
    from ablab.data import Corpus
    from ablab.data.batches.stream import Batches

CUTS = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "expert_model_parallel_size")


@dataclass(frozen=True)
class Ready:
    """What is trained, on what, and how the work is cut: `cuts` are Megatron's fields."""

    expressed: Expressed
    corpus: Corpus
    seed: int
    micro_rows: int
    steps: int
    cuts: dict[str, int]
    sequence_parallel: bool
    save: Path | None


def ready(argv: Sequence[str], world: int) -> Ready:
    """Read the words, the study and its data. Raises a refusal (with every reason) for what cannot be trained as asked."""
    asked = words().parse_args(argv)
    look()
    study = studies.load(asked.study, asked.scale)
    study.trained_here("training an arm in Megatron-Core")
    if asked.arm not in study.with_baseline:
        known = ", ".join(study.with_baseline)
        raise CheckFailed(Fault("--arm", f"{study.path.name} has no arm '{asked.arm}'", f"choose one of {known}"))
    expressed, cuts = express(study.arm(asked.arm).settings, asked.arm), {name: vars(asked)[name] for name in CUTS}
    budget, model = expressed.settings["budget"], expressed.model
    whole = math.ceil((budget["tokens"] or 0) / budget["batch_tokens"])
    rows, faults = budget["batch_tokens"] // model["seq_len"], list[Fault]()
    split = cuts[CUTS[0]] * cuts[CUTS[1]]
    if any(size < 1 for size in cuts.values()) or world % split or (world // split) % cuts[CUTS[2]]:
        text = f"{' x '.join(map(str, cuts.values()))} (tensor, pipeline, expert) do not divide {world} processes"
        faults.append(Fault("processes", text, "choose sizes whose product divides them"))
    elif asked.micro_batch_size < 1 or rows % (asked.micro_batch_size * (world // split)):
        text = (
            f"{rows} rows a step cannot be shared out to {world // split} processes, {asked.micro_batch_size} at a time"
        )
        faults.append(Fault("--micro-batch-size", text, f"use numbers whose product divides {rows}"))
    if whole_batch(model) and asked.micro_batch_size < rows:
        text = f'balance = "switch" is of the whole batch, but its {rows} rows go through {asked.micro_batch_size} at a time'
        faults.append(Fault("--micro-batch-size", text, f"give {rows}, on one data parallel process"))
    if asked.train_iters is not None and not 0 < asked.train_iters <= whole:
        text = f"is {asked.train_iters}, but the study has {whole} steps"
        faults.append(Fault("--train-iters", text, f"give 1 to {whole}, to stop before its end"))
    if asked.save is not None and (cuts[CUTS[1]] > 1 or cuts[CUTS[2]] > 1):
        faults.append(Fault("--save", "weights are put together over tensor parallel processes alone", "leave it out"))
    if asked.save is not None and asked.save.exists():
        faults.append(Fault("--save", f"{asked.save} exists", "name another file"))
    if faults:
        raise CheckFailed(faults)
    from ablab import data

    corpus = data.prepare(expressed.settings["data"], Path(os.path.realpath(asked.runs)) / "data", say=_quiet)
    steps, seed = asked.train_iters or whole, study.seeds[0] if asked.seed is None else asked.seed
    micro, sequence = asked.micro_batch_size, asked.sequence_parallel
    return Ready(expressed, corpus, seed, micro, steps, cuts, sequence, asked.save)


def run(what: Ready, say: Callable[[str], None], **changes: Any) -> list[float]:
    """Train in the processes that have met; returns the loss of each step. `changes`: further fields of TransformerConfig."""
    import torch

    from ablab.bridges.megatron.plugin import specs, weights
    from ablab.bridges.megatron.plugin.training import Trainer
    from ablab.model.decoder import build

    settings, corpus = what.expressed.settings, what.corpus
    changes |= {**what.cuts, "sequence_parallel": what.sequence_parallel, "pipeline_dtype": torch.float32}
    spec = specs.spec(what.expressed, seed=what.seed, **changes)
    model, batch_tokens = settings["model"], settings["budget"]["batch_tokens"]
    first = build(model, vocab_size=corpus.vocab_size, seed=what.seed, salt=settings["train"]["salt"]).state_dict()
    trainer = Trainer(spec, corpus.vocab_size, micro_rows=what.micro_rows, first=first)
    stream, rows = _stream(what), batch_tokens // model["seq_len"]
    whole, losses = math.ceil((settings["budget"]["tokens"] or 0) / batch_tokens), list[float]()
    for number in range(1, what.steps + 1):
        began = time.perf_counter()
        taken = trainer.step(stream.batch(number - 1), min(1.0, (number - 0.5) / whole))
        losses.append(taken.loss)
        took = 1000 * (time.perf_counter() - began)
        say(
            f" iteration {number:8d}/{what.steps:8d} | consumed samples: {number * rows:12d} | "
            f"elapsed time per iteration (ms): {took:.1f} | learning rate: {taken.lr:.6E} | "
            f"global batch size: {rows:5d} | lm loss: {taken.loss:.6E} | grad norm: {taken.norm:.3f} |"
        )
    if what.save is not None:
        from safetensors.torch import save

        from ablab.core.files import write_atomic

        found = {name: tensor.contiguous() for name, tensor in weights.gather(trainer.stage).items()}
        if torch.distributed.get_rank() == 0:
            write_atomic(what.save, save(found))
    return losses


def _stream(what: Ready) -> Batches:
    """Open the training batches in the order that the settings name, as ablab reads them."""
    from ablab.data import Stream
    from ablab.data.batches.megatron_stream import MegatronStream

    settings = what.expressed.settings
    data, model, budget = settings["data"], settings["model"], settings["budget"]
    batch_tokens, seq_len = budget["batch_tokens"], model["seq_len"]
    if data["order"] == "chunks":
        return Stream(what.corpus, seed=what.seed, batch_tokens=batch_tokens, seq_len=seq_len, span=data["span"])
    rows = math.ceil((budget["tokens"] or 0) / batch_tokens) * batch_tokens // seq_len
    sizes = {"batch_tokens": batch_tokens, "seq_len": seq_len, "n_rows": rows}
    return MegatronStream(what.corpus, seed=what.seed, weights=data["weights"], **sizes)


def words() -> argparse.ArgumentParser:
    """Make the parser of the command's words; sizes have Megatron's names."""
    made = argparse.ArgumentParser(prog="ablab.bridges.megatron.plugin.pretrain", description=__doc__)
    made.add_argument("--study", type=Path, required=True)
    made.add_argument("--arm", required=True, help="an arm, or baseline")
    made.add_argument("--scale", help="a scale of the study")
    made.add_argument("--seed", type=int, help="of the run; default: the study's first")
    made.add_argument("--runs", type=Path, default=Path("runs"), help="where prepared data lie")
    made.add_argument("--micro-batch-size", type=int, default=1)
    made.add_argument("--train-iters", type=int, help="stop after so many steps of the study's")
    for name in CUTS:
        made.add_argument(f"--{name.replace('_', '-')}", type=int, default=1)
    made.add_argument("--sequence-parallel", action="store_true")
    made.add_argument(
        "--save", type=Path, metavar="FILE", help="write the weights, as ablab's weights.safetensors has them"
    )
    return made


def _quiet(_: str) -> None:
    """Say nothing: every process would."""


def main(argv: Sequence[str]) -> int:
    """Train on the GPUs of the processes that torchrun has started; 3 or 4 where something is refused."""
    try:
        what = ready(argv, int(os.environ.get("WORLD_SIZE", "1")))
        import torch

        if not torch.cuda.is_available():
            raise CheckFailed(Fault("cuda", "Megatron-Core trains on GPUs, and torch finds none here", "use ablab run"))
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    torch.distributed.init_process_group("nccl")
    try:
        parallel_state.initialize_model_parallel(**what.cuts)
        model_parallel_cuda_manual_seed(what.seed + 1)
        run(what, print if torch.distributed.get_rank() == 0 else _quiet)
    finally:
        torch.distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
