"""No skips."""

from __future__ import annotations

from ablab.model.skips.skips import Skips


class Straight(Skips):
    """No connection past a layer: the stream alone."""

    source = "the plain form"
