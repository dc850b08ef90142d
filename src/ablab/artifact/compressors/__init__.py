"""Compressors: weights to bytes and back; the size of the artifact is len(bytes)."""

from typing import Any

from ablab.core.slot import Slot

slot: Slot[Any] = Slot("compress", __name__, keep="Keep", rtn="Rtn", gptq="Gptq")
