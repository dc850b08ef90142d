"""What was made by other code, by another torch or on another machine than is at hand: refused unless it is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ablab.core.fault import CheckFailed, Fault
from ablab.records.run import MadeBy
from ablab.runtime import source

FLAG = "--allow-changed-code"
UNTOLD = "whether the code has changed since cannot be told"
UNKNOWN = f"was made before the hash of the source was kept: {UNTOLD}"


def since(kept: MadeBy, here: MadeBy, folder: Path) -> list[str]:
    """List the files, the torch and the machine that differ: what half a run must share with its other half.

    `machine` of both is `ablab.runtime.machine.kind`: chip, instruction set, torch.
    """
    changes = source.changes(kept, here, folder)
    (before, old), (now, new) = (str(one.get("machine", "")).rpartition(", torch ")[::2] for one in (kept, here))
    if "machine" in kept and old != new:
        changes.append(f"torch {old} became {new}")
    if "machine" in kept and before != now:
        changes.append(f"the machine {before} became {now}")
    return changes


def refused(place: Path, what: str, differences: Sequence[str]) -> CheckFailed:
    """Word the refusal of `what` in the folder `place`."""
    fault = f"{what} was made otherwise: {'; '.join(differences)}"
    cure = f"put that back as it was, delete {place} to have it made again, or take it as it is with {FLAG}"
    return CheckFailed(Fault(str(place), fault, cure))
