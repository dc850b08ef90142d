"""Everything that can be wrong outside the arms, with the exact message; texts are edits of one small valid study."""

# ruff: noqa: E501  (messages stand here as they are printed)

from __future__ import annotations

from pathlib import Path

import pytest
from tests.study.written import edited, faults

BAD = [
    (
        edited(more="[modle]\nx=1\n"),
        [
            "modle: no section is called 'modle'; did you mean 'model'? known: arm, budget, data, decision, factorial, levers, limits, model, runner, scale, stage, study, train"
        ],
    ),
    (
        edited(("d_model = 64", "d_modle = 64")),
        [
            "model: model has no key 'd_modle'; did you mean 'd_model'? known: ...",
            "model: needs the key 'd_model'; add d_model = 768",
        ],
    ),
    (edited(("d_model = 64", "d_model = true")), ["model.d_model: True is true or false; give an integer"]),
    (edited(("d_model = 64", 'd_model = "64"')), ["model.d_model: '64' is a string; give an integer"]),
    (edited(("d_model = 64", "d_model = 64.5")), ["model.d_model: 64.5 is a number; give an integer"]),
    (
        edited(("d_model = 64", "d_model = -64")),
        ["model.d_model: -64 is out of bounds; give an integer at least 1 and at most 16_777_216"],
    ),
    (edited(("d_model = 64", "d_model = inf")), ["model.d_model: inf is not finite; give a finite number"]),
    (
        edited(("d_model = 64", "d_model = 2024-01-01")),
        ["model.d_model: 2024-01-01 is a date or a time; no setting takes one; did you mean a string?"],
    ),
    (
        edited(("d_model = 64", "d_model = 99999999999999999999999")),
        ["model.d_model: an integer beyond 64 bits; give a smaller one"],
    ),
    (
        edited(("d_model = 64", "d_model = 66")),
        ["model.n_heads: d_model 66 cannot be shared out over 4 heads; give a divisor of d_model, or head_dim"],
    ),
    (
        edited(("d_model = 64\nn_heads = 4", "d_model = 60\nn_heads = 4\nhead_dim=15")),
        [
            "model.local.position: grape_m: head_dim is 15, but a rotation needs pairs of channels; make head_dim even",
            "arm.rope: model.global.position: rope: fraction 1 of head_dim 15 is ...",
        ],
    ),
    (
        edited(("n_kv_heads = 2", "n_kv_heads = 3")),
        ["model.n_kv_heads: 4 query heads cannot be shared out over 3 key/value heads; give a divisor of 4"],
    ),
    (
        edited(("n_kv_heads = 2", "n_kv_heads = 0")),
        ["model.n_kv_heads: 0 is out of bounds; give an integer at least 1 and at most 16_777_216"],
    ),
    (
        edited(("window = 16", "window = 257")),
        [
            "model.local.window: window 257 is longer than seq_len 256; give at most seq_len, or remove it for full attention"
        ],
    ),
    (
        edited(("window = 16", "window = -1")),
        ["model.local.window: -1 is out of bounds; give an integer at least 0 and at most 16_777_216"],
    ),
    (
        edited(("batch_tokens = 512", "batch_tokens = 500")),
        ["budget.batch_tokens: 500 is no multiple of model.seq_len 256; give whole rows, say 512"],
    ),
    (
        edited(("tokens = 200_000\n", "tokens = 200\n")),
        ["budget.tokens: 200 is less than one batch of 512; give more tokens"],
    ),
    (
        edited(("tokens = 200_000\n", "tokens = 200_000\nseconds = 5\n")),
        ["budget: gives both tokens and seconds; keep one"],
    ),
    (
        edited(("tokens = 200_000\n", "")),
        ["budget: gives neither tokens nor seconds; add tokens = ... (or seconds = ...)"],
    ),
    (
        edited(("tokens = 200_000\n", "seconds = 60\n")),
        ["train.validate_every: needed under a budget in seconds; add validate_every = ... (tokens) to [train]"],
    ),
    (
        edited(('"(LG)*2"', '"(LX)*2"')),
        ["model.layers: no layer kind begins with X; add a table [model.x...]; known: G (global), L (local)"],
    ),
    (
        edited(('"(LG)*2"', '"L*2"')),
        [
            "arm.rope: model.global.position: changes nothing: no layer uses it; remove it or give another value",
            "model.global: no layer is of the kind 'global'; write G in layers, or remove the table",
        ],
    ),
    (edited(('"(LG)*2"', '"(LG*2"')), ["model.layers: '(' at character 1 is never closed; add ')'"]),
    (edited(('"(LG)*2"', '"lg"')), ["model.layers: 'l' at character 1 is a small letter; write 'L'"]),
    (edited(('"(LG)*2"', '"LG*1001"')), ["model.layers: more than 1000 layers; repeat less"]),
    (edited(('"(LG)*2"', '""')), ['model.layers: no layer; name layers by letter, as in "(LLLG)*3"']),
    (edited(('"(LG)*2"', "5")), ["model.layers: 5 is an integer; give a string"]),
    (
        edited(('global.position = "nope"', 'global.position = "nope"\nlow.window = 3')),
        ["model.low: the layer kinds 'local' and 'low' have one initial, L; rename one"],
    ),
    (
        edited(('global.position = "nope"', 'global.position = "nope"\npostion.name = "rope"')),
        [
            "model.postion: the layer kind 'postion' has no key 'name'; did you mean model.position?",
            "model.postion: no layer is of the kind 'postion'; did you mean model.position?",
        ],
    ),
    (
        edited(('global.position = "nope"', 'global.position = "nope"\nglobal.widow = 3')),
        ["model.global: the layer kind 'global' has no key 'widow'; did you mean 'window'? known: ..."],
    ),
    (
        edited(('global.position = "nope"', 'global.like = "globle"')),
        ["model.global.like: no layer kind is called 'globle'; known: local"],
    ),
    (
        edited(('global.position = "nope"', 'global.like = "local"\nlocal.like = "global"')),
        [
            "model.local.like: goes in a circle: local -> global -> local; let one of them stand alone",
            "model.global.like: goes in a circle: global -> local -> global; let one of them stand alone",
        ],
    ),
    (
        edited(('global.position = "nope"', 'global.position = "nop"')),
        ["model.global.position: no position is called 'nop'; did you mean 'nope'? known: ..."],
    ),
    (
        edited(('global.position = "nope"', 'global.position = "alibi"')),
        ["model.global.position: no position is called 'alibi'; did you mean 'grape_a'?"],
    ),
    (
        edited(('global.position = "nope"', "global.position = []")),
        ["model.global.position: an empty list; name at least one position"],
    ),
    (
        edited(('global.position = "nope"', 'global.position = ["rope", "rop"]')),
        ["model.global.position[1]: no position is called 'rop'; did you mean 'rope'? known: ..."],
    ),
    (
        edited(('global.position = "nope"', "global.position = 3")),
        ['model.global.position: 3 names no position; write "nope" or { name = "nope" }'],
    ),
    (
        edited(('global.position = "nope"', 'global.position = {name="rope", theta=nan}')),
        ["model.global.position.theta: nan is not finite; give a finite number"],
    ),
    (
        edited(('global.position = "nope"', 'global.position = {name="rope", theta="1"}')),
        ["model.global.position.theta: '1' is a string; give a number"],
    ),
    (
        edited(('global.position = "nope"', 'global.position = {name="rope", fraction=0.3}')),
        ["model.global.position: rope: fraction 0.3 of head_dim 16 is ..."],
    ),
    (
        edited(('global.position = "nope"', 'global.position = "nope"\nposition="rope"')),
        ["model.position: every layer kind names its own, so this one is never used; remove it"],
    ),
    (edited(("lr = 2e-3", "lr = -1")), ["train.optimizer: adamw: lr = -1.0 is negative; choose 0 or more"]),
    (
        edited(("lr = 2e-3", "betas = [0.9]")),
        ["train.optimizer: adamw: betas = [0.9] are no two decays; choose two numbers from 0 to below 1"],
    ),
    (edited(("matters = 0.005", "matters = 0")), ["decision.matters: 0.0 is out of bounds; give a number above 0"]),
    (
        edited(("matters = 0.005", 'matters = 0.005\nmetric="loss"')),
        [
            "decision.metric: 'loss' is not one of its words; known: bits_per_byte, nats_per_final_token, "
            "nats_per_reasoning_token, nats_per_token"
        ],
    ),
    (
        edited(("matters = 0.005", 'matters = 0.005\nstage="pre_quantt"')),
        ["decision.stage: no stage is called 'pre_quantt'; did you mean 'pre_quant'? known: needle, pre_quant"],
    ),
    (
        edited(("matters = 0.005", 'matters = 0.005\nstage="needle"')),
        ["decision.stage: stage 'needle' (needle) does not score the text and cannot decide; choose pre_quant"],
    ),
    (
        edited(("matters = 0.005", "matters = 0.005\nconfidence=95")),
        ["decision.confidence: 95.0 is out of bounds; give a number above 0.5 and below 1"],
    ),
    (
        edited(("matters = 0.005", "matters = 0.005\nseeds=0")),
        ["decision.seeds: 0 is out of bounds; give an integer at least 1 and at most 1_000"],
    ),
    (
        edited(("matters = 0.005", "matters = 0.005\nseeds=true")),
        ["decision.seeds: True is not an integer or a table; give an integer or a table"],
    ),
    (
        edited(("matters = 0.005", "matters = 0.005\nseeds={start=9}")),
        ["decision.seeds: start 9 is more than at_most 8; needed: 1 <= start <= at_most"],
    ),
    (
        edited(("matters = 0.005", "matters = 0.005\nseeds={strat=9}")),
        [
            "decision.seeds: decision.seeds has no key 'strat'; did you mean 'start'? known: at_most, first, keep, probe, start"
        ],
    ),
    (
        edited(("matters = 0.005", "matters = 0.005\nseeds={probe=1}")),
        ['decision.seeds.probe: a probe chooses nothing without keep; add keep = 1 (or "2 sigma")'],
    ),
    (
        edited(("matters = 0.005", 'matters = 0.005\nseeds={keep="2 sigma"}')),
        ['decision.seeds.keep: "2 sigma" needs a probe; add probe = 1'],
    ),
    (
        edited(("matters = 0.005", 'matters = 0.005\nseeds={keep="3 sigma"}')),
        ["decision.seeds.keep: '3 sigma' is not an integer or '2 sigma'; give an integer or '2 sigma'"],
    ),
    (
        edited(("matters = 0.005", "matters = 0.005\nseeds={keep=0}")),
        ["decision.seeds.keep: 0 keeps no arm; give at least 1"],
    ),
    (
        edited(("matters = 0.005", 'matters = 0.005\ntie=["needel"]')),
        ["decision.tie[0]: 'needel' breaks no tie; did you mean 'needle'? known: lowest, needle, prefer X, trajectory"],
    ),
    (
        edited(("matters = 0.005", 'matters = 0.005\ntie=["prefer"]')),
        [
            "decision.tie[0]: 'prefer' breaks no tie; did you mean 'prefer X'? known: lowest, needle, prefer X, trajectory"
        ],
    ),
    (
        edited(("matters = 0.005", 'matters = 0.005\ntie=["prefer ropee"]')),
        ["decision.tie[0]: 'ropee' is no arm and no changed setting; did you mean 'rope'? known: baseline, rope"],
    ),
    (
        edited(("matters = 0.005", 'matters = 0.005\ntie="needle"')),
        ["decision.tie: 'needle' is not a list; give a list (each a string)"],
    ),
    (
        edited(("matters = 0.005", 'matters = 0.005\ntie=["needle"]'), ('needle = { evaluate = "needle" }', "")),
        ['decision.tie[0]: no stage evaluates a needle; add needle = { evaluate = "needle" } to [stage]'],
    ),
    (edited(("matters = 0.005", "")), ["decision: needs the key 'matters'; add matters = 0.005"]),
    (
        edited(more="[limits]\ntrain_seconds=3\nbytes=0\n"),
        [
            "limits: limits has no key 'train_seconds'; did you mean 'stage_seconds'? known: bytes, memory, parameters, seconds, stage_seconds",
            "limits.bytes: 0 is out of bounds; give an integer at least 1",
        ],
    ),
    (
        edited(('source = "python"', "source = []")),
        ['data.source: names nothing; give a file, a pattern, "python" or "mock"'],
    ),
    (
        edited(('source = "python"', "source = 4")),
        ["data.source: 4 is not a string or a list (each a string); give a string or a list (each a string)"],
    ),
    (
        edited(('evaluate = "disjoint" }', 'evaluate = "disjiont" }')),
        ["stage.pre_quant.evaluate: no evaluate is called 'disjiont'; did you mean 'disjoint'? known: ..."],
    ),
    (
        edited(('evaluate = "disjoint" }', 'compress="keep" }')),
        ["stage.pre_quant: needs the key 'evaluate'; add evaluate = \"disjoint\""],
    ),
    (
        edited(('evaluate = "disjoint" }', 'evaluate = "disjoint", after="x" }')),
        ["stage.pre_quant.after: no stage is called 'x'; known: needle"],
    ),
    (
        edited(('evaluate = "disjoint" }', 'evaluate = "disjoint", after="needle", compress="keep" }')),
        ["stage.pre_quant: has both after and compress; after uses the other stage's compressed weights; keep one"],
    ),
    (
        edited(('evaluate = "disjoint" }', 'evaluate = "disjoint", after="pre_quant"}')),
        ["stage.pre_quant.after: goes in a circle: pre_quant -> pre_quant; let one of them compress for itself"],
    ),
    (
        edited(('pre_quant = { evaluate = "disjoint" }', 'pre_quant = "disjoint"')),
        ["stage.pre_quant: 'disjoint' is no table; write { evaluate = \"disjoint\" }"],
    ),
    (
        edited(('name = "toy"', 'name = "../toy"')),
        ["study.name: '../toy' cannot name a study; use letters, digits, - and _, at most 64, a letter or digit first"],
    ),
    (edited(('name = "toy"', 'name = "a\\u0000b"')), ["study.name: a control character in a string; remove it"]),
    (edited(('name = "toy"', 'name = "a')), ["line 3, column 10: not TOML: illegal character '\\n'; see toml.io"]),
    (
        edited(('name = "toy"', 'name = "a"\nname="b"')),
        ["line 4, column 9: not TOML: cannot overwrite a value; see toml.io"],
    ),
    (edited(('name = "toy"', "")), ["study: needs the key 'name'; add name = \"global-position\""]),
]


@pytest.mark.parametrize(("text", "expected"), BAD)
def test_baseline_is_refused(tmp_path: Path, text: str, expected: list[str]) -> None:
    found = [fault.removeprefix("study.toml: ") for fault in faults(tmp_path, text)]
    assert len(found) == len(expected), found
    for said, wanted in zip(found, expected, strict=True):
        if wanted.endswith("..."):  # the levers of a slot grow
            assert said.startswith(wanted.removesuffix("..."))
        else:
            assert said == wanted
