"""Everything that can be wrong in arms, factorials and scales, with the exact message; each text is put after a valid study."""

# ruff: noqa: E501  (messages stand here as they are printed)

from __future__ import annotations

from pathlib import Path

import pytest
from tests.study.written import edited, faults

BAD = [
    (
        "[factorial.f]\nmodel=[1,2]\ntrain.ema=[0,0.9]\n",
        ["factorial.f: model: [1, 2] is no table; give a setting's path and its levels"],
    ),
    ("[arm.x]\n", ["arm.x: changes nothing: it names no setting; name what it changes"]),
    (
        "[arm.baseline]\nmodel.softcap=1.0\n",
        [
            "arm.baseline: an arm cannot be called 'baseline': that is what [model] and the other sections are; rename it"
        ],
    ),
    (
        '[arm."../x"]\nmodel.softcap=1.0\n',
        ["arm: '../x' cannot name an arm; use letters, digits, - and _, at most 64, a letter or digit first"],
    ),
    (
        "[arm.x]\nmodel.softcap=0\n",
        ["arm.x: model.softcap: changes nothing: baseline has 0 too; remove it or give another value"],
    ),
    (
        "[arm.x]\nmodel.n_heads=4\nmodel.softcap=1.0\n",
        ["arm.x: model.n_heads: changes nothing: baseline has 4 too; remove it or give another value"],
    ),
    (
        "[arm.x]\nmodel.qk_norm=false\nmodel.softcap=1.0\n",
        ['arm.x: changes 2 settings at once (model.qk_norm, model.softcap); split it, or say together = "why"'],
    ),
    (
        "[arm.x]\ntrain.optimizer={lr=1e-3,decay=0.0}\n",
        [
            'arm.x: changes 2 settings at once (train.optimizer.lr, train.optimizer.decay); split it, or say together = "why"'
        ],
    ),
    (
        "[arm.x]\ntrain.optimizer={lr=1e-3,dekay=0.0}\n",
        ["arm.x: train.optimizer: adamw has no setting 'dekay'; did you mean 'decay'? known: ..."],
    ),
    ("[arm.x]\ndecision.matters=1\n", ["arm.x: an arm may not change [decision]; it is the same for every arm"]),
    (
        '[arm.x]\nbecuase="q"\nmodel.softcap=1.0\n',
        [
            "arm.x: an arm has no key 'becuase'; did you mean 'because'? known: because, budget, data, expect, model, on, runner, stage, together, train"
        ],
    ),
    (
        '[arm.x]\non="rop"\nmodel.softcap=1.0\n',
        ["arm.x.on: no arm is called 'rop'; did you mean 'rope'? known: baseline, rope"],
    ),
    (
        '[arm.x]\non="y"\nmodel.softcap=1.0\n[arm.y]\non="x"\nmodel.softcap=2\n',
        ["arm.y.on: goes in a circle: x -> y -> x; let one be on the baseline"],
    ),
    (
        "[arm.x]\nexpect={pre=1, needle=true}\nmodel.softcap=1.0\n",
        [
            "arm.x.expect: no stage is called 'pre'; known: needle, pre_quant",
            "arm.x.expect.needle: True is true or false; give a number",
        ],
    ),
    (
        '[arm.x]\nstage.foo.evaluate="disjoint"\n',
        ["arm.x: stage: no stage is called 'foo' in the baseline; known: needle, pre_quant"],
    ),
    ("[arm.x]\nmodel=3\n", ["arm.x: model: 3 is an integer; give a table"]),
    ("[arm]\nx=3\n", ["arm.x: 3 is an integer; give a table"]),
    (
        "[arm.x]\nmodel.seq_len=384\n",
        [
            "arm.x: budget.batch_tokens: 512 is no multiple of model.seq_len 384; give whole rows, say 384",
            "data.span: 384 is no multiple of model.seq_len 256; set data.span to a common multiple of every seq_len",
            "arm.rope: data.span: 384 is no multiple of model.seq_len 256; set data.span to a common multiple of every seq_len",
        ],
    ),
    (
        "[arm.x]\nmodel.seq_len=128\n[arm.y]\nmodel.seq_len=512\n[arm.z]\ndata.span=300\n",
        ["arm.z: data.span: 300 is no multiple of model.seq_len 256; give a multiple of 256"],
    ),
    (
        "[factorial.f]\nmodel.local.window=[16,32]\n",
        ["factorial.f: fewer than two factors cannot interact; declare arms, or add a factor"],
    ),
    (
        "[factorial.f]\nmodel.local.window=[16,32]\nmodel.seq_len=[512,1024]\n",
        ["factorial.f: model.seq_len: the baseline's own level is missing; add 256 to the list"],
    ),
    (
        "[factorial.f]\nmodel.seq_len=[256,512]\nstage.pre_quant.windows.local=[16,32]\n",
        [
            "factorial.f: stage.pre_quant.windows.local: the baseline's own level is missing; "
            "give the baseline one of the list"
        ],
    ),
    (
        "[factorial.f]\nmodel.local.window=[16,32,32]\nmodel.seq_len=512\n",
        [
            "factorial.f: model.local.window: the level 32 is there twice; remove one",
            "factorial.f: model.seq_len: 512 is no list of levels; give two or more, the baseline's among them",
        ],
    ),
    (
        "[factorial.f]\nmodel.local.widow=[16,32]\nmodel.softcap=[0,-1.0]\n",
        [
            "factorial.f: widow=16,softcap=0: model.local: the layer kind 'local' has no key 'widow'; did you mean 'window'? known: ...",
            "factorial.f: widow=16,softcap=-1: model.softcap: -1.0 is out of bounds; give a number at least 0",
        ],
    ),
    (
        '[scale.s]\nonly=["ropee"]\nmodell.x=1\n',
        [
            "scale.s: modell: a scale has no key 'modell'; did you mean 'model'? known: arm, budget, data, decision, factorial, limits, model, only, runner, stage, train",
            "scale.s: only: no arm or factorial is called 'ropee'; did you mean 'rope'? known: rope",
        ],
    ),
    (
        '[scale.s]\nstudy.name="x"\nmodel.d_model=7\n',
        [
            "scale.s: study: a scale may not change [study]; it is the same at every scale",
            "scale.s: model.n_heads: d_model 7 cannot be shared out over 4 heads; give a divisor of d_model, or head_dim",
        ],
    ),
    (
        '[scale."a/b"]\n',
        ["scale: 'a/b' cannot name a scale; use letters, digits, - and _, at most 64, a letter or digit first"],
    ),
    ("[[scale]]\nx=1\n", ["scale: [{'x': 1}] is a list; give a table"]),
    (
        '[arm.x.train]\nsalt="xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"\n',
        ["arm.x: train.salt: longer than 64 characters; shorten it"],
    ),
]


@pytest.mark.parametrize(("text", "expected"), BAD)
def test_arm_is_refused(tmp_path: Path, text: str, expected: list[str]) -> None:
    found = [fault.removeprefix("study.toml: ") for fault in faults(tmp_path, edited(more=text))]
    assert len(found) == len(expected), found
    for said, wanted in zip(found, expected, strict=True):
        if wanted.endswith("..."):  # the levers of a slot grow
            assert said.startswith(wanted.removesuffix("..."))
        else:
            assert said == wanted
