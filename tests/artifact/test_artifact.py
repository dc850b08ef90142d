"""The artifact: what its account says, and the bytes of the code beside it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from tests import tiny

from ablab.artifact import code as script
from ablab.artifact import codecs, compressors, container
from ablab.artifact import pack as artifact
from ablab.artifact.arrays import Array, Packed
from ablab.core.fault import Interrupted
from ablab.core.rng import stream

WEIGHTS = {"a": torch.arange(600.0).reshape(20, 30), "b": torch.zeros(7, dtype=torch.bfloat16)}


def keep(codec: Any = "raw") -> tuple[bytes, dict[str, Any]]:
    return artifact.pack(tiny.choice(compressors.slot, "keep"), tiny.choice(codecs.slot, codec), WEIGHTS)


def coded(monkeypatch: pytest.MonkeyPatch, rows: int, codec: str, predicted: float | None) -> dict[str, Any]:
    """Report of an artifact of int6 codes, clipped at 12.85 standard deviations."""
    draws = stream(0, "codes").standard_normal((rows, 512))
    codes = np.clip(np.round(draws * 31 / 12.85), -31, 31).astype(np.int8)
    parts = [Array("w", codes, 6, "attn"), Array("w:scale", np.ones(rows, np.float16), None, "scale")]
    packed = Packed(parts, {}, {"schemes": {"made": {}}, "predicted_bytes": predicted, "notes": ["first"]})

    class Made:
        def quantise(self, weights: Any, calibration: Any) -> Packed:
            return packed

    monkeypatch.setattr(compressors.slot, "build", lambda choice: Made())
    return artifact.pack({"name": "made"}, tiny.choice(codecs.slot, codec), WEIGHTS)[1]


def test_the_account_of_weights_that_are_kept() -> None:
    blob, report = keep({"name": "brotli", "quality": 5})
    assert report == {
        "schemes": {
            "keep float32": {"tensors": 1, "numbers": 600, "bytes": 2400},
            "keep bfloat16": {"tensors": 1, "numbers": 7, "bytes": 14},
        },
        "predicted_bytes": None,
        "ratio": None,
        "raw_bytes": 2414,
        "codec": "brotli",
        "notes": [],
        "hadamard": [],
        "lqer": [],
    }
    assert len(blob) < 1000 < 2414 < len(keep()[0])
    assert torch.equal(artifact.unpack(blob)["a"], WEIGHTS["a"])


def test_a_file_of_another_size_than_predicted_is_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    formula = 200 * 512 * 3.3176 / 8
    good = coded(monkeypatch, 200, "brotli", formula)
    assert 1.0 < good["ratio"] < 1.05 and good["notes"] == ["first"] and good["schemes"] == {"made": {}}
    large = coded(monkeypatch, 200, "brotli", formula / 1.1)
    assert large["notes"][1] == (
        f"the file is {large['ratio']:.3f} times what the entropy formula predicts; "
        "400 bytes before the codec are scales and numbers that are not rounded"
    )
    small = coded(monkeypatch, 200, "brotli", formula * 1.1)
    assert small["notes"][1] == f"the file is {small['ratio']:.3f} times what the entropy formula predicts"
    raw = coded(monkeypatch, 200, "raw", formula)
    assert raw["notes"][1].endswith(
        " times what the entropy formula predicts: the codec is raw, which does not compress"
    )
    assert coded(monkeypatch, 100, "brotli", formula)["notes"] == ["first"]  # too few codes to say anything
    assert coded(monkeypatch, 200, "raw", None)["ratio"] is None


@pytest.mark.parametrize("codec", ["brotli", "zstd"])
def test_normal_weights_take_what_the_formula_predicts(codec: str) -> None:
    """parameter-golf, PR #1394: files of 1.015 to 1.022 times the entropy of int6 codes at 12.85 standard deviations."""
    drawn = stream(1, "normal").standard_normal((300, 512)).astype(np.float32)
    compress = tiny.choice(compressors.slot, {"name": "rtn", "bits": 6, "sigmas": 12.85})
    blob, report = artifact.pack(
        compress, tiny.choice(codecs.slot, codec), {"layers.0.mlp.up_proj.weight": torch.from_numpy(0.02 * drawn)}
    )
    assert report["ratio"] == len(blob) / report["predicted_bytes"] and 1.01 < report["ratio"] < 1.04
    assert report["schemes"]["rtn int6"]["numbers"] == drawn.size and report["notes"] == []


def test_whole_bytes_of_another_ablab_are_refused_in_words() -> None:
    blob = keep()[0]
    newer = blob[:5] + b"\x07" + blob[6:]
    with pytest.raises(
        ValueError, match=r"^packed weights are of version 7, this ablab reads version 1; pack them again$"
    ):
        artifact.unpack(newer)
    parts = [Array("a", np.zeros(3, np.float32))]
    raw = codecs.slot.build(tiny.choice(codecs.slot, "raw"))
    for meta, said in [
        ({"compress": "later", "meta": {}}, "name the compressor 'later', which this ablab does not have"),
        ({"compress": "keep", "meta": {"types": {"a": "float99"}}}, "are whole, but not what 'keep' restores (Attr"),
        ({"compress": "keep", "meta": 3}, "are whole, but not what 'keep' restores ("),
        ({}, "name no compressor"),
        (None, "do not say how they were made"),
        (["keep"], "do not say how they were made"),
        ({"compress": ["x"], "meta": {}}, "name the compressor '['x']', which this ablab does not have"),
    ]:
        with pytest.raises(ValueError, match=r"^packed weights .*; pack them again$") as refused:
            artifact.unpack(raw.encode(parts, cast(Any, meta)))
        assert said in str(refused.value)
    other = container.write("later", parts, {}, raw.layout, lambda plain: plain)
    with pytest.raises(ValueError, match="packed weights name the codec 'later', which this ablab does not have"):
        artifact.unpack(other)


