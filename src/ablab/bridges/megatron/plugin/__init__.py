"""The plugin for the Megatron-Core that pip installs: an arm trained by Megatron, without a fork."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablab.core.fault import CheckFailed, Fault, to_install

if TYPE_CHECKING:
    from ablab.bridges.megatron.plugin.specs import Spec

OLDEST = (0, 16, 1)  # what the plugin is tested with
NEWEST = (0, 16)  # its series: others have other layers
TESTED = f"megatron-core=={'.'.join(map(str, OLDEST))}"


def spec(study: Path | str, arm: str, *, scale: str | None = None, seed: int = 0, **changes: Any) -> Spec:
    """Return what Megatron-Core's GPTModel is built from for an arm (or `baseline`) of a study file.

    seed: of the run, whose first numbers the parts have. changes: fields of TransformerConfig that say how the work is done
    (tensor_model_parallel_size, ...). Raises CheckFailed where megatron-core is missing or another, and with everything of
    the arm that has no place; InvalidStudy where a change says otherwise than the arm.
    """
    from ablab import study as studies
    from ablab.bridges.megatron.plugin.express import express

    look()
    read = studies.load(Path(study), scale)
    read.trained_here("training an arm in Megatron-Core")
    expressed = express(read.arm(arm).settings, arm)
    from ablab.bridges.megatron.plugin import specs

    return specs.spec(expressed, seed=seed, **changes)


def look() -> None:
    """Refuse to go on without a megatron-core that the plugin knows; nothing of it is imported for that."""
    wanted = f"{'.'.join(map(str, OLDEST))} or a later one of {'.'.join(map(str, NEWEST))}"
    try:
        found = metadata.version("megatron-core")
    except metadata.PackageNotFoundError:
        cure = f"{to_install(TESTED)}; {wanted} will do"
        raise CheckFailed(Fault("megatron-core", "is not installed", cure)) from None
    numbers = tuple(int(part) for part in re.findall(r"\d+", found)[:3])
    if numbers[:2] != NEWEST or numbers < OLDEST:
        text = f"is {found}, and the plugin knows {wanted}"
        raise CheckFailed(Fault("megatron-core", text, to_install(TESTED)))
