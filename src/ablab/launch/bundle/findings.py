"""The result of auditing a bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypedDict

from ablab.core.fault import Refused

SHOWN = 8  # differences that are listed


class Retrained(TypedDict):
    """A bundled run beside the one made again here.

    alike: whether code, machine, torch and threads are those of the bundle, so that every bit must agree, of the records too
    but for clocks. differences: of the stages' deciding metric. holds: bit for bit, or where not alike within the tolerance;
    what is counted (steps, tokens, bytes of text, documents) must agree everywhere, and so must the violations.
    """

    arm: str
    seed: int
    holds: bool
    sentence: str
    differences: dict[str, float]
    alike: bool | None


@dataclass
class Audit:
    """The result of an audit, in sentences: what holds, what does not, and what a reader must know besides.

    retrained is the run that was made again, if any.
    """

    key: str
    held: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    noted: list[str] = field(default_factory=list)
    retrained: Retrained | None = None

    def as_json(self) -> dict[str, object]:
        return {
            "bundle": self.key,
            "holds": not self.broken,
            "held": self.held,
            "broken": self.broken,
            "noted": self.noted,
            "retrained": self.retrained,
        }

    def take(self, held: str, look: Callable[[], list[str]]) -> None:
        """Do one check: adds the sentence where it sees nothing, else what it sees."""
        try:
            broken = look()
        except Refused as refused:
            broken = [f"{fault.place}: {fault.fault}" for fault in refused.faults]
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # a record of any other form than ablab writes stops whatever reads it, somewhere
            broken = [f"cannot be looked through whether {held} ({type(error).__name__}: {error})"]
        if broken:
            more = len(broken) - SHOWN
            self.broken += broken[:SHOWN] + ([f"and {more} more of this kind"] if more > 0 else [])
        else:
            self.held.append(held)