def test_a_sparse_tensor_is_refused_by_name() -> None:
    compress, codec = tiny.choice(compressors.slot, "keep"), tiny.choice(codecs.slot, "raw")
    with pytest.raises(
        ValueError, match=r"^b is sparse, which cannot be packed; give the numbers themselves, densely$"
    ):
        artifact.pack(compress, codec, {"a": torch.ones(2), "b": torch.eye(3).to_sparse()})


@pytest.mark.parametrize("place", ["expand", "restore"])
def test_an_interruption_is_no_damage(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise Interrupted

    blob = keep()[0]
    owner = codecs.slot.load("raw") if place == "expand" else compressors.slot.load("keep")
    monkeypatch.setattr(owner, place, interrupted)
    with pytest.raises(Interrupted):
        artifact.unpack(blob)


SCRIPT = '''#!/usr/bin/env python3
# -*- coding: latin-1 -*-
"""Module docstring."""
from __future__ import annotations

import sys  # comment


class Empty:
    """Only words."""


class Point:
    """A point."""; "not a docstring, but it would become one"; scale: float = 2.0

    @property
    def x(self) -> "float | None":
        ("A docstring "
         "in pieces")

        return 1 .real if self.scale else .5

    def nested(self, *rest: int, key: str = "# no comment") -> str:
        """Doc é."""
        def inner(): "doc"; return  f"{ {1: 'a  b'}[1] }  {key!r:>20}  {{}}"
        if not rest :
            return inner ( ) + """two
    lines  # kept""" + "" "a" '"'
        elif rest [ 0 ] > 0 \\
                and - 1 < 2 :
            pass
        return r"\\d" + str(1 if rest else-1)


def only(): "doc"
async def later():
\t"""Tabs."""
print(Point().nested(), Point().x, Point().nested(1), only(), Empty().__class__.__name__)
'''


def run(source: bytes, folder: Path) -> str:
    """What the script prints."""
    path = folder / "run.py"
    path.write_bytes(source)
    return subprocess.run([sys.executable, str(path)], capture_output=True, check=True, text=True).stdout


def test_a_minified_script_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_bytes(SCRIPT.encode("latin-1"))
    small = script.minified(script.read(path))
    assert script.minified(small) == small
    assert run(small.encode(), tmp_path) == run(path.read_bytes(), tmp_path)
    assert run(script.wrapped(small), tmp_path) == run(small.encode(), tmp_path)
    assert "oc" not in "".join(line for line in small.split("\n") if not line.startswith("print"))
    assert "class Empty:\n pass\nclass Point:\n scale:float=2.0\n @property\n" in small
    assert "def only():pass\nasync def later():\n pass\n" in small
    assert " return 1 .real if self.scale else.5\n" in small and " elif rest[0]>0 and-1<2:\n" in small
    assert artifact.code_bytes(path) == len(script.wrapped(small)) <= len(small) < len(SCRIPT)


def undocumented(source: str) -> str:
    """The tree without docstrings, and without strings that would become docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            while node.body and isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant):
                if not isinstance(node.body[0].value.value, str):
                    break
                node.body.pop(0)
            if not node.body and not isinstance(node, ast.Module):
                node.body = [ast.Pass()]
    return ast.dump(tree)


STDLIB = Path(sysconfig.get_paths()["stdlib"])
CORPUS = [
    "argparse.py", "ast.py", "dataclasses.py", "tokenize.py", "textwrap.py", "json/decoder.py",
    "asyncio/tasks.py", "collections/__init__.py", "this.py", "keyword.py", "fractions.py", "contextlib.py", "heapq.py",
]  # fmt: skip


@pytest.mark.parametrize("name", CORPUS)
def test_minified_modules_of_the_standard_library_are_the_same_programs(name: str) -> None:
    source = script.read(STDLIB / name)
    small = script.minified(source)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "invalid decimal literal" and its like
        assert undocumented(small) == undocumented(source)
    assert script.minified(small) == small and len(small) < len(source)


def test_the_wrapper_counts_and_the_smaller_codec_wins() -> None:
    large = script.minified(script.read(STDLIB / "argparse.py"))
    made = script.wrapped(large)
    assert (
        made.startswith((b"import brotli,base64\nexec(", b"import lzma,base64\nexec(")) and len(made) < len(large) / 2
    )
    assert script.wrapped("print(1)") == b"print(1)"  # nothing is smaller than so small a script


@pytest.mark.parametrize("name", script.STUBS)
def test_each_wrapper_runs(name: str, tmp_path: Path) -> None:
    source = "\n".join(f"print({i} * 'line')" for i in range(200))
    made = script.wrappers(source)[name]
    assert made.startswith(f"import {name}".encode()) and run(made, tmp_path) == run(source.encode(), tmp_path)


def test_what_is_no_script_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    with pytest.raises(ValueError, match=r"train\.py is no file; give the path of a Python script"):
        artifact.code_bytes(path)
    with pytest.raises(ValueError, match=r"is no file; give the path of a Python script"):
        artifact.code_bytes(tmp_path)
    for content, said in [
        (b"print(1", r"\(line 1: '\(' was never closed\)"),
        (b"x = '\xff'", r"\(line 1: |\(.*invalid"),
        (b"x = 1\0", r"null byte"),
        (b"# coding: nothing\n", r"unknown encoding"),
    ]:
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"is not Python 3\.\d+ .*; give the path of a script that this"
        ) as refused:
            artifact.code_bytes(path)
        assert re.search(said, str(refused.value)) and "None" not in str(refused.value), str(refused.value)
