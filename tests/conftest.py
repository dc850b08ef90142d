"""What holds for every test."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest


def pytest_configure() -> None:
    """Under `nohup` go on without a terminal, in every process of the suite, and let what tests start hear of its loss.

    A signal that is ignored is ignored by children, too; one that is handled is not.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        os.environ["SUITE_UNDER_NOHUP"] = "1"  # for the processes that pytest starts
    if "SUITE_UNDER_NOHUP" in os.environ:
        signal.signal(signal.SIGHUP, lambda *_: None)


@pytest.fixture(autouse=True)
def a_pipe_of_no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed must not follow the terminal that the suite was started in, nor what a test before left behind."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(autouse=True)
def a_path_of_its_own() -> Iterator[None]:
    """The command takes the folder it stands in off the path, for its children, too: in its own process, not in the suite's."""
    path, safe = list(sys.path), os.environ.get("PYTHONSAFEPATH")
    yield
    sys.path[:] = path
    if safe is None:
        os.environ.pop("PYTHONSAFEPATH", None)
    else:
        os.environ["PYTHONSAFEPATH"] = safe


@pytest.fixture(autouse=True)
def threads_of_its_own() -> Iterator[None]:
    """A test that computes with other threads leaves them to none: on busy cores two threads burn many times what one does."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    yield
    if torch and torch.get_num_threads() != before:
        torch.set_num_threads(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The limit on a hang is meant for tests of seconds."""
    for item in items:
        if item.get_closest_marker("minutes"):
            item.add_marker(pytest.mark.timeout(0))
