"""Values: what becomes of a layer's values before attention reads them."""

from typing import Any

from ablab.core.slot import Slot

slot: Slot[Any] = Slot("value", __name__, own="Own", residual="Residual")
