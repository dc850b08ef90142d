"""An arm's training step under Megatron-Core: its schedules of passes, its gradients, and ablab's optimizer by role.

The optimizer works on ablab's own matrices: q, k and v each by itself, an expert as one of a stack. So NorMuon with Polar
Express, Muon and AdamW take the steps that they take in ablab. Imported only where megatron-core is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer.moe.moe_utils import get_moe_layer_wise_logging_tracker
from torch import Tensor, nn

from ablab.bridges.megatron.plugin import weights
from ablab.bridges.megatron.plugin.express import whole_batch
from ablab.bridges.megatron.plugin.specs import Spec
from ablab.core.fault import Fault, InvalidStudy
from ablab.data.batches.stream import Batch
from ablab.model.decoder import skeleton
from ablab.records.settings import Settings
from ablab.training import losses, optimizers, schedules
from ablab.training.roles import Guarded


class Taken(NamedTuple):
    """The loss as the study weighs it, the gradient's norm before clipping, the learning rate of the first group."""

    loss: float
    norm: float
    lr: float


class Masters:
    """ablab's optimizer over fp32 copies of a GPTModel's weights in ablab's form, by ablab's roles."""

    def __init__(self, model: Any, settings: Settings, vocab_size: int) -> None:
        self.model, self.settings = model, settings
        found = weights.gather(model)
        self.parameters = {
            name: nn.Parameter(found[name].float()) for name in found if not name.endswith(".expert_bias")
        }
        every = skeleton(settings["model"], vocab_size=vocab_size).roles()
        roles = {name: role for name, role in every.items() if name in self.parameters}
        self.parameters = {name: self.parameters[name] for name in roles}  # in ablab's order, which state hangs on
        self.optimizer = optimizers.slot.build(settings["train"]["optimizer"]).build(self.parameters, roles)
        self.schedule = schedules.slot.build(settings["train"]["schedule"])

    def step(self, progress: float) -> tuple[float, float]:
        """Update once from the gradients that Megatron has finished, at the fraction `progress` of the budget.

        Returns the gradient's norm before clipping and the rate of the first group. Raises FloatingPointError, with nothing
        changed, where a gradient is not finite.
        """
        factor = self.schedule.factor(progress)
        for group in self.optimizer.param_groups:
            group["lr"], group["spent"] = group["peak"] * factor, progress
        gradients = weights.gather(self.model, gradient_of)
        for name, parameter in self.parameters.items():
            parameter.grad = gradients[name].float() if name in gradients else None
        norm, most = self._norm(), self.settings["train"]["clip"]
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient norm is {norm}; nothing was changed")
        if most and norm > most:
            torch._foreach_mul_([p.grad for p in self.parameters.values() if p.grad is not None], most / norm)
        if isinstance(self.optimizer, Guarded):
            self.optimizer.move()
        else:
            self.optimizer.step()
        weights.load(self.model, {name: parameter.detach() for name, parameter in self.parameters.items()}, own=True)
        return norm, float(self.optimizer.param_groups[0]["lr"])

    def _norm(self) -> float:
        """Return the norm of the whole network's gradient: each number once, whoever has it."""
        experts = parallel_state.get_expert_model_parallel_group()
        stages = parallel_state.get_pipeline_model_parallel_group()
        total = torch.zeros((), dtype=torch.float64)
        split = torch.zeros((), dtype=torch.float64)  # of what each expert parallel process has a part
        for name, parameter in self.parameters.items():
            copied = name.startswith("shared.") or name == "embed.weight"  # the same on several stages
            if parameter.grad is None or (copied and stages.rank()):
                continue
            square = parameter.grad.double().square().sum().cpu()
            if ".mlp.experts." in name:
                split += square
            else:
                total += square
        if experts.size() > 1:
            torch.distributed.all_reduce(split, group=experts)
        total += split
        if stages.size() > 1:
            torch.distributed.all_reduce(total, group=stages)
        return math.sqrt(float(total))


def gradient_of(tensor: Tensor) -> Tensor | None:
    """Return the gradient that Megatron keeps of a parameter: in its own buffer, or where torch has it."""
    kept: Tensor | None = vars(tensor).get("main_grad", tensor.grad)
    return kept


