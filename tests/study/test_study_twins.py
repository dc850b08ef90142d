"""Two arms that compare the same two models are refused, whatever they are called and however they are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablab.core.fault import InvalidStudy
from ablab.study import load

UNDER = "arm.b: is a under another name"
TWINS = """
[study]
name = "twins"
[decision]
matters = 0.01
[budget]
tokens = 4096
batch_tokens = 512
[data]
source = "mock"
[model]
layers = "LG"
d_model = 32
n_heads = 2
seq_len = 64
local.window = 16
global.position = "rope"
"""


@pytest.mark.parametrize(
    "arms, said",
    [
        ('[arm.a]\nmodel.global.position = "nope"\n[arm.b]\nmodel.global.position = "nope"\n', [UNDER]),
        (
            '[arm.a]\nmodel.global.position = "nope"\n[arm.b]\nmodel.global.position = "nope"\n[arm.c]\n'
            'model.global.position = { name = "nope" }\n',
            [UNDER, "arm.c: is a under"],
        ),
        ("[arm.a]\nmodel.local.window = 0\n[arm.b]\nmodel.local.window = 0\n", [UNDER]),
        ('[arm.a]\nmodel.mlp = "swiglu"\n[arm.b]\nmodel.local.mlp = "swiglu"\nmodel.global.mlp = "swiglu"\n'
         'together = "one"\n', [UNDER]),
        ('[arm.a]\nmodel.global.position = "nope"\n[arm.b]\non = "a"\nmodel.global.position = "rope"\n',
         ["arm.b: is a turned round"]),
    ],
)  # fmt: skip
def test_arms_of_one_contrast_are_refused(tmp_path: Path, arms: str, said: list[str]) -> None:
    (tmp_path / "study.toml").write_text(TWINS + arms)
    with pytest.raises(InvalidStudy) as caught:
        load(tmp_path / "study.toml")
    assert {fault.cure for fault in caught.value.faults} == {"remove one of them"}
    assert all(text in str(caught.value) for text in said) and len(caught.value.faults) == len(said)


@pytest.mark.parametrize(
    "arms",
    [
        '[arm.a]\nmodel.qk_norm = false\n[arm.b]\nmodel.bias = true\n[arm.c]\non = "b"\nmodel.qk_norm = false\n',
        '[arm.a]\ntrain.salt = "1"\n[arm.b]\ntrain.salt = "2"\n',
        '[arm.a]\nmodel.qk_norm = false\nmodel.bias = true\ntogether = "x"\n[arm.b]\nmodel.bias = true\n[arm.c]\non = "b"\n'
        "model.qk_norm = false\n",
    ],
)
def test_arms_on_other_references_or_draws_are_no_twins(tmp_path: Path, arms: str) -> None:
    (tmp_path / "study.toml").write_text(TWINS + arms)
    assert load(tmp_path / "study.toml").arms
