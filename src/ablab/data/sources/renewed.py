"""Sources that have changed since a corpus was made of them: said before everything is trained again on another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ablab.core.fault import Refused
from ablab.data.corpus.corpus import read_manifest
from ablab.records.corpus import Manifest

_MOST_READ = 64  # manifests, the newest
_MOST_SAID = 3  # sources that are named


def renewed(root: Path, identity: Mapping[str, object], inputs: Sequence[Mapping[str, object]]) -> str:
    """Warn where the newest corpus of `root` that was asked for alike was made of the same sources with other content.

    identity, inputs: of the corpus that is about to be made, as its manifest will hold them. "" where there is none.
    """
    now = {str(one["source"]): str(one["sha256"]) for one in inputs}
    for manifest in _manifests(root):
        if _asked(manifest["identity"]) != _asked(identity):
            continue
        before = {str(one["source"]): str(one["sha256"]) for one in manifest["inputs"]}
        changed = [name for name in now if before.get(name, now[name]) != now[name]]
        if not changed:
            continue
        many = "has" if len(changed) == 1 else "have"
        more = f" and {len(changed) - _MOST_SAID} more" if len(changed) > _MOST_SAID else ""
        named = ", ".join(changed[:_MOST_SAID]) + more
        was = f"sha256 {before[changed[0]][:12]} is now {now[changed[0]][:12]}"
        cure = "put back what was there to keep the results that were made of it"
        return (
            f"data: warning: {named} {many} changed since corpus {str(manifest['key'])[:8]} was made ({was}): "
            f"this is another corpus, and all runs are trained again; {cure}"
        )
    return ""


def _asked(identity: Mapping[str, object]) -> dict[str, object]:
    """Return what was asked, whatever the sources held."""
    return {name: value for name, value in identity.items() if name != "sources"}


def _manifests(root: Path) -> Iterator[Manifest]:
    files = []
    for file in root.glob("*/manifest.json"):
        with suppress(OSError):
            files.append((file.stat().st_mtime, file))
    for _, file in sorted(files, reverse=True)[:_MOST_READ]:
        with suppress(Refused, OSError, KeyError, TypeError):
            yield read_manifest(file.parent)
