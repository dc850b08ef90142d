"""Work done beside the dispatcher, which goes on hearing workers: which runs are wanted, and the page of those there are."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from ablab.runtime import signals

Answer = TypeVar("Answer")


class Beside(Generic[Answer]):
    """A thread that does `work` after it was asked to; requests that come while it works are one more time together.

    ring() is called in that thread when it has an answer, or a fault.
    """

    def __init__(self, work: Callable[[], Answer], ring: Callable[[], object] = lambda: None) -> None:
        self._work, self._ring, self._turn = work, ring, threading.Condition()
        self._asked = self._closing = False
        self._answer: Answer | None = None
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

    def take(self) -> Answer | None:
        """Return the result of the work, once; None where nothing new is there. Raises what it has raised."""
        self.check()
        with self._turn:
            answer, self._answer = self._answer, None
        return answer

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
                answer = self._work()
                with self._turn:
                    self._answer = answer
            except BaseException as error:  # raised again where it is looked for
                self._fault = error
            self._ring()
