"""Tiny corpora for the data floor's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.data.tiny import settings

from ablab.data import Corpus, prepare


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Corpus]:
    """make(list of texts, settings...) -> a byte corpus of them."""

    def made(documents: list[str], **changed: Any) -> Corpus:
        folder = tmp_path / "texts"
        folder.mkdir(exist_ok=True)
        for i, text in enumerate(documents):
            (folder / f"{i:04}.txt").write_bytes(text.encode())
        return prepare(settings(f"{folder}/*.txt", **changed), tmp_path / "out", say=lambda _: None)

    return made
