"""What kind of token data lies at a place that a user names."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from ablab.core.fault import CheckFailed, Fault
from ablab.core.files import read_json
from ablab.core.forms import fits, misfit
from ablab.core.sealed import changed
from ablab.data.formats.indexed import bare, paths
from ablab.records.harmony import HarmonyManifest, Shard

MANIFEST = "manifest.json"
_SPLITS = ("train", "valid")
AGAIN = "build the dataset again"


class Located(NamedTuple):
    """`kind` "megatron": `path` is a prefix; "shard": a file of uint16; "folder": it holds the manifest of a build.

    `manifest` is that of the folder, or of the build that a prefix belongs to; None where there is none.
    """

    kind: Literal["megatron", "shard", "folder"]
    path: Path
    manifest: HarmonyManifest | None = None


def locate(place: Path | str, *, whole: bool = True) -> Located:
    """Locate a prefix (with or without `_tokens`, .bin, .idx), a .bin shard, or a build's folder. CheckFailed for all else.

    A manifest that was changed after it was written is refused, unless not `whole`: who looks for all faults says so.
    """
    place = Path(place)
    if place.is_dir():
        if not (place / MANIFEST).is_file():
            cure = "name a prefix or a file in it, or a folder that `ablab data build` made"
            raise CheckFailed(Fault(str(place), f"is a folder without {MANIFEST}", cure))
        return Located("folder", place, harmony_manifest(place / MANIFEST, whole=whole))
    prefix = bare(place)
    named_file = place.is_file()
    for name in (prefix, Path(f"{prefix}_tokens")):
        bin_path, idx_path = paths(name)
        # a .bin alone is a shard where the file itself is named; as a prefix it is half-written, which its opening says
        if idx_path.exists() or (bin_path.exists() and not named_file):
            return Located("megatron", name, _manifest_above(name.parent.parent / MANIFEST, whole))
    if named_file and place.suffix == ".bin":
        return Located("shard", place)
    if named_file:
        cure = "name a .bin shard, a .bin/.idx prefix, or the folder of a build"
        raise CheckFailed(Fault(str(place), f"has the suffix '{place.suffix}', which no token file has", cure))
    fault = f"is no prefix (there is no {prefix.name}.idx and no {prefix.name}_tokens.idx), no file and no folder"
    raise CheckFailed(Fault(str(place), fault, "check the path"))


def harmony_manifest(path: Path, *, whole: bool = True) -> HarmonyManifest:
    """Read a Harmony build's manifest. CheckFailed where it is unreadable, of another kind, incomplete or (`whole`) changed."""
    record: object = read_json(path)
    kind = record.get("kind") if isinstance(record, dict) else None
    if kind != "harmony":
        cure = "give the folder of `ablab data build harmony`, or a prefix or shard"
        raise CheckFailed(Fault(str(path), f"is of kind {kind!r}, not 'harmony'", cure))
    if not fits(record, HarmonyManifest):
        raise CheckFailed(Fault(str(path), misfit(record, HarmonyManifest), AGAIN))
    if record["splits"].keys() < set(_SPLITS):
        raise CheckFailed(Fault(str(path), f"does not hold splits ({', '.join(_SPLITS)})", AGAIN))
    if others := sorted(record["splits"].keys() - set(_SPLITS)):
        raise CheckFailed(Fault(str(path), f"holds the split {others[0]!r}; known: {', '.join(_SPLITS)}", AGAIN))
    if not record["tokenizer"]["sha256"]:
        raise CheckFailed(Fault(str(path), "names no sha256 of the tokenizer that made it", AGAIN))
    if whole and (fault := changed(record, path, AGAIN)):
        raise CheckFailed(fault)
    return record


def shards_of(manifest: HarmonyManifest, path: Path) -> list[tuple[str, Shard]]:
    """List (split, shard) in the manifest's order. CheckFailed where an entry names what is not in the folder."""
    shards = []
    for split, entry in manifest["splits"].items():
        for shard in entry["shards"]:
            for name in (shard["name"], *shard["files"]):
                if leaves(name):
                    raise CheckFailed(Fault(str(path), f"lists {name!r}, which lies outside of the folder", AGAIN))
            shards.append((split, shard))
    return shards


def leaves(name: str) -> bool:
    """Tell whether a listed name is no plain path inside of the folder."""
    return Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name


def prefix_of(folder: Path, split: str, shard: Shard) -> Path:
    """Return the token prefix of a shard of a build."""
    return folder / split / f"{shard['name']}_tokens"


def _manifest_above(path: Path, whole: bool) -> HarmonyManifest | None:
    """Read the manifest of the build that a prefix lies in; None where there is none, or only a file of that name."""
    try:
        manifest = read_json(path)
    except CheckFailed:
        return None
    ours = isinstance(manifest, dict) and manifest.get("kind") == "harmony"
    return harmony_manifest(path, whole=whole) if ours else None
