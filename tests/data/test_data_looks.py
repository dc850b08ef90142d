"""Token files that are not what they are called: of another width, order or format, filled with zeros, of another tokenizer."""

from __future__ import annotations

import gzip
import io
import pickle
import shlex
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.data.tiny import settings
from tests.sharded import write_shard

from ablab.core.fault import CheckFailed, InvalidStudy
from ablab.data import Corpus, prepare
from ablab.data.formats.indexed import IndexedWriter
from ablab.data.look.verify import verify
from ablab.data.tokenizers.bytes import Bytes


def words(first: int, last: int) -> np.ndarray:
    texts = [f"Document number {i} says something about {i * i}." for i in range(first, last)]
    return np.concatenate([np.r_[Bytes.bos_id, Bytes().encode(text)[0]] for text in texts])


TRAIN, VALID = words(0, 200), words(200, 240)


def made(tmp_path: Path, train: Path, valid: Path) -> Corpus:
    asked = settings(str(train), valid_source=[str(valid)], valid_fraction=0.01)
    return prepare(asked, tmp_path / "out", lambda _: None)


def plain(path: Path, kind: str, values: np.ndarray) -> Path:
    values.astype(kind).tofile(path)
    return path


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("<u4", "every second value is 0: these are tokens of 32 bits"),
        ("<i4", "every second value is 0: these are tokens of 32 bits"),
        ("<i8", "three of four values are 0: these are tokens of 64 bits"),
        (">u4", "every second value is 0: these are tokens of 32 bits, big endian"),
        (">i8", "three of four values are 0: these are tokens of 64 bits, big endian"),
        (">u2", "with its bytes exchanged each lies inside: the tokens are big endian"),
    ],
)
def test_a_headerless_file_of_another_type_is_refused_and_the_cure_makes_it_right(
    tmp_path: Path, kind: str, said: str
) -> None:
    right = made(tmp_path, plain(tmp_path / "a.bin", "<u2", TRAIN), plain(tmp_path / "b.bin", "<u2", VALID))
    files = plain(tmp_path / "t.bin", kind, TRAIN), plain(tmp_path / "v.bin", kind, VALID)
    with pytest.raises(CheckFailed) as refused:
        made(tmp_path, *files)
    assert said in str(refused.value)
    command = refused.value.faults[0].cure.partition("python -P -c ")[2]
    cured = [file.with_name(f"new_{file.name}") for file in files]
    for old, new in zip(files, cured):
        line = f"{shlex.quote(sys.executable)} -P -c {command}".replace("OLD NEW", f"{old} {new}")
        subprocess.run(line, shell=True, check=True)
    found = made(tmp_path, *cured)
    assert found.manifest["counts"] == right.manifest["counts"]
    assert len(found.documents) == 200 and len(found.valid) == 40
    if kind != ">u2":
        assert any(said in str(fault) for fault in verify(files[0]))


def test_a_golf_header_before_wider_tokens_is_not_believed(tmp_path: Path) -> None:
    wide, header = TRAIN.astype("<u4").tobytes(), np.zeros(256, "<i4")
    for count, said in (
        (len(TRAIN), "they have 32 bits; write them as uint16"),
        (2 * len(TRAIN), "every second value is 0"),
    ):
        header[:3] = 20240520, 1, count
        (tmp_path / "t.bin").write_bytes(header.tobytes() + wide)
        with pytest.raises(CheckFailed, match=said):
            made(tmp_path, tmp_path / "t.bin", plain(tmp_path / "v.bin", "<u2", VALID))
        assert any(said in str(fault) for fault in verify(tmp_path / "t.bin"))


def test_32_bits_are_seen_where_ids_go_beyond_16(tmp_path: Path) -> None:
    from ablab.data.look.looks import right_width

    ids = np.random.default_rng(0).integers(0, 200_000, 4000)
    for kind, bits in (("<u4", 32), (">u4", 32), ("<i8", 64), (">i8", 64)):
        with pytest.raises(CheckFailed, match=f"these are tokens of {bits} bits, with ids above 65,535"):
            right_width(tmp_path, np.frombuffer(ids.astype(kind).tobytes(), "<u2"))
    for kind in ("<f4", "<f8", ">f4"):
        with pytest.raises(
            CheckFailed, match=r"holds floating-point numbers .*; write them as a Megatron prefix of int32"
        ):
            right_width(tmp_path, np.frombuffer(ids.astype(kind).tobytes(), "<u2"))
    padded = np.where(np.arange(4000) % 9 == 0, -1, ids).astype("<i4")  # labels that are ignored
    with pytest.raises(CheckFailed, match="these are tokens of 32 bits, with ids above 65,535"):
        right_width(tmp_path, np.frombuffer(padded.tobytes(), "<u2"))


