"""What holds for every test."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def a_pipe_of_no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed must not follow the terminal that the suite was started in, nor what a test before left behind."""
    monkeypatch.delenv("COLUMNS", raising=False)
