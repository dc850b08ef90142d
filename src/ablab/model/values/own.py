"""Each layer's own values."""

from __future__ import annotations

from ablab.model.values.value import Value


class Own(Value):
    """Attention reads the values that its layer projected."""

    source = "the plain form"
