"""Datasets of the `datasets` library: fetched, or read from a folder, into Arrow files that are read here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ablab.fault import Fault, GateFailed, InvalidStudy, to_install


def arrow_files(source: str, place: str = "SOURCE") -> list[tuple[Path, str]]:
    """The Arrow files of `hf:NAME[@REVISION][:SPLIT]`, and what to call each; the split is `train` by default.

    NAME is `owner/name` or a folder of data files; `place`, which errors name, is where it was written. GateFailed where
    the library is missing or cannot load it.
    """
    name, _, split = source.removeprefix("hf:").partition(":")
    name, _, revision = name.partition("@")
    if not name:
        raise InvalidStudy(Fault(place, f"'{source}' names no dataset", 'write "hf:owner/name"'))
    try:
        import datasets
    except ModuleNotFoundError as error:
        cure = f"{to_install('datasets')}, or give .parquet files"
        fault = f"'{source}' needs the package '{error.name}', which is not installed"
        raise GateFailed(Fault(place, fault, cure)) from None
    try:
        loaded: Any = datasets.load_dataset(name, split=split or "train", revision=revision or None)
    except Exception as error:  # whatever the library and the network raise: it is the source that cannot be read
        fault = f"'{source}' cannot be loaded ({type(error).__name__}: {' '.join(str(error).split())[:300]})"
        raise GateFailed(Fault(place, fault, "check the name, the split and the network")) from error
    paths = [Path(entry["filename"]) for entry in loaded.cache_files]
    if not paths:
        raise GateFailed(Fault(place, f"'{source}' is not kept in files", "save it as .parquet and name that"))
    shown = Path(name).name if Path(name).exists() else name
    return [(path, f"hf:{shown}/{path.name}") for path in paths]
