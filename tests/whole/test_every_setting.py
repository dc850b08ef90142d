"""Every setting of every lever and every key of a study, two legal values each: an arm of them acts, is not tested at this
size, or is refused. A lever of each slot is tried in every run of the suite; `make verify` tries them all, in minutes."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import every_key, every_setting

from ablab.study.keys import SLOTS

# Whatever is not listed acts. `untested` is said and passes; `inert` is refused with exit code 4. Why each is right:
EXPECTED: dict[str, tuple[str, str]] = {
    "position.rope.ntk": ("inert", "no stage evaluates beyond the trained length"),
    "projection.tpa.factors": ("inert", "as many groups as heads: both are one"),
    "mlp.gptoss_swiglu.limit": ("untested", "20 steps reach no limit"),
    "schedule.wsd.warmup": ("untested", "both are less than a step"),
    "schedule.cosine.warmup": ("untested", "both are less than a step"),
    "optimizer.muon.orthogonaliser.products": ("untested", "a miniature is in fp64"),
    "optimizer.normuon.orthogonaliser.products": ("untested", "a miniature is in fp64"),
    "loss.spans.group_rows": ("untested", "a miniature's groups have a row"),
    "compress.rtn.small": ("untested", "scales with the matrices"),
    "compress.gptq.small": ("untested", "scales with the matrices"),
    "compress.gptq.solver.block": ("inert", "columns per product: speed alone"),
    "evaluate.disjoint.documents": ("untested", "a miniature has few"),
    "evaluate.sliding.documents": ("untested", "a miniature has few"),
    "evaluate.streaming.documents": ("untested", "a miniature has few"),
    "evaluate.ngram.documents": ("untested", "a miniature has few"),
    "evaluate.ttt_sgd.documents": ("untested", "a miniature has few"),
    "evaluate.ttt_lora.documents": ("untested", "a miniature has few"),
    "evaluate.streaming.stretch": ("inert", "tokens read at once: speed alone"),
    "evaluate.ttt_lora.batch_documents": ("inert", "documents side by side, where none hears of another: speed alone"),
    "evaluate.ttt_lora.phases.count": ("untested", "a miniature has one"),
    "evaluate.ttt_lora.phases.prefix_documents": ("untested", "a miniature has one"),
    "evaluate.needle.lengths": ("untested", "a miniature takes those of its own rows"),
    "evaluate.needle.lags": ("untested", "a miniature takes those of its own rows"),
    "evaluate.needle.items": ("untested", "a miniature has two"),
    "evaluate.needle.tokens_budget": ("untested", "a miniature pays for two items"),
    "evaluate.needle.natural_tokens": ("untested", "a miniature pays for its own rows"),
    "evaluate.needle.short": ("untested", "a miniature takes that of its own rows"),
    "train.validate_every": ("untested", "a miniature validates twice"),
    "data.valid_text_bytes": ("inert", "stops a study whose text is another; changes none that runs"),
    "data.valid_bytes": ("untested", "a miniature has few documents"),
    "data.span": ("untested", "a miniature's are its own rows"),
    "budget.tokens": ("untested", "a miniature has 20 steps"),
}
# The cheapest of each slot, and some keys of each section.
OFTEN = {
    "position.t5_buckets", "projection.gqa", "softmax.sink", "temperature.qk_gain", "gate.xsa", "value.residual", "mlp.relu2",
    "router.softmax_topk", "residual.branch_scale", "block.parallel", "embedding.smear_gate", "skips.unet",
    "tokenizer.case_ops", "optimizer.adamw", "schedule.cosine", "loss.spans", "qat.fake_quant", "compress.rtn",
    "codec.lzma", "evaluate.streaming", "evaluate.needle",
    "model.loop_from", "model.local.window", "train.ema_warmup", "data.valid_source", "budget.tokens",
    "stage.scored.after", "stage.scored.code",
}  # fmt: skip
LEVERS = [f"{slot}.{lever}" for slot in SLOTS for lever in SLOTS[slot].names if SLOTS[slot].settings(lever)]


def marked(names: list[str]) -> list[object]:
    return [name if name in OFTEN else pytest.param(name, marks=pytest.mark.minutes) for name in names]


def expected(path: str) -> str:
    return EXPECTED.get(path, ("acts", ""))[0]


@pytest.mark.parametrize("lever", marked(LEVERS))
def test_a_setting_acts_or_is_said_to_be_untested_or_is_refused_for_a_reason(lever: str, tmp_path: Path) -> None:
    slot, _, name = lever.partition(".")
    found = every_setting.answers(tmp_path, slot, name)
    assert found == {setting: expected(f"{lever}.{setting}") for setting in found}
    assert {f"{lever}.{setting}" for setting in every_setting.known(slot, name)} - every_setting.ELSEWHERE.keys() == {
        f"{lever}.{setting}" for setting in found
    }


@pytest.mark.parametrize("path", marked([*every_key.KEYS]))
def test_a_key_acts_or_is_said_to_be_untested_or_is_refused_for_a_reason(path: str, tmp_path: Path) -> None:
    assert every_key.answer(tmp_path, path) == expected(path)


def test_no_setting_and_no_key_is_left_out() -> None:
    """Of every slot with settings a lever is tried in every run; what is listed is there."""
    assert every_key.keys() == {*every_key.KEYS, *every_key.ELSEWHERE}
    assert {lever.partition(".")[0] for lever in OFTEN & {*LEVERS}} == {lever.partition(".")[0] for lever in LEVERS}
    assert {*LEVERS, *every_key.KEYS} >= OFTEN
    settings = {".".join(path) for path in every_setting.settings()}
    assert settings | every_key.KEYS.keys() >= EXPECTED.keys()
    assert settings >= every_setting.ELSEWHERE.keys()
