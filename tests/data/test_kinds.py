"""Files that are not what they are given as: each is called what it is, with a cure that makes sense where it was given."""

from __future__ import annotations

import base64
import gzip
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tests.data.harmony.building import build
from tests.data.tiny import settings

from ablab.core.fault import Refused
from ablab.data import pieces, prepare
from ablab.data.tokenizers.case_ops import CaseOps
from ablab.data.tokenizers.sentencepiece import SentencePiece
from ablab.data.vocabulary import install, read
from ablab.training.adopt.found import read as read_weights

TENSOR = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
RANKS = b"".join(base64.b64encode(bytes([i])) + f" {i}\n".encode() for i in range(256))
OTHERS: dict[str, tuple[bytes, str]] = {
    "page": (b"<!DOCTYPE html>\n<html>404</html>", "is a page of the web (HTML), which a server gave"),
    "comment": (b"<!-- cached -->\n<html>404</html>", "is a page of the web (HTML), which a server gave"),
    "json": (b'{"error": "Repository not found"}', "is what a server answered in place of the file"),
    "entry": (b"Entry not found", "is what a server answered in place of the file: 'Entry not found'"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "is a pointer of git-lfs"),
    "gguf": (b"GGUF" + bytes(range(200)), "is a GGUF file"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(300), "is a picture (PNG)"),
    "webp": (b"RIFF\x10\0\0\0WEBPVP8 " + bytes(300), "is sound, a picture or a film (RIFF)"),
    "pdf": (b"%PDF-1.7\n" + bytes(range(200)), "is a PDF"),
    "gz": (gzip.compress(b"what was wanted" * 9), "is compressed with gzip"),
    "safetensors": (len(TENSOR).to_bytes(8, "little") + TENSOR + bytes(4), "is weights in safetensors' format"),
    "parquet": (b"PAR1" + bytes(range(200)), "is a Parquet file"),
}  # fmt: skip
HELPS = {"page": "download the file itself", "lfs": "run git lfs pull", "gz": "unpack it"}
HELPS |= {"comment": HELPS["page"], "json": "check the name and the access", "entry": "check the name and the access"}
OF_DATA = {"parquet": "call it .parquet", "pdf": "give its text"}


def file_of(folder: Path, name: str, called: str) -> Path:
    path = folder / called
    path.write_bytes(OTHERS[name][0])
    return path


def refused(path: Path) -> str:
    with pytest.raises(Refused) as found:
        prepare(settings(str(path)), path.parent / "out", lambda _: None)
    return str(found.value)


@pytest.mark.parametrize("name", OTHERS)
def test_a_tokenizer_s_model(name: str, tmp_path: Path) -> None:
    path, said = file_of(tmp_path, name, "a.model"), OTHERS[name][1]
    cure = HELPS.get(name, "give the .model file that SentencePiece wrote")
    for make in (SentencePiece, CaseOps):
        with pytest.raises(ValueError) as found:
            make(model=str(path)).ready()
        assert str(found.value).startswith(f"{path} {said}") and f"; {cure}" in str(found.value)


def test_the_cure_of_a_compressed_model_works(tmp_path: Path) -> None:
    model = pieces.train(["the quick brown fox jumps over the lazy dog"] * 20, 290)
    (tmp_path / "a.model").write_bytes(gzip.compress(model))
    with pytest.raises(ValueError) as found:
        pieces.read(tmp_path / "a.model")
    command = str(found.value).partition("NEW: ")[2].replace("NEW", shlex.quote(str(tmp_path / "new.model")))
    subprocess.run(command, shell=True, check=True)
    assert pieces.read(tmp_path / "new.model").model == model


