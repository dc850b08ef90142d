"""Study files for tests: one small valid text, edited."""

from pathlib import Path

from ablab.core.fault import InvalidStudy
from ablab.study import Study, load

BASE = """
[study]
name = "toy"
question = "Does it?"

[decision]
matters = 0.005

[budget]
tokens = 200_000
batch_tokens = 512

[data]
source = "python"
tokenizer = "bytes"

[model]
layers = "(LG)*2"
d_model = 64
n_heads = 4
n_kv_heads = 2
seq_len = 256
local.window = 16
local.position = { name = "grape_m", learnable = true }
global.position = "nope"

[train]
optimizer = { name = "adamw", lr = 2e-3 }

[stage]
pre_quant = { evaluate = "disjoint" }
needle = { evaluate = "needle" }

[arm.rope]
model.global.position = "rope"
"""


def edited(*pairs: tuple[str, str], more: str = "") -> str:
    """BASE with each (old, new) replaced, and `more` at its end."""
    text = BASE
    for old, new in pairs:
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in the base text"
        text = text.replace(old, new)
    return text + more


def read(folder: Path, text: str | bytes, scale: str | None = None) -> Study:
    """Write `study.toml` into `folder` and load it."""
    path = folder / "study.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load(path, scale)


def faults(folder: Path, text: str | bytes, scale: str | None = None) -> list[str]:
    """Every fault in the text, as printed."""
    try:
        read(folder, text, scale)
    except InvalidStudy as error:
        assert error.exit_code == 3
        assert str(error) == "\n".join(map(str, error.faults))
        return [str(fault) for fault in error.faults]
    return []
