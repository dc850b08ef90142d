"""The command `ablab sample`: what the trained weights of an arm write."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict, Unpack, cast

import typer

from ablab.cli.options import Json, Out, Scale, StudyFile
from ablab.core.files import print_json

if TYPE_CHECKING:
    from ablab.data import Corpus
    from ablab.data.tokenizers.o200k_harmony import O200kHarmony
    from ablab.runs.plan import Plan, Run


def sample(
    study: StudyFile,
    arm: Annotated[str, typer.Argument(metavar="ARM", help="An arm, or baseline.")],
    prompt: Annotated[list[str], typer.Option(help="Text to continue (repeatable: one batch).")],
    tokens: Annotated[int, typer.Option(min=1, help="New tokens of each.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(min=1, help="Only the k likeliest tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Only the fewest that hold this share.")] = None,
    seed: Annotated[int | None, typer.Option(help="The run's seed; the first that is trained.")] = None,
    draw: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    scale: Scale = None,
    out: Out = Path("runs"),
    as_json: Json = False,
) -> None:
    """Print what the trained weights of an arm write, by cached decoding, to a document's end at most."""
    from ablab.launch.study import Lab, aside

    for text in prompt:
        if not text:
            raise typer.BadParameter("a prompt is empty; give some text", param_hint="--prompt")
    lab = Lab(study, scale, out, device=None)
    lab.study.trained_here("a sample")
    plan = lab.plan(computes=False, recall=aside)
    run = plan.trained(arm, seed, lab.again)
    _say_what_changed(plan, run)
    draws: Draws = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": draw}
    try:
        answer = continued(plan, run, prompt, tokens, **draws)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--prompt, --tokens, --top-p") from error
    if as_json:
        print_json(answer)
        return
    for row in answer["samples"]:
        print(f"{row['prompt']}|{row['text']}{'' if row['ended'] else ' ...'}\n")
    speed = f"{answer['tokens_per_second']:,.0f} tokens/s" if answer["tokens_per_second"] else "one token each"
    if quartiles := answer["step_seconds_quartiles"]:
        speed += f" (half of all steps took {1000 * quartiles[0]:.3g} to {1000 * quartiles[1]:.3g} ms)"
    size = f"cache {answer['cache_bytes']:,} bytes ({answer['precision']})"
    print(
        f"{answer['arm']}, seed {answer['seed']}: {sum(row['tokens'] for row in answer['samples'])} tokens, {speed}, {size}"
    )


class Draws(TypedDict, total=False):
    """How tokens are drawn (`ablab.model.generate`)."""

    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int


class Continuation(TypedDict):
    """tokens: how many are new; ended: the document came to its end."""

    prompt: str
    text: str
    tokens: int
    ended: bool


class Continued(TypedDict):
    """Prompts of one run, continued; tokens_per_second is None where there is one token of each."""

    arm: str
    seed: int
    samples: list[Continuation]
    tokens_per_second: float | None
    step_seconds_quartiles: list[float] | None
    prompt_seconds: float
    seconds: float
    cache_bytes: int
    precision: str


def continued(plan: Plan, run: Run, prompts: list[str], n_new: int, **draws: Unpack[Draws]) -> Continued:
    """Continue the prompts, each behind a document's start, by the run's weights; positions are told the whole length.

    On Harmony conversations a prompt is a user's message, and what follows it is the assistant's. ValueError as `generate`
    raises it.
    """
    from ablab.model.decoder import inference
    from ablab.model.generate import generate
    from ablab.scoring.evaluators.evaluator import declared
    from ablab.scoring.stage import trained_decoder

    corpus, where = plan.corpus(run), plan.where
    rows, stops = opened(corpus, prompts)
    weights = plan.store.train(run.train_key) / "weights.safetensors"
    decoder = trained_decoder(run.settings, weights, corpus, seed=run.seed, where=where)
    seq_len, whole = run.settings["model"]["seq_len"], max(map(len, rows)) + n_new
    with inference(decoder, where.precision), declared(decoder, max(seq_len, whole), seq_len):
        made = generate(decoder, rows, n_new, stop=stops, **draws)
    samples: list[Continuation] = []
    for prompt, new in zip(prompts, made.tokens, strict=True):
        ended = new[-1] in stops
        text = corpus.tokenizer.decode(new[:-1] if ended else new)
        samples.append({"prompt": prompt, "text": text, "tokens": len(new), "ended": ended})
    return {
        "arm": run.arm,
        "seed": run.seed,
        "samples": samples,
        "tokens_per_second": made.tokens_per_second if max(map(len, made.tokens)) > 1 else None,
        "step_seconds_quartiles": _quartiles(made.step_seconds),
        "prompt_seconds": made.prompt_seconds,
        "seconds": made.seconds,
        "cache_bytes": made.cache_bytes,
        "precision": where.precision,
    }


def _quartiles(seconds: Sequence[float]) -> list[float] | None:
    """Return the first and the last quartile: one clock over one text is no comparison, and says how far it wavers."""
    if len(seconds) < 4:
        return None
    low, _, high = statistics.quantiles(seconds, n=4)
    return [low, high]


def opened(corpus: Corpus, prompts: list[str]) -> tuple[list[list[int]], list[int]]:
    """Return the ids that each prompt begins with, and the ids that end what follows."""
    identity = corpus.manifest.get("identity", {})
    if identity.get("kind") != "tokens" or identity["tokenizer"]["name"] != "o200k_harmony":
        return [[corpus.bos_id, *corpus.tokenizer.encode(prompt)[0].tolist()] for prompt in prompts], [corpus.bos_id]
    from ablab.data.harmony.conversation import Message
    from ablab.data.harmony.render import EOD, RETURN, Renderer

    renderer = Renderer(cast("O200kHarmony", corpus.tokenizer))
    return [renderer.render_prompt([Message("user", prompt, None)]) for prompt in prompts], [RETURN, EOD]


def _say_what_changed(plan: Plan, run: Run) -> None:
    from ablab.runtime import source

    done, here = plan.store.trained(run.train_key), source.of_training(run.settings)
    if done and (differences := source.changes(done, {"source": here}, plan.store.train(run.train_key))):
        print(f"warning: these weights were made by other code: {'; '.join(differences)}", file=sys.stderr)
