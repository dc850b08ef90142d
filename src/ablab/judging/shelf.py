"""Which study's page lies in a study's folder: one name may have had several, and none of them is lost.

`studies/NAME/` holds the verdict, the pages and the study file of the version that was judged last. A version is what the
study asks together with the keys of its runs: another question under the name, an edited arm, another line of data or another
revision of a component is another version. The pages that lay there before are in `earlier/VERSION/`.
"""

from __future__ import annotations

import datetime
from pathlib import Path

from ablab.core import places
from ablab.core.fault import CheckFailed
from ablab.core.files import key_of, read_json
from ablab.records.answer import Earlier, Kept
from ablab.runs.plan import Plan

PAGES = ("verdict.json", "report.html", "report.md", "study.toml")


def version(plan: Plan) -> str:
    """Make the key of what the study asks and of every run that answers it."""
    keys = {key for run in plan.runs.values() for key in (run.train_key, *run.score_keys.values())}
    return key_of([plan.study.key, sorted(keys)])[:16]


def lying(folder: Path) -> Kept | None:
    """Read the verdict in a folder; None where there is none, or none that can be read: it would be made again."""
    try:
        return read_json(folder / "verdict.json", form=Kept)
    except CheckFailed:
        return None


def make_room(plan: Plan) -> Path | None:
    """Move what lies in the study's folder to `earlier/` if it is of another version; where it went."""
    other = lying(plan.directory)
    if other is None or other.get("version") == version(plan):
        return None
    place = places.folder(place_of(plan, other))
    for name in PAGES:
        if (plan.directory / name).exists():
            (plan.directory / name).replace(place / name)
    return place


def earlier(plan: Plan) -> list[Earlier]:
    """List every other version that was judged under this name: its folder, question and date."""
    others = list[Earlier]()
    for folder in sorted((plan.directory / "earlier").glob("*")):
        if folder.name != version(plan) and (other := lying(folder)) is not None:
            others.append(
                {"at": f"earlier/{folder.name}", "question": str(other.get("question", "")), "judged": when(other)}
            )
    return others


def place_of(plan: Plan, other: Kept) -> Path:
    """Return where another version's pages go. One without a name of its own is named by what it says."""
    name = other.get("version")
    return plan.directory / "earlier" / (name if isinstance(name, str) and name.isalnum() else key_of(str(other))[:16])


def when(other: Kept) -> str:
    """Return the date of a verdict, if it is one."""
    judged = (other.get("environment") or {}).get("judged")
    try:
        return datetime.datetime.fromisoformat(str(judged)).isoformat(" ", "minutes")
    except ValueError:
        return "at an unknown time"
