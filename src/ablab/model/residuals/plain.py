"""The plain residual stream."""

from __future__ import annotations

from ablab.model.residuals.stream import ResidualStream


class Plain(ResidualStream):
    """x plus the branches' outputs, nothing scaled."""

    source = "the plain form"