@pytest.mark.parametrize("kind", ["<f4", "<f8", "<f2", ">f4"])
def test_tokens_saved_as_floats_are_called_so_and_the_cure_makes_them_right(tmp_path: Path, kind: str) -> None:
    ids = TRAIN
    file, valid = plain(tmp_path / "t.bin", kind, ids), plain(tmp_path / "v.bin", "<u2", VALID)
    with pytest.raises(CheckFailed, match=rf"holds floating-point numbers \(float{8 * int(kind[2])}") as refused:
        made(tmp_path, file, valid)
    command = (
        refused.value.faults[0].cure.partition("python -P -c ")[2].replace("OLD NEW", f"{file} {tmp_path / 'new.bin'}")
    )
    subprocess.run(f"{shlex.quote(sys.executable)} -P -c {command}", shell=True, check=True)
    assert len(made(tmp_path, tmp_path / "new.bin", valid).documents) == 200


def test_three_tokens_of_32_bits_are_seen(tmp_path: Path) -> None:
    for kind, said in (("<u4", "of 32 bits"), (">u4", "of 32 bits, big endian"), ("<i8", "of 64 bits")):
        valid = plain(tmp_path / "v.bin", kind, np.array([Bytes.bos_id, 65, 66]))
        with pytest.raises(CheckFailed, match=f"these are tokens {said}"):
            made(tmp_path, plain(tmp_path / "t.bin", "<u2", TRAIN), valid)


@pytest.mark.parametrize("name", ["gz", "zip", "gguf"])
def test_a_prefix_that_is_a_file_of_another_kind_is_called_so(tmp_path: Path, name: str) -> None:
    file, inside = tmp_path / "tokens", TRAIN.astype("<u2").tobytes()
    if name == "zip":
        zipped(file, "t.bin")
    else:
        file.write_bytes(gzip.compress(inside) if name == "gz" else b"GGUF" + bytes(range(200)))
    said = {"gz": "is compressed with gzip", "zip": "is a zip archive", "gguf": "is a GGUF file"}[name]
    with pytest.raises(InvalidStudy, match=said):
        made(tmp_path, file, plain(tmp_path / "v.bin", "<u2", VALID))


TENSOR = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
SAID = {
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(300), "is a picture"),
    "jpeg": (b"\xff\xd8\xff\xe0" + bytes(300), "is a picture"),
    "rar": (b"Rar!\x1a\x07\x01\0" + bytes(300), "is a RAR archive"),
    "safetensors": (len(TENSOR).to_bytes(8, "little") + TENSOR + bytes(4), "is weights in safetensors' format"),
    "entry": (b"Entry not found", "is what a server answered in place of the file: 'Entry not found'"),
    "error": (b'{"error":"Repository not found"}', "is what a server answered in place of the file"),
    "detail": (b'{"detail": "Not authenticated"}\n', "is what a server answered in place of the file"),
    "401": (b"Invalid username or password.", "is what a server answered in place of the file"),
    "xml": (b"<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code></Error>", "is "),
    "429": (b"429: Too Many Requests", "is what a server answered in place of the file"),
}


@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
@pytest.mark.parametrize("name", SAID)
def test_what_is_no_text_is_called_what_it_is(tmp_path: Path, name: str, suffix: str) -> None:
    content, said = SAID[name]
    (tmp_path / f"v.{suffix}").write_bytes(content)
    (tmp_path / "t.txt").write_text("A text that is learned from.")
    with pytest.raises(CheckFailed) as refused:
        made(tmp_path, tmp_path / "t.txt", tmp_path / f"v.{suffix}")
    assert f"v.{suffix}: {said}" in str(refused.value)
    (tmp_path / f"v.{suffix}").rename(tmp_path / "bare")
    with pytest.raises(InvalidStudy, match=f"'{tmp_path}/bare' {said.partition(':')[0] if name != 'xml' else 'is '}"):
        made(tmp_path, tmp_path / "t.txt", tmp_path / "bare")


def test_a_short_text_is_no_answer_of_a_server(tmp_path: Path) -> None:
    from ablab.core.kinds import answer

    for text in (
        "Not found by anyone, the cat slept.",
        '{"text": "Entry not found"}',
        '{"error": "a", "text": "b"}',
        "[1]",
    ):
        (tmp_path / "v.txt").write_text(text)
        assert answer(tmp_path / "v.txt") is None


