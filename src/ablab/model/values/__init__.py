"""Values: what becomes of a layer's values before attention reads them."""

from ablab.core.slot import Slot

slot = Slot("value", __name__, own="Own", residual="Residual")
