"""How many runs go side by side."""

from __future__ import annotations

from ablab.model.size import parameters
from ablab.runs.plan import Plan
from ablab.runtime import capacity

SMALL = 20_000_000  # parameters


def default_jobs(plan: Plan) -> int:
    """Return the runs side by side by default: one per core for small models on a CPU, else one.

    Measured on 2 cores (AVX2, fp32, 0.75M parameters): two processes of one thread train 15,800 tokens/s together, one
    process of two threads 11,100, since small operations do not split. A large model takes one process, for memory.
    Of a program that is not ours nothing is known: as many as the GPUs that it asks for allow, else one.
    """
    if plan.study.runner is not None:
        asked = plan.study.runner["gpus"]
        return max(1, len(capacity.gpus()) // asked) if asked else 1
    if plan.where.device != "cpu":
        return 1
    largest = max(parameters(plan.decoder(name))["total"] for name in plan.study.with_baseline)
    return capacity.cores() if largest < SMALL else 1
