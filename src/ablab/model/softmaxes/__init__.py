"""Softmaxes: what competes with the keys for the attention mass."""

from ablab.core.slot import Slot

slot = Slot("softmax", __name__, aliases={"learnable": "sink"}, vanilla="Vanilla", off_by_one="OffByOne", sink="Sink")