class Trainer:
    """One process's share of a run: the model of its stage under Megatron's data parallelism, and the optimizer."""

    def __init__(self, spec: Spec, vocab_size: int, *, micro_rows: int, first: dict[str, Tensor] | None = None) -> None:
        """Build this process's stage; `first` are ablab's weights (a state_dict) to start from."""
        settings = self.settings = spec.expressed.settings
        self.begins, self.ends = parallel_state.is_pipeline_first_stage(), parallel_state.is_pipeline_last_stage()
        model = self.stage = spec.build(vocab_size, pre_process=self.begins, post_process=self.ends)
        model.to(torch.cuda.current_device())
        if first is not None:
            weights.load(model, first)
        how = DistributedDataParallelConfig(grad_reduce_in_fp32=True)
        self.model = DistributedDataParallel(spec.config, how, model)
        spec.config.finalize_model_grads_func = finalize_model_grads
        self.masters = Masters(model, settings, vocab_size)
        self.loss = losses.slot.build(settings["train"]["loss"])
        self.seq_len, self.micro_rows = settings["model"]["seq_len"], micro_rows
        self.passes = get_forward_backward_func()
        self.shares, self.mine = parallel_state.get_data_parallel_world_size(), parallel_state.get_data_parallel_rank()

    def step(self, batch: Batch, progress: float) -> Taken:
        """Take one step on a batch, of which this process trains its share of rows. All processes are given the whole batch.

        InvalidStudy where its rows cannot be shared out evenly in micro-batches.
        """
        rows, each = len(batch.tokens_BT), self.micro_rows * self.shares
        if rows % each:
            text = f"{rows} rows cannot be shared out to {self.shares} processes, {self.micro_rows} at a time"
            raise InvalidStudy(Fault("--micro-batch-size", text, f"use numbers whose product divides {rows}"))
        if rows > self.micro_rows and whole_batch(self.settings["model"]):
            text = (
                f'balance = "switch" is of the whole batch, but its {rows} rows go through {self.micro_rows} at a time'
            )
            raise InvalidStudy(Fault("--micro-batch-size", text, f"give {rows}, on one data parallel process"))
        count, (weight_BT, divisor) = rows // each, self.loss.weigh(batch.targets_BT, batch.spans_BT)
        begin, sums = self.mine * count * self.micro_rows, list[Tensor]()
        micros = iter(range(begin, begin + count * self.micro_rows, self.micro_rows))

        def forward(micros: Iterator[int], model: Any) -> tuple[Tensor, Any]:
            at, device = next(micros), next(model.parameters()).device
            here = slice(at, at + self.micro_rows)
            tokens, targets, ids = (part[here].to(device) for part in batch[:3])
            out = model(tokens, None, ids, labels=targets.clamp(min=0))

            def loss(nll_BT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
                weighed = nll_BT.float().masked_fill(targets < 0, 0)
                total = (weighed if weight_BT is None else weighed * weight_BT[here].to(device)).sum() / divisor
                sums.append(total.detach().double())
                # Megatron divides by the micro-batches and averages over the data parallel processes.
                return total * (count * self.shares), {}

            return out, loss

        get_moe_layer_wise_logging_tracker().clear()  # it has the layers of whatever ran before
        self.model.train()
        self.model.zero_grad_buffer()
        shape = {"num_microbatches": count, "seq_length": self.seq_len, "micro_batch_size": self.micro_rows}
        self.passes(forward_step_func=forward, data_iterator=micros, model=[self.model], **shape, forward_only=False)
        norm, lr = self.masters.step(progress)
        return Taken(self._everywhere(sums), norm, lr)

    def _everywhere(self, sums: list[Tensor]) -> float:
        """Add up what the last stages of all data parallel processes have summed; the same on every process."""
        total = torch.stack(sums).sum().cpu() if sums else torch.zeros((), dtype=torch.float64)
        for group in (parallel_state.get_data_parallel_group(), parallel_state.get_pipeline_model_parallel_group()):
            if group.size() > 1:
                torch.distributed.all_reduce(total, group=group)
        return float(total)
