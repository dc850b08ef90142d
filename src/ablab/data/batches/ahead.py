"""Batches prepared while the step before them is at work."""

from __future__ import annotations

import threading

from ablab.data.batches.stream import Batch, Batches, Fed, Feed


class Ahead(Feed):
    """What `Feed` gives, for a device that works by itself: on a CPU the thread would take its cores.

    While a step is at work, a thread prepares the next one's batch in pinned memory, its hash and its counts; numpy and hashlib
    leave Python to others meanwhile. pinned: where it is not, memory of the common kind (without such a device).
    """

    def __init__(self, batches: Batches, *, pinned: bool = True) -> None:
        super().__init__(batches)
        self.pinned = pinned
        self._next: tuple[threading.Thread, int, str, list[Fed | BaseException]] | None = None

    def take(self, step: int, before: str) -> Fed:
        """Return what step `step` eats; the next one is then prepared. Raises what preparing it raised."""
        fed = self._prepared(step, before) or self._prepare(step, before)
        made = list[Fed | BaseException]()

        def prepare() -> None:
            try:
                made.append(self._prepare(step + 1, fed.token_hash))
            except BaseException as error:  # raised where the batch is taken, if it ever is
                made.append(error)

        # It ends by itself after one batch, and holds nothing that must be put back: nobody waits for it at a run's end.
        thread = threading.Thread(target=prepare, name=f"batch of step {step + 1}", daemon=True)
        self._next = thread, step + 1, fed.token_hash, made
        thread.start()
        return fed

    def _prepared(self, step: int, before: str) -> Fed | None:
        if self._next is None:
            return None
        (thread, *place, made), self._next = self._next, None
        thread.join()
        if place != [step, before]:
            return None
        if isinstance(made[0], BaseException):
            raise made[0]
        return made[0]

    def _prepare(self, step: int, before: str) -> Fed:
        batch = self.batches.batch(step)
        fed = Fed(Batch(*(part.pin_memory() for part in batch)) if self.pinned else batch, before)
        for wanted in ("token_hash", "positions"):  # computed here, off the step's way
            getattr(fed, wanted)
        return fed