def test_other_vocabularies_and_text_are_no_models(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    for content, said in (
        (RANKS, " is a list of tokens and ranks, as tiktoken reads it; give the .model file"),
        (b'{"version": "1.0", "added_tokens": []}', "it is text (such as Hugging Face's tokenizer.json) that begins"),
        (b"Once upon a time there was a model.", "it is text that begins with 'Once upon a time"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError) as found:
            pieces.read(path)
        assert said in str(found.value) and "; give the .model file that SentencePiece wrote" in str(found.value)
    path.write_bytes(b'{"version": "1.0", "added_tokens": []}')
    with pytest.raises(ValueError, match=r"holds no case_ops tokenizer; give one that was saved, or a \.model file"):
        CaseOps(model=str(path)).ready()


@pytest.mark.parametrize("name", OTHERS)
def test_an_o200k_vocabulary(name: str, tmp_path: Path) -> None:
    path, said = file_of(tmp_path, name, "o200k_base.tiktoken"), OTHERS[name][1]
    with pytest.raises(ValueError) as found:
        read(path)
    assert f"{path} {said}" in str(found.value) and "; give the path of the right one, or no path" in str(found.value)
    with pytest.raises(ValueError) as tried:
        install(str(path), tmp_path / "to")
    assert f"{path} {said}" in str(tried.value) and not (tmp_path / "to").exists()


@pytest.mark.parametrize("name", OTHERS)
def test_data(name: str, tmp_path: Path) -> None:
    said, cure = OTHERS[name][1], HELPS.get(name, OF_DATA.get(name, "give text, or token files"))
    pages = name in ("page", "comment")  # as .txt they may be what is learned
    for suffix in (".bin", ".jsonl", ".arrow", ".parquet", ".txt", "", f".{name}"):
        if (name, suffix) == ("parquet", ".parquet") or (pages and suffix == ".txt"):
            continue
        text = refused(file_of(tmp_path, name, f"a{suffix}"))
        assert said in text and f"; {cure}" in text, suffix
        if suffix in (".jsonl", ".arrow", ".parquet", f".{name}"):
            with pytest.raises(Refused) as found:
                build([str(tmp_path / f"a{suffix}")], tmp_path / "none", say=lambda _: None)
            assert said in str(found.value) and f"; {cure}" in str(found.value), suffix


@pytest.mark.parametrize("name", OTHERS)
def test_the_index_of_a_prefix(name: str, tmp_path: Path) -> None:
    np.arange(300, dtype="<u2").tofile(tmp_path / "a.bin")
    file_of(tmp_path, name, "a.idx")
    text = refused(tmp_path / "a")
    assert f"a.idx: is no Megatron index: it {OTHERS[name][1]}" in text
    assert f"; {HELPS.get(name, 'write both files again')}" in text


@pytest.mark.parametrize("name", [name for name in OTHERS if name != "safetensors"])
def test_weights(name: str, tmp_path: Path) -> None:
    with pytest.raises(Refused) as found:
        read_weights(file_of(tmp_path, name, "a.pt"))
    cure = "give the weights it was made from" if name == "gguf" else "give safetensors, or what torch.save wrote"
    assert OTHERS[name][1] in str(found.value) and f"; {HELPS.get(name, cure)}" in str(found.value)


def test_a_page_of_the_web_may_be_learned_and_is_told(tmp_path: Path) -> None:
    page = "<!DOCTYPE html>\n<html><body>" + "".join(f"<p>Line {i} of {i * i}.</p>\n" for i in range(300))
    for name in ("a.html", "a.htm"):
        (tmp_path / name).write_text(page)
        text = refused(tmp_path / name)
        assert "is a page of the web; call it .txt where pages are to be learned, else give its text" in text
    said = list[str]()
    for i, word in enumerate(("Line", "Row", "Verse")):
        (tmp_path / f"p{i}.txt").write_text(page.replace("Line", word))
        (tmp_path / f"t{i}.txt").write_text("\n".join(f"{word} number {i} is {word} {i * i}." for i in range(300)))

    def told(train: str, valid: str) -> list[str]:
        said.clear()
        asked = settings(str(tmp_path / train), valid_source=[str(tmp_path / valid)], valid_fraction=0.01)
        prepare(asked, tmp_path / "out", said.append)
        return [text for text in said if "of the web" in text]

    one = f"data: warning: {tmp_path}/p0.txt is one page of the web (HTML), read with its tags; "
    assert told("t0.txt", "p0.txt") == [f"{one}if a server gave it in place of text, download that text"]
    [many] = told("p*.txt", "t0.txt")
    assert many.startswith(f"data: warning: 3 files, the first {tmp_path}/p0.txt, are one page each of the web (HTML)")
    (tmp_path / "cut.txt").write_text(f"{page}<|endoftext|>{page.replace('Line', 'Row')}")  # declared as documents
    assert told("cut.txt", "t1.txt") == [] and told("t2.txt", "t1.txt") == []
