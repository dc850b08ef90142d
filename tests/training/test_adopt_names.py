"""Weights as other programs leave them: names of wrappers, tied heads, folders of shards, archives, other formats."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import tiny
from tests.training.test_adopt import adopted, refused, trained  # noqa: F401  (a fixture)

from ablab.model.decoder import build
from ablab.training.adopt.names import fitted, unwrapped

Weights = dict[str, torch.Tensor]


def own(folder: Path) -> Weights:
    return load_file(folder / "weights.safetensors")


def into(name: str, word: str) -> str:
    """`word` as a wrapper of each layer and its parts puts it."""
    parts = name.split(".")
    return ".".join([*parts[:2], word, *parts[2:-1], word, parts[-1]]) if parts[0] == "layers" else name


NAMES: dict[str, Callable[[str], str]] = {
    "compiled layers": lambda name: into(name, "_orig_mod"),
    "FSDP": lambda name: "_fsdp_wrapped_module." + into(name, "_fsdp_wrapped_module"),
    "FSDP, compiled, checkpointed": lambda name: into(into(name, "_checkpoint_wrapped_module"), "_fsdp_wrapped_module"),
    "DDP of compiled": lambda name: f"module._orig_mod.{name}",
    "compiled DDP": lambda name: f"_orig_mod.module.{name}",
    "Lightning": lambda name: f"model.{name}",
    "Lightning, compiled": lambda name: f"model._orig_mod.{into(name, '_orig_mod')}",
    "Fabric": lambda name: f"_forward_module.model.{name}",
    "DDP in Lightning": lambda name: f"model.module.{name}",
}


@pytest.mark.parametrize("kind", ["safetensors", "pt", "ckpt"])
@pytest.mark.parametrize("how", NAMES)
def test_names_of_wrappers_are_taken_off_at_any_depth(trained: Path, tmp_path: Path, how: str, kind: str) -> None:  # noqa: F811
    weights = own(trained)
    wrapped, file = {NAMES[how](name): tensor for name, tensor in weights.items()}, tmp_path / f"w.{kind}"
    if kind == "safetensors":
        save_file(wrapped, file)
    elif kind == "pt":
        torch.save(wrapped, file)
    else:  # as Lightning's ModelCheckpoint writes it
        torch.save({"epoch": 3, "global_step": 7, "pytorch-lightning_version": "2.5.0", "state_dict": wrapped}, file)
    adopted(file, tmp_path / "out")
    now = own(tmp_path / "out")
    assert now.keys() == weights.keys() and all(torch.equal(now[name], weights[name]) for name in weights)


@pytest.mark.parametrize("keys", [("module",), ("state_dict", "model"), ("model", "module", "state_dict")])
def test_state_dicts_lie_in_one_another(trained: Path, tmp_path: Path, keys: tuple[str, ...]) -> None:  # noqa: F811
    value: Any = own(trained)
    for key in reversed(keys):
        value = {key: value, "step": 5}
    torch.save(value, tmp_path / "w.pt")
    done = adopted(tmp_path / "w.pt", tmp_path / "out")
    assert done["adopted"]["notes"][: len(keys)] == [f"its '{key}' was taken, step left" for key in keys]


def test_two_names_that_become_one_must_be_alike() -> None:
    one = torch.ones(2)
    assert list(unwrapped({"a.w": one, "a._orig_mod.w": one.clone()})) == ["a.w"]
    with pytest.raises(
        ValueError, match=r"holds a\.w twice and not alike, as a\.w and a\._orig_mod\.w; save one of them"
    ):
        unwrapped({"a.w": one, "a._orig_mod.w": 2 * one})
    with pytest.raises(
        ValueError, match=r"FSDP's flattened parameters \(layers\.0\._flat_param\).*full_state_dict=True"
    ):
        unwrapped({"layers.0._flat_param": one})
    assert list(unwrapped({"module.a.w": one, "head.w": one})) == ["module.a.w", "head.w"], "not before every name"


BEFORE = {
    "Lightning beside a loss's weight": ("model.", {"criterion.w": torch.ones(3)}),
    "a state_dict in a state_dict": ("state_dict.model.", {"state_dict.step": torch.ones(1)}),
    "an EMA's copy": ("ema_model.module.", {}),
    "a net": ("net.", {"n_averaged": torch.ones(1)}),
    "Hugging Face's": ("transformer.", {}),
    "a base model": ("base_model.model.", {"base_model.extra.weight": torch.ones(2)}),
    "a module and a compiled model": ("learner.core.", {"metric.total": torch.ones(1), "b": torch.ones(1)}),
}


@pytest.mark.parametrize("how", BEFORE)
def test_what_stands_before_every_name_of_the_model_is_taken_off(trained: Path, tmp_path: Path, how: str) -> None:  # noqa: F811
    weights, (before, others) = own(trained), BEFORE[how]
    save_file({before + name: tensor for name, tensor in weights.items()} | others, tmp_path / "w.safetensors")
    done = adopted(tmp_path / "w.safetensors", tmp_path / "out")
    now = own(tmp_path / "out")
    assert now.keys() == weights.keys() and all(torch.equal(now[name], weights[name]) for name in weights)
    notes = " ".join(done["adopted"]["notes"])
    assert all(name in notes for name in others) and (f", {len(others)} other" in notes) == bool(others)


def test_a_head_outside_of_the_prefix_is_the_models(trained: Path, tmp_path: Path) -> None:  # noqa: F811
    weights, file = own(trained), tmp_path / "w.safetensors"
    inside, head = {f"model.{name}": tensor for name, tensor in weights.items()}, weights["embed.weight"].clone()
    save_file(inside | {"lm_head.weight": head}, file)
    notes = adopted(file, tmp_path / "tied")["adopted"]["notes"]
    assert "its lm_head.weight is a copy of embed.weight, which is the head here" in notes
    save_file(inside | {"lm_head.weight": head + 1}, file)
    adopted(file, tmp_path / "untied", model=tiny.model(tied=False))
    assert torch.equal(own(tmp_path / "untied")["lm_head.weight"], head + 1)


def test_two_models_in_one_file_and_names_that_nearly_fit_are_said(trained: Path, tmp_path: Path) -> None:  # noqa: F811
    weights, file = own(trained), tmp_path / "w.safetensors"
    twice = {f"{which}.{name}": tensor.clone() for which in ("student", "teacher") for name, tensor in weights.items()}
    save_file(twice, file)
    assert refused(file, tmp_path / "no") == "holds the model 2 times, as student.*, teacher.*; save one of them alone"
    more = {f"net.{name}": tensor for name, tensor in weights.items()} | {"net.layers.0.probe": torch.ones(2)}
    save_file(more, file)
    assert "has layers.0.probe, which the model has not" in refused(file, tmp_path / "no"), "a part of another model"
    name = max(weights, key=len)
    save_file({f"net.{other}": tensor for other, tensor in weights.items() if other != name}, file)
    said = refused(file, tmp_path / "no")
    assert "closest are net." in said and f"lacks {sorted(weights)[0]}" in said
    save_file({f"{other}s": tensor for other, tensor in weights.items()}, file)
    first = sorted(weights)[0]
    assert f"closest are {first}s for {first}" in refused(file, tmp_path / "no")
    assert fitted({"a": torch.ones(1)}, ["a"]) == ({"a": torch.ones(1)}, [])


def test_a_copy_of_a_tied_head_is_no_other_weight(trained: Path, tmp_path: Path) -> None:  # noqa: F811
    weights = own(trained)
    tied = "lm_head.weight" not in weights
    assert tied
    file = tmp_path / "copy.safetensors"
    save_file(weights | {"lm_head.weight": weights["embed.weight"].clone()}, file)
    done = adopted(file, tmp_path / "out")
    assert "its lm_head.weight is a copy of embed.weight, which is the head here" in done["adopted"]["notes"]
    now = own(tmp_path / "out")
    assert now.keys() == weights.keys() and all(torch.equal(now[name], weights[name]) for name in weights)
    save_file(weights | {"lm_head.weight": weights["embed.weight"] + 1}, file)
    assert refused(file, tmp_path / "no") == (
        "lm_head.weight differs from embed.weight, and this study ties them; set model.tied = false"
    )
    untied = tiny.model(tied=False)
    assert adopted(file, tmp_path / "untied", model=untied)["adopted"]["names"] == "own", "the cure"
    assert refused(trained / "weights.safetensors", tmp_path / "none", model=untied) == (
        "lacks lm_head.weight: its head is the embedding, and this study's is not; set model.tied = true"
    )


def shell(cure: str, program: str, folder: Path, new: str) -> None:
    """Run the command of a cure."""
    command = (
        cure.partition(f"{program} ")[2].replace("NEW.pt", new).replace("NEW.safetensors", new).replace("NEW", new)
    )
    command = command.removesuffix(", and name NEW").removesuffix(", and name what it leaves")
    program = shlex.quote(sys.executable) if program == "python" else program
    subprocess.run(f"{program} {command}", shell=True, check=True, cwd=folder, timeout=120)


PACKED: dict[str, tuple[str, str, Callable[[bytes], bytes]]] = {
    "gz": ("is compressed with gzip", "gunzip", gzip.compress),
    "bz2": ("is compressed with bzip2", "bunzip2", bz2.compress),
    "xz": ("is compressed with xz", "xz", lzma.compress),
}


@pytest.mark.parametrize("kind", PACKED)
def test_compressed_weights_are_called_so_and_the_cure_works(trained: Path, tmp_path: Path, kind: str) -> None:  # noqa: F811
    said, program, pack = PACKED[kind]
    file = tmp_path / "w's.safetensors"
    file.write_bytes(pack((trained / "weights.safetensors").read_bytes()))
    text = refused(file, tmp_path / "out")
    assert text.startswith(f"{said}; unpack it and name NEW: {program}")
    if shutil.which(program):  # a slim system has no xz
        shell(text.removesuffix(", and name NEW"), program, tmp_path, "new.safetensors")
        adopted(tmp_path / "new.safetensors", tmp_path / "out")


def test_archives_arrays_and_other_formats_are_called_what_they_are(trained: Path, tmp_path: Path) -> None:  # noqa: F811
    weights, file = own(trained), tmp_path / "w.bin"
    np.savez(tmp_path / "w.npz", **{name: tensor.numpy() for name, tensor in weights.items()})
    text = refused(tmp_path / "w.npz", tmp_path / "out")
    assert text.startswith(
        "is an archive of arrays that numpy saved (.npz); save its arrays as safetensors: python -P -c"
    )
    shell(text, "python", tmp_path, "new.safetensors")
    adopted(tmp_path / "new.safetensors", tmp_path / "out")
    with tarfile.open(tmp_path / "w.tar", "w") as archive:
        archive.add(trained / "weights.safetensors", "inside.safetensors")
    text = refused(tmp_path / "w.tar", tmp_path / "no")
    assert text.startswith("is a tar archive; tar -xf")
    shell(text, "tar", tmp_path, "")
    adopted(tmp_path / "inside.safetensors", tmp_path / "tar")
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as packed:
        packed.write(trained / "weights.safetensors", "w.safetensors")
    for content, said in (
        (b"GGUF" + bytes(range(99)), "is a GGUF file (llama.cpp's); give the weights it was made from, as safetensors"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file (Keras's .h5, or data); give safetensors"),
        (b"<!DOCTYPE html><html>", "is a page of the web (HTML), which a server gave in place of the file; download"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of git-lfs: the file itself was"),
        (b"\x28\xb5\x2f\xfd" + bytes(range(99)), "is compressed with zstd; unpack it and name NEW: zstd -dc"),
        ((tmp_path / "w.zip").read_bytes(), "is a zip archive; unzip"),
    ):
        file.write_bytes(content)
        assert refused(file, tmp_path / "no").startswith(said)
    (tmp_path / "net.onnx").write_bytes(b"\x08\x08\x12\x07pytorch")
    assert refused(tmp_path / "net.onnx", tmp_path / "no").startswith("is an ONNX graph; give the weights")
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pt")
    assert refused(tmp_path / "script.pt", tmp_path / "no").startswith("is a TorchScript program; save the state_dict")


def test_a_folder_of_dcp_is_joined_by_the_cure(trained: Path, tmp_path: Path) -> None:  # noqa: F811
    import torch.distributed.checkpoint as dcp

    weights, folder = own(trained), tmp_path / "step 7"
    dcp.save({"model": weights}, checkpoint_id=folder, no_dist=True)
    text = refused(folder, tmp_path / "out")
    assert text.startswith("is a folder that torch.distributed.checkpoint (DCP) wrote; join it: python -P -m torch.")
    shard = next(folder.glob("*.distcp"))
    assert refused(shard, tmp_path / "out").startswith("is one shard of a DCP checkpoint")
    shell(text, "python", tmp_path, "new.pt")
    adopted(tmp_path / "new.pt", tmp_path / "out")
    assert all(torch.equal(weights[name], tensor) for name, tensor in own(tmp_path / "out").items())


def test_a_folder_of_shards_is_joined_by_the_cure(trained: Path, tmp_path: Path) -> None:  # noqa: F811
    weights, folder = own(trained), tmp_path / "hub [1]"
    folder.mkdir()
    names = sorted(weights)
    for number, part in enumerate((names[:9], names[9:]), 1):
        save_file({name: weights[name] for name in part}, folder / f"model-0000{number}-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    for place in (folder, folder / "model.safetensors.index.json"):
        text = refused(place, tmp_path / "out")
        assert text.startswith("is a folder with weights in 2 shards; join them: python -P -c")
    shell(text, "python", tmp_path, "new.safetensors")
    adopted(tmp_path / "new.safetensors", tmp_path / "out")
    alone = tmp_path / "alone"
    alone.mkdir()
    assert refused(alone, tmp_path / "no").startswith("is a folder; give safetensors, or what torch.save wrote")
    (tmp_path / "new.safetensors").rename(alone / "model.safetensors")
    assert refused(alone, tmp_path / "no") == f"is a folder; name a file in it, such as {alone / 'model.safetensors'}"


def test_a_real_model_in_real_wrappers_is_taken(tmp_path: Path) -> None:
    """torch's own wrappers, not names as they are remembered here."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model = build(tiny.model(), vocab_size=tiny.corpus().vocab_size, seed=0)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for at, layer in enumerate(model.layers):
        model.layers[at] = torch.compile(layer) if at % 2 else checkpoint_wrapper(layer)
    whole = torch.nn.DataParallel(torch.compile(model))
    torch.save({"model": whole.state_dict()}, tmp_path / "w.pt")
    assert any("_orig_mod" in name for name in whole.state_dict())
    adopted(tmp_path / "w.pt", tmp_path / "out")
    now = own(tmp_path / "out")
    assert all(torch.equal(now[name], tensor.to(now[name].dtype)) for name, tensor in weights.items())
