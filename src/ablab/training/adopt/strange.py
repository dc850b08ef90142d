"""What lies at a path that is no file of weights: folders of shards, archives, other programs' formats."""

from __future__ import annotations

import shlex
import zipfile
from pathlib import Path

from ablab.core.fault import CheckFailed, Fault
from ablab.core.kinds import ANYWHERE, answer, kind_of
from ablab.core.opened import no_file, opened

_JOIN = (
    "import glob, sys; from safetensors.torch import load_file, save_file; "
    "files = sorted(glob.glob(glob.escape(sys.argv[1]) + '/*.safetensors')); "
    "save_file({k: v for f in files for k, v in load_file(f).items()}, sys.argv[2])"
)
_ARRAYS = (
    "import numpy, sys; from safetensors.numpy import save_file; "
    "save_file(dict(numpy.load(sys.argv[1]).items()), sys.argv[2])"
)
_GIVE = "give safetensors, or what torch.save wrote"


def strange(path: Path) -> Fault | None:
    """Say what `path` is instead of weights, and how to make weights of it; None for what should be opened."""
    place = str(path)
    if path.is_dir():
        return Fault(place, *_folder(path))
    if said := no_file(path):
        return Fault(place, said, _GIVE)
    if path.name.endswith(".index.json"):
        return Fault(place, *_folder(path.parent))
    if path.suffix == ".distcp":
        return Fault(place, f"is one shard of a DCP checkpoint: {_folder(path.parent)[0]}", _folder(path.parent)[1])
    kind = kind_of(path) or answer(path)
    if path.suffix == ".onnx" and kind is None:
        return Fault(place, "is an ONNX graph", "give the weights that it was exported from")
    if kind is None or kind.name in ("pickle", "cut zip", "safetensors"):
        return None
    if kind.name == "torch":
        return Fault(place, "is a TorchScript program", "save the state_dict of the module") if _script(path) else None
    if kind.name == "npz":
        cure = f'save its arrays as safetensors: python -P -c "{_ARRAYS}" {shlex.quote(place)} NEW.safetensors'
        return Fault(place, kind.what, cure)
    if kind.name == "gguf":
        return Fault(place, "is a GGUF file (llama.cpp's)", "give the weights it was made from, as safetensors")
    return Fault(place, kind.what, kind.cure if kind.name in ANYWHERE else _GIVE)


def weights_at(path: Path) -> Path:
    """Return `path`. CheckFailed where it is something else than weights."""
    if (other := strange(path)) is not None:
        raise CheckFailed(other)
    return path


def _folder(path: Path) -> tuple[str, str]:
    quoted = shlex.quote(str(path))
    if (path / ".metadata").is_file() or any(path.glob("*.distcp")):
        what = "is a folder that torch.distributed.checkpoint (DCP) wrote"
        return what, f"join it: python -P -m torch.distributed.checkpoint.format_utils dcp_to_torch {quoted} NEW.pt"
    shards = sorted(path.glob("*.safetensors"))
    if len(shards) > 1 or any(path.glob("*.safetensors.index.json")):
        cure = f'join them: python -P -c "{_JOIN}" {quoted} NEW.safetensors'
        return f"is a folder with weights in {len(shards)} shards", cure
    if any(path.glob("*.bin.index.json")):
        return "is a folder with weights in several shards", "save the state_dict to one file"
    files = shards or sorted(file for end in ("pt", "pth", "ckpt", "bin") for file in path.glob(f"*.{end}"))
    return "is a folder", f"name a file in it, such as {files[0]}" if files else f"{_GIVE}, a file for each seed"


def _script(path: Path) -> bool:
    try:
        with opened(path) as file, zipfile.ZipFile(file) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return False
