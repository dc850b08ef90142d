"""The study file: one question, a rule written before any result, a baseline, and arms that each change one thing."""

from ablab.study.load import load
from ablab.study.record import BASELINE, Arm, Change, Study

__all__ = ["BASELINE", "Arm", "Change", "Study", "load"]
