"""Datasets of the `datasets` library: fetched, or read from a folder, into Arrow files that are read here."""

from __future__ import annotations

import glob
import hashlib
import re
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from ablab.core.fault import CheckFailed, Fault, InvalidStudy, to_install
from ablab.core.files import canonical
from ablab.core.inputs import stamp_of
from ablab.data.formats import arrow

if TYPE_CHECKING:
    from datasets import Dataset

_FORM = 'write "hf:NAME[@REVISION][#CONFIGURATION][:SPLIT]"'
_SLICES = 'write a split, a slice of it ("train[:100]", "train[90%:]", "train[10:20]"), or several joined by +'


class HubName(NamedTuple):
    """A dataset as a source names it: `owner/name` or a folder of data files."""

    name: str
    revision: str = ""
    config: str = ""
    split: str = ""


class ArrowRows(NamedTuple):
    """Rows `start` to `stop` of an Arrow file of `rows`; `name` is what to call the file."""

    path: Path
    name: str
    start: int
    stop: int
    rows: int

    @property
    def whole(self) -> bool:
        return (self.start, self.stop) == (0, self.rows)


def named(source: str, place: str = "SOURCE", folder: Path | None = None) -> HubName:
    """Split `hf:NAME[@REVISION][#CONFIGURATION][:SPLIT]` into its parts. InvalidStudy where it is something else.

    A folder's own name may hold any of the marks: the longest beginning that is a folder (in `folder`) is the name.
    """
    text = source.removeprefix("hf:")
    cuts = [at for at, letter in enumerate(text) if letter in "@#:"] + [len(text)]
    at = next((cut for cut in reversed(cuts) if text[:cut].strip("/.") and _at(text[:cut], folder).is_dir()), cuts[0])
    name = text[:at]
    parts = re.fullmatch(r"(?:@([^#:]*))?(?:#([^:]*))?(?::(.*))?", text[at:], re.DOTALL)
    if not name or parts is None:
        raise InvalidStudy(Fault(place, f"'{source}' names no dataset", _FORM))
    return HubName(name, *(part or "" for part in parts.groups()))


def located(source: str, folder: Path) -> str:
    """Return `source` with a folder of data files named from the root, where one of that name lies in `folder`."""
    try:
        one = named(source, folder=folder)
    except InvalidStudy:
        return source  # who reads it says so
    rest = source.removeprefix("hf:")[len(one.name) :]
    return f"hf:{_at(one.name, folder)}{rest}" if _at(one.name, folder).is_dir() else source


def arrow_files(source: str, place: str = "SOURCE") -> list[ArrowRows]:
    """List the Arrow files that `source` (see named) stands for, in order; the split is `train` by default.

    A split may be sliced and joined as in the library: train[:100], train[90%:], train+validation. `place`, which errors
    name, is where it was written. CheckFailed where the library is missing or cannot load it, or no row is named.
    """
    one = named(source, place)
    try:
        import datasets
    except ModuleNotFoundError as error:
        cure = f"{to_install('datasets')}, or give .parquet files"
        fault = f"'{source}' needs the package '{error.name}', which is not installed"
        raise CheckFailed(Fault(place, fault, cure)) from None
    try:
        wanted = datasets.ReadInstruction.from_spec(one.split or "train")
    except (ValueError, AssertionError):
        raise InvalidStudy(Fault(place, f"'{source}': '{one.split}' names no rows", _SLICES)) from None
    loaded = _loaded(datasets, one, source, place)
    try:
        pieces = wanted.to_absolute({split: table.num_rows for split, table in loaded.items()})
    except (ValueError, AssertionError):
        fault = f"'{source}' has no split '{one.split or 'train'}'; it has {', '.join(loaded)}"
        raise CheckFailed(Fault(place, fault, _SLICES)) from None
    files: list[ArrowRows] = []
    for piece in pieces:
        files += _cut(loaded[piece.splitname], piece.from_ or 0, piece.to, one, source, place)
    if not files:
        rows = ", ".join(f"{table.num_rows:,} in {split}" for split, table in loaded.items())
        raise CheckFailed(Fault(place, f"'{source}' names no row: there are {rows}", "name rows that exist"))
    return files


def _loaded(datasets: ModuleType, one: HubName, source: str, place: str) -> dict[str, Dataset]:
    """Load every split of the dataset; the library prepares all of them anyway."""
    local = Path(one.name).is_dir()
    if local and glob.has_magic(str(Path(one.name).resolve())):
        cure = f"rename the folder, or name its files: '{one.name}/*.parquet' (.jsonl, .arrow, .txt)"
        raise CheckFailed(Fault(place, f"'{source}': the library takes the folder's name for a pattern", cure))
    # of a folder's files the library remembers times alone: another file of that time would not be read
    kept = str(Path(datasets.config.HF_DATASETS_CACHE) / "ablab" / _stamps(Path(one.name))) if local else None
    try:
        return dict(
            datasets.load_dataset(one.name, one.config or None, revision=one.revision or None, cache_dir=kept).items()
        )
    except Exception as error:  # whatever the library and the network raise: it is the source that cannot be read
        said = " ".join(str(error).split())
        configs = re.search(r"Config name is missing.*?\[(.*?)\]", said) or re.search(r"Available: \[(.*?)\]", said)
        if configs is None:
            fault = f"'{source}' cannot be loaded ({type(error).__name__}: {said[:300]})"
            raise CheckFailed(Fault(place, fault, "check the name, the split and the network")) from error
        known = [config.strip().strip("'\"") for config in configs[1].split(",")]
        what = f"has no configuration '{one.config}'" if one.config else f"has {len(known)} configurations"
        first = f"hf:{one.name}{'@' * bool(one.revision)}{one.revision}#{known[0]}{':' * bool(one.split)}{one.split}"
        fault = f"'{source}' {what}; known: {', '.join(known[:20])}"
        raise CheckFailed(Fault(place, fault, f'name one behind #: "{first}"')) from None


def _cut(table: Dataset, start: int, stop: int, one: HubName, source: str, place: str) -> list[ArrowRows]:
    """Cut rows `start` to `stop` of a split, file by file."""
    paths = [Path(entry["filename"]) for entry in table.cache_files]
    shown = Path(one.name).name if Path(one.name).exists() else one.name
    files, first = [], 0
    for path in paths:
        rows = arrow.rows_of(path)
        low, high = max(start - first, 0), min(stop - first, rows)
        if low < high:
            files.append(ArrowRows(path, f"hf:{shown}/{path.name}", low, high, rows))
        first += rows
    if first != table.num_rows:
        fault = f"'{source}' is not kept in files" if not paths else f"'{source}' has {first:,} rows in its files, "
        fault += f"{table.num_rows:,} by the library" if paths else ""
        raise CheckFailed(Fault(place, fault, "save it as .parquet and name that"))
    return files


def _at(name: str, folder: Path | None) -> Path:
    return Path(name) if folder is None else folder / name


def _stamps(folder: Path) -> str:
    """Make a name for the files in `folder` as they are now."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    listed = [[path.relative_to(folder).as_posix(), *stamp_of(path)] for path in files]
    return hashlib.sha256(canonical([str(folder.resolve()), listed]).encode()).hexdigest()[:32]
