"""Studies of one long line: whatever stands in it, they are read or refused in a time that grows with their length."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ablab.core.fault import InvalidStudy
from ablab.study import load

N = 200_000
BASE = """
study = { name = "f", question = "q" }
decision = { metric = "nats_per_token", stage = "pre_quant", matters = 0.01, seeds = 1 }
budget = { tokens = 5_120, batch_tokens = 256 }
data = { source = "mock", valid_bytes = 2000, valid_fraction = 0.02 }
model = { layers = "G", d_model = 32, n_heads = 2, seq_len = 64, global = { position = "rope" } }
"""
LINES = {
    "blanks": " " * N + "x = 1",
    "blanks and tabs": " \t" * (N // 2) + "x = 1",
    "blanks behind": "x = 1" + " " * N,
    "blanks in a table": "[" + " " * N + "x]",
    "blanks behind a part": "x" + " " * N + ".y = 1",
    "blanks between parts": ("x" + " " * (N // 10) + ".") * 10 + "y = 1",
    "brackets": "[" * N,
    "brackets and blanks": "[ " * (N // 2),
    "dots": "a." * (N // 2) + "b = 1",
    "dots alone": "." * N,
    "quotes": '"' * N,
    "apostrophes": "'" * N,
    "parts in quotes": '"a".' * (N // 4) + "x = 1",
    "a quote without an end": '"' + "a." * (N // 2),
    "numbers": "x = [" + "1," * (N // 2) + "]",
    "lists": "x = [" + "[]," * (N // 3) + "]",
    "nested lists": "x = " + "[" * N,
    "keys of a table": "x = {" + ",".join(f"a{i} = 1" for i in range(N // 10)) + "}",
    "a key": "k" * N + " = 1",
    "digits": "x = " + "1" * N,
    "escapes": 'x = "' + "\\u0041" * (N // 6) + '"',
    "backslashes": 'x = "' + "\\\\" * (N // 2),
    "a comment": "#" * N,
    "arrays of tables": "[[x]]\n" * (N // 6),
    "fifteen parts, many times": "".join("a." * 15 + f"b{i} = 1\n" for i in range(N // 40)),
    "layers": '[arm.x]\nmodel.layers = "' + "(G" * (N // 2) + '"',
    "layers times": '[arm.x]\nmodel.layers = "G' + "*9" * (N // 2) + '"',
    "a lever": '[arm.x]\nmodel.softmax = "' + "s" * N + '"',
    "factors": "[factorial.x]\n" + "\n".join(f"model.a{i} = [1, 2]" for i in range(N // 20)),
    "factorials": "\n".join(f"factorial.x{i}.model.a{i} = [1, 2]" for i in range(N // 36)),
    "levels": "[factorial.x]\nmodel.mlp = [" + "'swiglu'," * (N // 9) + "]",
    "stages": "\n".join(f"[stage.s{i}]\ncodec = 'zstd'" for i in range(N // 26)),
    "limits": "[limits]\n" + "\n".join(f"l{i} = 1" for i in range(N // 10)),
}


@pytest.mark.parametrize("line", LINES)
def test_a_long_line_takes_linear_time(tmp_path: Path, line: str) -> None:
    """In quadratic time these took from 7 s to ten minutes of computing; linear, less than one."""
    path = tmp_path / "study.toml"
    path.write_text(BASE + LINES[line] + "\n")
    begun = time.process_time()
    with pytest.raises(InvalidStudy):
        load(path)
    assert time.process_time() - begun < 5