def test_rows_that_were_filled_up_are_called_so(tmp_path: Path) -> None:
    row = b'{"text": "A text."}\n'
    (tmp_path / "v.txt").write_text("Held out.")
    for content, line, start in ((2 * row + bytes(5000), 3, 40), (row + bytes(99) + row, 2, 20)):
        (tmp_path / "t.jsonl").write_bytes(content)
        with pytest.raises(
            CheckFailed, match=rf"line {line}: has [\d,]+ zero bytes from byte {start} of the file on: filled"
        ):
            made(tmp_path, tmp_path / "t.jsonl", tmp_path / "v.txt")


def test_tokens_of_16_bits_are_left_alone(tmp_path: Path) -> None:
    from ablab.data.look.looks import no_zeros, right_width

    draw = np.random.default_rng(1)
    for high in (2, 50, 257, 5000, 65536):
        for size in (1, 7, 8, 63, 64, 1000, 4001):
            right_width(tmp_path, draw.integers(0, high, size).astype("<u2"))
            no_zeros(tmp_path, draw.integers(0, max(high, 3), size).astype("<u2"))
    right_width(tmp_path, np.tile([256, 1, 2], 300).astype("<u2"))


def saved(path: Path, write: Callable[[io.BufferedWriter], object]) -> None:
    with path.open("wb") as file:
        write(file)


def zipped(path: Path, name: str) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(name, TRAIN.astype("<u2").tobytes())


def tarred(path: Path) -> None:
    with tarfile.open(path, "w") as file:
        info = tarfile.TarInfo("t.bin")
        info.size = 2 * len(TRAIN)
        file.addfile(info, io.BytesIO(TRAIN.astype("<u2").tobytes()))


OTHERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "npy": (lambda path: saved(path, lambda file: np.save(file, TRAIN.astype("<u2"))), "is an array that numpy saved"),
    "npz": (lambda path: saved(path, lambda file: np.savez(file, t=TRAIN)), "is an archive of arrays"),
    "gzip": (lambda path: path.write_bytes(gzip.compress(TRAIN.astype("<u2").tobytes())), "is compressed with gzip"),
    "zstd": (lambda path: path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(range(200))), "is compressed with zstd"),
    "zip": (lambda path: zipped(path, "t.bin"), "is a zip archive; unzip"),
    "tar": (tarred, "is a tar archive; tar -xf"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps(TRAIN.tolist())), "is a pickle"),
    "html": (lambda path: path.write_text("<!DOCTYPE html>\n<html>404</html>"), "is a page of the web"),
    "lfs": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"),
        "is a pointer of git-lfs",
    ),
    "text": (lambda path: path.write_text("Once upon a time " * 100), "is text and no tokens: it begins with 'Once"),
    "gguf": (lambda path: path.write_bytes(b"GGUF" + bytes(range(200))), "is a GGUF file"),
    "big header": (
        lambda path: path.write_bytes(np.r_[20240520, 1, len(TRAIN), [0] * 253].astype(">i4").tobytes() + b"\0" * 99),
        "is a golf shard of big-endian numbers",
    ),
    "other header": (
        lambda path: path.write_bytes(np.r_[777, 1, len(TRAIN), [0] * 253, TRAIN].astype("<i4").tobytes()),
        "begins like a golf shard with magic 777",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_a_bin_that_holds_something_else_is_called_what_it_is(tmp_path: Path, kind: str) -> None:
    write, said = OTHERS[kind]
    write(tmp_path / "t.bin")
    plain(tmp_path / "v.bin", "<u2", VALID)
    with pytest.raises(CheckFailed) as refused:
        made(tmp_path, tmp_path / "t.bin", tmp_path / "v.bin")
    assert said in str(refused.value) and refused.value.faults[0].cure
    assert any(said.split(";")[0] in str(fault) for fault in verify(tmp_path / "t.bin"))


def test_the_cure_for_an_array_of_numpy_works(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", TRAIN.astype("<u2"))
    (tmp_path / "t.npy").rename(tmp_path / "t.bin")
    plain(tmp_path / "v.bin", "<u2", VALID)
    with pytest.raises(CheckFailed) as refused:
        made(tmp_path, tmp_path / "t.bin", tmp_path / "v.bin")
    command = refused.value.faults[0].cure.partition("python -P -c ")[2].replace("NEW.bin", str(tmp_path / "new.bin"))
    subprocess.run(f"{shlex.quote(sys.executable)} -P -c {command}", shell=True, check=True)
    assert len(made(tmp_path, tmp_path / "new.bin", tmp_path / "v.bin").documents) == 200


@pytest.mark.parametrize("shape", ["golf", "plain", "megatron"])
@pytest.mark.parametrize(
    ("where", "said"),
    [
        (slice(-40, None), "ends in 40 zeros, from token"),
        (slice(0, None), "is nothing but zeros: filled up, not written"),
        (slice(100, 2200), "has 2,100 zeros from token 100 on: a hole"),
    ],
)
def test_zeros_in_place_of_tokens_are_refused(tmp_path: Path, shape: str, where: slice, said: str) -> None:
    ids = TRAIN.copy()
    ids[where] = 0
    path = tmp_path / "t.bin"
    if shape == "megatron":
        with IndexedWriter(tmp_path / "t", np.uint16) as writer:
            for part in np.split(ids, 10 * np.arange(1, len(ids) // 10)):
                writer.add(part)
                writer.end_document()
    else:
        write_shard(path, ids, plain=shape == "plain")
    plain(tmp_path / "v.bin", "<u2", VALID)
    valid = tmp_path / "v.bin"
    with pytest.raises(CheckFailed, match=said):
        made(tmp_path, path, valid)
    assert any(said in str(fault) for fault in verify(path))
    assert len(made(tmp_path, plain(tmp_path / "whole.bin", "<u2", TRAIN), valid).documents) == 200


@pytest.mark.parametrize("headerless", [True, False])
@pytest.mark.parametrize("zeros", [1, 7, 31])
def test_a_few_zeros_at_the_end_are_told_where_zero_stands_nowhere_else(
    tmp_path: Path, zeros: int, headerless: bool
) -> None:
    ids, said, warned = TRAIN.copy(), list[str](), list[str]()
    ids[-zeros:] = 0
    write_shard(tmp_path / "t.bin", ids, plain=headerless)
    plain(tmp_path / "v.bin", "<u2", VALID)
    asked = settings(str(tmp_path / "t.bin"), valid_source=[str(tmp_path / "v.bin")], valid_fraction=0.01)
    prepare(asked, tmp_path / "out", said.append)
    text = f"warning: {tmp_path}/t.bin ends in {zeros} zero{'s' if zeros > 1 else ''}, and 0 stands nowhere before: was it "
    assert [one.startswith(f"data: {text}") for one in said if "zero" in one] == [True]
    assert verify(tmp_path / "t.bin", warn=warned.append) == [] and [one.startswith(text) for one in warned] == [True]


def test_zeros_at_the_end_that_a_text_may_end_in_are_not_told(tmp_path: Path) -> None:
    from ablab.data.look.looks import no_zeros

    def ends(before: list[int], zeros: int) -> str:
        return no_zeros(tmp_path, np.array([5, *before, 6, *[0] * zeros], "<u2"))

    assert ends([], 0) == ends([0], 1) == ends([0], 7) == ends([0] * 9, 9) == ends([0] * 31, 31) == ""
    assert ends([0], 8).startswith(f"warning: {tmp_path} ends in 8 zeros, and 0 stands at most 1 in a row before: ")
    assert ends([0] * 9, 10) and ends([7, 8, 9], 1)
    masked = np.array([1, 1, 1, 0, 0], np.uint8)
    assert no_zeros(tmp_path, np.array([5, 6, 7, 0, 0], "<u2"), masked) == ""  # padding


def test_zeros_that_are_masked_are_padding(tmp_path: Path) -> None:
    from ablab.data.look.looks import no_zeros

    ids, loss = TRAIN.astype("<i4"), np.ones(len(TRAIN), np.uint8)
    ids[-500:] = loss[-500:] = 0
    no_zeros(tmp_path, ids, loss)
    with pytest.raises(CheckFailed, match="ends in 500 zeros"):
        no_zeros(tmp_path, ids, np.ones(len(TRAIN), np.uint8))


@pytest.mark.parametrize("golf", [True, False])
@pytest.mark.parametrize("side", ["train", "valid"])
def test_a_shard_without_bos_is_no_single_document(tmp_path: Path, golf: bool, side: str) -> None:
    """parameter-golf's bytes: BOS 1, byte b is b + 4."""
    ids = {"train": TRAIN, "valid": VALID}
    ids[side] = np.where(ids[side] == Bytes.bos_id, 1, ids[side] + 4)
    for name, values in ids.items():
        write_shard(tmp_path / f"{name}.bin", values, plain=not golf)
    count = {"train": 200, "valid": 40}[side]
    said = rf"{side}\.bin: BOS \(id 256\) occurs nowhere in its .*; it begins with id 1, which it holds {count} times; name"
    with pytest.raises(CheckFailed, match=said):
        made(tmp_path, tmp_path / "train.bin", tmp_path / "valid.bin")
