"""Work that is done beside the dispatcher, which goes on giving out runs: the page that is brought up to date."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ablab.runtime import signals


class Beside:
    """A thread that does `work` after it was asked to; requests that come while it works are one more time together."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work, self._turn = work, threading.Condition()
        self._asked = self._closing = False
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="ablab-beside", daemon=True)
        with signals.held_back():  # signals are the main thread's to hear, whose waiting they end
            self._thread.start()

    def ask(self) -> None:
        """Have the work done, from what there is from now on."""
        with self._turn:
            self._asked = True
            self._turn.notify()

    def check(self) -> None:
        """Raise what the work has raised."""
        if self._fault is not None:
            raise self._fault

    def close(self, *, drop: bool = False) -> None:
        """Wait for the work; drop: no more than is being done, for whoever does it once more himself."""
        with self._turn:
            self._closing, self._asked = True, self._asked and not drop
            self._turn.notify()
        self._thread.join()

    def _serve(self) -> None:
        while self._fault is None:
            with self._turn:
                self._turn.wait_for(lambda: self._asked or self._closing)
                if not self._asked:
                    return
                self._asked = False
            try:
                self._work()
            except BaseException as error:  # raised again where it is looked for
                self._fault = error
