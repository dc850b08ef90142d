"""prepare() and open_corpus(): split, checks, addresses, checksums, many processes."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.tiny import settings, texts

import ablab
from ablab.core.fault import CheckFailed, InvalidStudy
from ablab.data import Corpus, open_corpus, prepare
from ablab.data.corpus import build, checks, corpus
from ablab.data.corpus.build import prepare_sources
from ablab.data.corpus.split import LeastDigests, digest_of
from ablab.data.sources.find import Sources
from ablab.data.sources.sources import PythonLibrary, Source

Make = Callable[..., Corpus]
ENV = {"PYTHONPATH": str(Path(ablab.__file__).parents[1])}


def quiet(_: str) -> None:
    pass


def held_out(text: str, fraction: float) -> bool:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest()[:8], "big") < int(fraction * 2**64)


def train_texts(made: Corpus) -> list[str]:
    cuts = np.split(np.asarray(made.tokens), made.documents[1:])
    assert all(cut[0] == made.bos_id for cut in cuts)
    return [made.tokenizer.decode(cut) for cut in cuts]


def valid_texts(made: Corpus) -> list[str]:
    return [made.tokenizer.decode(ids) for ids, *_ in made.valid]


def test_every_document_once_in_its_split(make: Make) -> None:
    documents = texts(100)
    made = make(documents)
    assert train_texts(made) == [text for text in documents if not held_out(text, 0.2)]
    held = [text for text in documents if held_out(text, 0.2)]
    assert valid_texts(made) == sorted(held, key=lambda text: digest_of(text.encode()))
    assert [bytes(row) for row in made.valid.digests] == [digest_of(text.encode()) for text in valid_texts(made)]
    counts = made.manifest["counts"]
    assert counts["documents"] == 100
    assert counts["train_tokens"] == made.n_train == sum(len(t.encode()) + 1 for t in train_texts(made))
    assert counts["valid_tokens"] == counts["valid_bytes"] == sum(len(t.encode()) for t in held) == made.valid.n_targets
    assert counts["train_documents"] + counts["valid_documents"] == 100
    assert made.tokens.dtype == np.uint16
    assert isinstance(made.tokens, np.memmap)


def test_validation_documents(make: Make) -> None:
    made = make(texts(60))
    for document in made.valid:
        assert document.ids[0] == made.bos_id
        assert document.n_bytes[0] == 0
        assert document.n_bytes[1:].sum() == len(made.tokenizer.to_bytes(document.ids))
    assert np.array_equal(made.valid[-1].ids, made.valid[len(made.valid) - 1].ids)
    assert len(made.valid[1:3]) == 2
    with pytest.raises(IndexError, match="there are"):
        made.valid[len(made.valid)]


def test_membership_ignores_order_and_company(make: Make) -> None:
    some = set(valid_texts(make(texts(60))))
    more = set(valid_texts(make(list(reversed(texts(120))))))
    assert some == {text for text in more if text in texts(60)}


def test_duplicates_and_empty_documents_are_dropped_and_counted(make: Make) -> None:
    documents = texts(40)
    made = make([*documents[:30], "", *documents])
    assert sorted(train_texts(made) + valid_texts(made)) == sorted(documents)
    counts = made.manifest["counts"]
    assert (counts["documents"], counts["duplicates"], counts["empty"]) == (70, 30, 1)


def test_the_validation_set_is_capped_by_whole_documents(make: Make) -> None:
    documents = texts(100)
    held = sorted((t for t in documents if held_out(t, 0.2)), key=lambda t: digest_of(t.encode()))
    taken, left = [], 500
    for text in held:
        if len(text.encode()) <= left:
            taken.append(text)
            left -= len(text.encode())
    made = make(documents, valid_bytes=500)
    assert valid_texts(made) == taken
    assert made.manifest["counts"]["unused_documents"] == len(held) - len(taken) > 0
    assert not set(held) & set(train_texts(made))  # what is not taken is in neither
    assert valid_texts(make(documents, valid_bytes=1)) == [
        min(held, key=lambda t: (len(t.encode()), digest_of(t.encode())))
    ]


@pytest.mark.parametrize(
    ("documents", "changed", "message"),
    [
        ([""], {}, "data.source: the sources hold no document with text; give at least two, to train and to validate"),
        (["a"], {}, "data.source: the sources hold one distinct document only; give at least two"),
        (["a", "a"], {}, "data.source: the sources hold one distinct document only"),
        (["a", "b"], {"valid_fraction": 1e-9}, "data.valid_fraction: none of 2 documents falls into the validation split of "
         "1e-09; raise data.valid_fraction or give more documents"),
        (["a", "b"], {"valid_fraction": 1 - 1e-9}, "data.valid_fraction: all 2 documents fall into the validation split"),
    ],
)  # fmt: skip
def test_a_corpus_too_small_is_refused(make: Make, documents: list[str], changed: dict, message: str) -> None:
    with pytest.raises(CheckFailed) as caught:
        make(documents, **changed)
    assert message in str(caught.value)


def test_settings_that_mean_nothing_are_said_at_once(make: Make) -> None:
    with pytest.raises(InvalidStudy) as caught:
        make(["a"], valid_fraction=1.0, valid_bytes=0, tokenizer={"name": "sentencepiece", "vocab_size": 100})
    assert [fault.place for fault in caught.value.faults] == [
        "data.valid_fraction",
        "data.valid_bytes",
        "data.tokenizer",
    ]


def test_what_exists_is_reused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make(texts(40))
    monkeypatch.setattr(build, "_build", None)  # would fail if called
    again = make(texts(40), span=999)  # span is the stream's business
    assert (again.key, again.path) == (first.key, first.path)
    assert again.path.name == again.key


def test_the_key_covers_content_and_settings(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [
        make(texts(40)).key,
        make(texts(40), valid_fraction=0.3).key,
        make(texts(40), valid_bytes=600).key,
        make(texts(40), tokenizer={"name": "sentencepiece", "vocab_size": 300}).key,
        make([text + "!" for text in texts(40)]).key,
    ]
    monkeypatch.setattr("ablab.data.tokenizers.bytes.Bytes.revision", 2)
    assert len({*keys, make(texts(40)).key}) == 6


def test_paths_do_not_matter(make: Make, tmp_path: Path) -> None:
    first = make(texts(40))
    (tmp_path / "texts").rename(tmp_path / "moved")
    again = prepare(settings(f"{tmp_path}/moved/*.txt"), tmp_path / "out", say=quiet)
    assert again.path == first.path


def test_nothing_half_made_is_left(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(build.Writer, "finish", full)
        with pytest.raises(CheckFailed, match=r"\(No space left on device\): at least [\d,]+ bytes are needed"):
            make(texts(40))
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == []
    make(texts(40))


def test_an_unwritable_root_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(CheckFailed, match="cannot be written"):
        prepare(settings("mock"), tmp_path / "out", say=quiet)


@pytest.mark.parametrize("name", corpus.FILES)
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_changed_files_are_named(made_once: Path, name: str, harm: str, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in made_once.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    open_corpus(folder)
    raw = bytearray((folder / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    if harm == "remove":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(raw if harm == "flip" else raw[:-1])
    with pytest.raises(CheckFailed) as caught:
        open_corpus(folder)
    assert str(folder / name) in str(caught.value)
    assert f"delete {folder} to have the data prepared again" in str(caught.value)


def test_swapped_extra_and_edited_files_are_named(made_once: Path, tmp_path: Path) -> None:
    for file in made_once.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "train2.tokens").write_bytes(b"x")
    with pytest.raises(CheckFailed, match=r"train2\.tokens: is not listed in the manifest"):
        open_corpus(tmp_path)
    (tmp_path / "train2.tokens").unlink()
    a, b = (tmp_path / "train.tokens").read_bytes(), (tmp_path / "valid.tokens").read_bytes()
    (tmp_path / "train.tokens").write_bytes(b)
    (tmp_path / "valid.tokens").write_bytes(a)
    with pytest.raises(CheckFailed, match=r"train\.tokens: is not what the manifest says \(sha256 differs\)"):
        open_corpus(tmp_path)
    manifest = json.loads((made_once / "manifest.json").read_text())
    manifest["counts"]["train_tokens"] += 1
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckFailed, match=r"manifest\.json: was changed after it was written"):
        open_corpus(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(CheckFailed, match=r"manifest\.json: cannot be read"):
        open_corpus(tmp_path)


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("once")
    for i, text in enumerate(texts(40)):
        (folder / f"{i:04}.txt").write_bytes(text.encode())
    return prepare(settings(f"{folder}/*.txt"), folder / "out", say=quiet).path


def test_processes_at_once(tmp_path: Path) -> None:
    for i, text in enumerate(texts(400)):
        (tmp_path / f"{i:04}.txt").write_bytes(text.encode())
    code = (
        "import sys, pathlib\nfrom ablab.data import prepare\nsys.stdin.read(1)\n"
        f"print(prepare({settings(f'{tmp_path}/*.txt')!r}, pathlib.Path({str(tmp_path / 'out')!r}), say=len).key)"
    )
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENV
        )
        for _ in range(3)
    ]
    for worker in workers:  # each has started and waits for one character
        assert worker.stdin
        worker.stdin.write("!")
        worker.stdin.flush()
    keys = {worker.communicate(timeout=600)[0].strip() for worker in workers}
    assert {worker.returncode for worker in workers} == {0}
    assert len(keys) == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == [keys.pop()]


def test_the_second_to_finish_uses_the_first(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, nested = build._tokenize, []

    def slowly(*given: Any) -> None:
        if not nested:  # another process starts later and is done sooner
            nested.append(True)
            nested.append(make(texts(40)).path)
        real(*given)

    monkeypatch.setattr(build, "_tokenize", slowly)
    assert make(texts(40)).path == nested[1]
    assert len([path for path in (tmp_path / "out").iterdir() if path.is_dir()]) == 1


def test_a_source_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    class Moving(Source):
        name, reads = "moving", 0

        def describe(self, inputs: Any) -> dict[str, str]:
            return {"source": "moving", "sha256": "0"}

        def documents(self) -> Any:
            self.reads += 1
            for i, text in enumerate(texts(30)):
                yield f"moving:{i}", text + ("" if self.reads == 1 or i != 7 else "!")

    with pytest.raises(CheckFailed, match="moving:7: changed while it was read; run again when nothing writes to it"):
        prepare_sources(Sources(texts=[Moving()]), settings("moving"), tmp_path, quiet)


def test_a_tokenizer_that_miscounts_is_caught(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from ablab.data.tokenizers.bytes import Bytes

    real = Bytes.encode
    monkeypatch.setattr(Bytes, "encode", lambda self, text: (real(self, text)[0], real(self, text)[1] * 2))
    with pytest.raises(CheckFailed, match=r"0000\.txt: the tokens count \d+ bytes where .* \(ratio 2\.0000\)"):
        make(texts(40))


def test_gates() -> None:
    one = np.ones(3, np.int32)
    checks.bytes_accounted(one, b"abc", b"abc", "a")
    with pytest.raises(CheckFailed, match="a: the tokens decode to another text from byte 2 on; repair the tokenizer"):
        checks.bytes_accounted(one, b"abx", b"abc", "a")
    with pytest.raises(CheckFailed, match="from byte 2 on"):
        checks.bytes_accounted(one, b"ab", b"abc", "a")
    checks.ids_in_range(np.array([], int), 257, 256, "a")
    for wrong in (-1, 257, 70_000):
        with pytest.raises(
            CheckFailed, match=f"a: token id {wrong} is outside the vocabulary of 257; tokens and tokenizer"
        ):
            checks.ids_in_range(np.array([5, wrong]), 257, 256, "a")
    with pytest.raises(CheckFailed, match=r"a: the text yields BOS \(id 256\)"):
        checks.ids_in_range(np.array([5, 256]), 257, 256, "a")
    checks.no_leak([b"a"], [b"b"])
    with pytest.raises(
        CheckFailed, match=r"data: 1 of 4 validation documents \(25\.0 %\) are also in the training split"
    ):
        checks.no_leak([b"a", b"x"], [b"a", b"b", b"c", b"d"])


def test_a_leak_stops_prepare(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def leaking(digests: np.ndarray, threshold: int) -> np.ndarray:
        roles = np.full(len(digests), 1, np.uint8)
        roles[::3] = 2
        return roles  # duplicates kept, so one copy may land on each side

    monkeypatch.setattr("ablab.data.corpus.split.roles_of", leaking)
    with pytest.raises(CheckFailed, match="are also in the training split"):
        make([*texts(10), *texts(10)])


def test_the_sample_does_not_depend_on_order() -> None:
    documents = [(digest_of(text.encode()), text) for text in texts(60)]
    samples = []
    for order in (documents, documents[::-1], documents + documents):
        sample = LeastDigests(3000)
        for digest, text in order:
            sample.add(digest, text)
        samples.append(sample.texts)
    assert samples[0] == samples[1] == samples[2]
    total, expected = 0, []
    for _, text in sorted(documents):
        total += min(len(text), 187)
        if total > 3000:
            break
        expected.append(text[:187])
    assert samples[0] == expected


def test_sentencepiece_is_trained_on_the_training_split_only(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from ablab.data.tokenizers.sentencepiece import SentencePiece

    seen: list[str] = []
    real = SentencePiece.train
    monkeypatch.setattr(SentencePiece, "train", lambda self, given: seen.extend(given) or real(self, given))
    documents = texts(100)
    made = make(documents, tokenizer={"name": "sentencepiece", "vocab_size": 300})
    assert sorted(seen) == sorted(train_texts(made)) == sorted(t for t in documents if not held_out(t, 0.2))
    assert made.manifest["tokenizer"]["fingerprint"] == made.tokenizer.fingerprint
    assert made.vocab_size == 300
    for ids, n_bytes, _ in made.valid:
        assert [len(made.tokenizer.to_bytes([i])) for i in ids.tolist()] == n_bytes.tolist()


def test_a_vocabulary_too_large_names_the_setting(make: Make) -> None:
    with pytest.raises(CheckFailed, match=r"data\.tokenizer: vocab_size = 8000 is too large .* set vocab_size <= \d+"):
        make(texts(60), tokenizer={"name": "sentencepiece", "vocab_size": 8000})


def test_two_builds_are_equal_byte_for_byte(make: Make) -> None:
    made = make(texts(60), tokenizer={"name": "sentencepiece", "vocab_size": 300})
    first = {path.name: path.read_bytes() for path in made.path.iterdir()}
    shutil.rmtree(made.path)
    made = make(texts(60), tokenizer={"name": "sentencepiece", "vocab_size": 300})
    assert {path.name: path.read_bytes() for path in made.path.iterdir()} == first


def test_wide_vocabularies_take_wide_files(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablab.data.tokenizers.bytes.Bytes.vocab_size", 1 << 17)
    made = make(texts(40))
    assert made.tokens.dtype == np.uint32
    assert train_texts(made)[0] == texts(40)[0] or not held_out(texts(40)[0], 0.2)


@pytest.mark.parametrize("tokenizer", [{"name": "bytes"}, {"name": "sentencepiece", "vocab_size": 1024}])
def test_the_real_library(tmp_path: Path, tokenizer: dict) -> None:
    said: list[str] = []
    asked = settings("python", tokenizer=tokenizer, valid_fraction=0.1)
    made = prepare_sources(Sources(texts=[PythonLibrary(limit=60)]), asked, tmp_path, said.append)
    assert made.n_train > 100_000
    (entry,) = made.manifest["inputs"]
    assert (entry["source"], entry["files"]) == ("python", 60)
    assert said[0].startswith("data: ") and "exact duplicates removed" in said[0]
    assert any("training tokens" in line for line in said[-2:])


def test_mock_is_ready_for_use(tmp_path: Path) -> None:
    made = prepare(settings("mock", valid_fraction=0.01), tmp_path, say=quiet)
    assert len(made.valid) >= 8
    assert made.n_train > 1_000_000


def test_opening_data_loads_no_torch() -> None:
    code = "import sys, ablab.data; assert not {'torch', 'pyarrow', 'sentencepiece', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=ENV)
