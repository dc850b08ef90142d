"""How many runs go side by side."""

from __future__ import annotations

from ablab import machine
from ablab.model import skeleton
from ablab.planned import Plan, arms
from ablab.size import parameters

SMALL = 20_000_000  # parameters


def default_jobs(plan: Plan) -> int:
    """Runs side by side by default: one per core for small models on a CPU, else one.

    Measured on 2 cores (AVX2, fp32, 0.75M parameters): two processes of one thread train 15,800 tokens/s together, one
    process of two threads 11,100, since small operations do not split. A large model takes one process, for memory.
    """
    if plan.where.device != "cpu":
        return 1
    vocab = max(corpus.vocab_size for corpus in plan.corpora.values())
    models = [arm.settings["model"] for arm in arms(plan.study).values()]
    largest = max(parameters(skeleton(model, vocab_size=vocab))["total"] for model in models)
    return machine.cores() if largest < SMALL else 1
