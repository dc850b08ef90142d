"""Optimizers: parameters by role to updates."""

from ablab.slot import Slot

slot = Slot("optimizer", __name__, adamw="AdamW", muon="Muon", normuon="NorMuon")
