"""For every key of a study that an arm may change a small study with two legal values of it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from tests import every_setting

from ablab.core.toml import dotted, written
from ablab.study.keys import DIFFED, SECTIONS, SLOTS

STUDY: dict[str, Any] = {
    "study": {"name": "every"},
    "decision": {"matters": 0.01, "metric": "bits_per_byte", "stage": "scored", "seeds": 1},
    "budget": {"tokens": 5_120, "batch_tokens": 128},
    "data": {"source": "mock", "valid_bytes": 4_096},
    "model": {
        "layers": "LG",
        "d_model": 16,
        "n_heads": 2,
        "seq_len": 64,
        "local": {"window": 16},
        "global": {},
    },
    "train": {},
    "stage": {
        "first": {"compress": {"name": "rtn", "small": 0}, "evaluate": "disjoint"},
        "scored": {"evaluate": {"name": "disjoint", "documents": 4}},
    },
}
LOOPS = {"model.layers": "L[LG]^2"}
TEXT = {"data.source": "a.txt", "data.text_separator": "\n\n"}
ROWS = {"data.source": "a.jsonl"}
# Of each key: what the baseline needs beside it, its value there (None: the default), and the arm's.
KEYS: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "model.layers": ({}, "LG", "GL"),
    "model.loop_from": (LOOPS, 0.25, 0.5),
    "model.d_model": ({}, 16, 32),
    "model.n_heads": ({}, 2, 4),
    "model.n_kv_heads": ({}, None, 1),
    "model.head_dim": ({}, None, 4),
    "model.seq_len": ({}, 64, 32),
    "model.tied": ({}, None, False),
    "model.qk_norm": ({}, None, "after"),
    "model.softcap": ({}, None, 1.0),
    "model.bias": ({}, None, True),
    "model.norm": ({}, None, "layer"),
    "model.norm_eps": ({}, None, 1e-3),
    "model.init": ({}, None, "orthogonal"),
    "model.init_std": ({}, None, 0.04),
    "model.embed_std": ({}, None, 0.04),
    "model.out_std": ({}, None, 0.04),
    "model.local.window": ({}, 16, 8),
    "train.clip": ({}, None, 0.01),
    "train.ema": ({}, 0.9, 0.5),
    "train.ema_warmup": ({"train.ema": 0.9}, None, 0.0),
    "train.salt": ({}, None, "again"),
    "train.validate_every": ({}, 512, 1024),
    "data.source": (TEXT, "a.txt", "b.txt"),
    "data.valid_source": (TEXT, "b.txt", "c.txt"),
    "data.valid_text_bytes": ({}, None, 4_007),
    "data.text_field": (ROWS, None, "body"),
    "data.text_separator": (TEXT, "\n\n", "\n"),
    "data.valid_fraction": (TEXT, 0.1, 0.2),
    "data.valid_bytes": ({}, 4_096, 8_192),
    "data.order": ({"data.source": "train_tokens", "data.valid_source": "valid_tokens"}, "chunks", "megatron"),
    "data.weights": (
        {"data.source": ["train_tokens", "more_tokens"], "data.valid_source": "valid_tokens", "data.order": "megatron"},
        [1.0, 1.0],
        [1.0, 3.0],
    ),
    "data.span": ({}, 64, 128),
    "budget.tokens": ({}, 5_120, 10_240),
    "budget.batch_tokens": ({}, 128, 256),
    "stage.scored.after": ({}, None, "first"),
    "stage.scored.code": ({}, None, "code.py"),
    "stage.scored.windows": ({}, None, {"local": 8}),
}
# Keys that this sweep cannot try, and where they are tried.
ELSEWHERE = {
    "budget.seconds": "no miniature has a clock: test_inert, averages under a budget in seconds",
    "data.groups": "is refused in an arm: study/test_study_canonical, test_groups",
    "train.validate_bytes": "is the same in every arm: data/test_data_midway",
    "train.weights": "takes files: test_eval_only",
    "kind.like": "is read into the kind's own keys, which are tried: study/test_study_layers",
}


def keys() -> set[str]:
    """Every key of the sections that an arm may change, levers aside, as KEYS and ELSEWHERE spell them."""
    sections = [section for section in (*DIFFED, "kind") if section != "runner"]  # of programs there is no miniature
    found = {f"{section}.{key}" for section in sections for key in SECTIONS[section] if key not in SLOTS}
    spelt = {
        "kind.window": "model.local.window",
        **{f"stage.{key}": f"stage.scored.{key}" for key in SECTIONS["stage"]},
    }
    return {spelt.get(path, path) for path in found}


def answer(folder: Path, path: str) -> str:
    """What a check says of an arm that changes the key: `acts`, `untested`, or `inert`."""
    beside, one, other = KEYS[path]
    write_texts(folder)
    tree = copy.deepcopy(STUDY)
    for key, value in {**beside, path: one}.items():
        if value is not None:
            put(tree, key, value)
    arm: dict[str, Any] = {}
    put(arm, path, other)
    lines = "\n".join(dotted(arm))
    file = folder / "study.toml"
    file.write_text(f"{written(tree)}\n\n[arm.other]\n{lines}\n")
    return every_setting.verdicts(file, folder / "scratch")["other"]


def put(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set a dotted key."""
    *sections, key = path.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[key] = value


def write_texts(folder: Path) -> None:
    """Three texts, rows with two columns, token files, and a script."""
    every_setting.write_spans(folder)
    every_setting.write_tokens(folder, "more", 40, seed=1)
    for start, name in enumerate("abc"):
        lines = [f"line {n} of {n * n % (89 + start)}\n" + "\n" * (n % 7 == 0) for n in range(4_000)]
        (folder / f"{name}.txt").write_text("".join(lines))
    rows = [f'{{"text": "row {n} is {n * n % 97}", "body": "{n * n % 83} is body {n}"}}\n' for n in range(4_000)]
    (folder / "a.jsonl").write_text("".join(rows))
    (folder / "code.py").write_text("print(sum(range(10)))\n")
