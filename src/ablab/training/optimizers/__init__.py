"""Optimizers: parameters by role to updates."""

from ablab.core.slot import Slot

slot = Slot("optimizer", __name__, adamw="AdamW", muon="Muon", normuon="NorMuon")
