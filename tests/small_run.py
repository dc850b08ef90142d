"""A study of two arms on a few texts, small enough that a test trains it."""

from __future__ import annotations

from pathlib import Path

from ablab.launch.study import Lab, silent

STUDY = """
[study]
name = "small"
question = "Does it go elsewhere?"
[decision]
metric = "nats_per_token"
stage = "plain"
matters = 0.01
seeds = 1
[budget]
tokens = 512
batch_tokens = 128
[data]
source = "texts/*.txt"
tokenizer = "bytes"
valid_fraction = 0.2
[model]
layers = "LG"
d_model = 16
n_heads = 2
head_dim = 8
seq_len = 64
mlp = "swiglu"
local.window = 8
global.position = "rope"
[stage]
plain = { evaluate = "disjoint" }
[arm.grape]
model.global.position = "grape_m"
"""


def write(folder: Path) -> Path:
    """Write the study and its texts; returns its file."""
    (folder / "texts").mkdir()
    for n in range(60):
        text = f"The {n}th text is no other, as {n} times {n} is {n * n}. " * (1 + 2 * (n % 3 == 0))
        (folder / "texts" / f"{n}.txt").write_text(text)
    (folder / "small.toml").write_text(STUDY)
    return folder / "small.toml"


def trained(folder: Path) -> Lab:
    """Train both arms at one seed."""
    lab = Lab(write(folder), out=folder / "runs", precision="fp32")
    lab.run(jobs=1, say=silent)
    return lab
