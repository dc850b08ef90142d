"""Values: what becomes of a layer's values before attention reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ablab.core.slot import Slot

if TYPE_CHECKING:
    from ablab.model.values.value import Value

slot: Slot[Value] = Slot("value", __name__, base="value.Value", own="Own", residual="Residual")
