"""The plain residual stream."""

from __future__ import annotations

from ablab.model.residuals.stream import Stream


class Plain(Stream):
    """x plus the branches' outputs, nothing scaled."""

    source = "the plain form"
