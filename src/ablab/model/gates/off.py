"""No gate."""

from __future__ import annotations

from ablab.model.gates.output_gate import OutputGate


class Off(OutputGate):
    """Attention's output goes to the output matrix as it is."""

    source = "the plain form"
