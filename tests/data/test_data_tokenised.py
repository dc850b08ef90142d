"""Token files as sources: read in place, split where nothing is held out, masked, counted in bytes, refused when they lie."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.built import seal, write_dataset
from tests.data.tiny import settings, texts
from tests.sharded import write_shard

from ablab.core.fault import CheckFailed, InvalidStudy
from ablab.core.files import read_json
from ablab.data import Corpus, Stream, open_corpus, prepare, valid_rows
from ablab.data.corpus.tokens import PLAIN, UNTRAINED, Tokens
from ablab.data.formats.indexed import IndexedWriter
from ablab.data.spans import FINAL, REASONING
from ablab.data.tokenizers.bytes import Bytes
from ablab.data.vocabulary import SHA256

BOS = Bytes.bos_id


def quiet(_: str) -> None:
    pass


def ids_of(text: str) -> np.ndarray:
    return np.append(BOS, Bytes().encode(text)[0])


def shard(path: Path, documents: list[str], *, plain: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_shard(path, np.concatenate([ids_of(text) for text in documents]), plain=plain)
    return path


def megatron(prefix: Path, documents: list[np.ndarray]) -> Path:
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with IndexedWriter(prefix, np.int32) as writer:
        for ids in documents:
            writer.add(ids)
            writer.end_document()
    return prefix


def masked(folder: Path, name: str, documents: list[tuple[list[int], list[int]]]) -> Path:
    """Documents of (ids, spans of the tokens themselves); files are label-aligned, as Megatron's are."""
    parts: dict[str, list[np.ndarray]] = {"tokens": [], "lossmask": [], "span": []}
    for ids, spans in documents:
        aligned = np.array([*spans[1:], 0], np.uint8)
        parts["tokens"].append(np.array(ids, np.int32))
        parts["lossmask"].append((aligned > 0).astype(np.uint8))
        parts["span"].append(aligned)
    for end, arrays in parts.items():
        with IndexedWriter(folder / f"{name}_{end}", np.int32 if end == "tokens" else np.uint8) as writer:
            for array in arrays:
                writer.add(array)
                writer.end_document()
    return folder / f"{name}_tokens"


def made(tmp_path: Path, *source: object, valid: object = None, **changed: Any) -> Corpus:
    asked = settings(*map(str, source), **changed)
    if valid is not None:
        asked |= {"valid_source": [str(valid)], "valid_fraction": changed.get("valid_fraction", 0.01)}
    return prepare(asked, tmp_path / "out", quiet)


def documents_of(corpus: Corpus) -> list[bytes]:
    """The training documents as a reader of rows meets them."""
    tokens = corpus.tokens if isinstance(corpus.tokens, Tokens) else Tokens([corpus.tokens])
    flat = tokens.rows(np.array([0]), len(tokens))[0]
    return [corpus.tokenizer.to_bytes(ids) for ids in np.split(flat, corpus.documents[1:])]


@pytest.mark.parametrize("plain", [False, True])
def test_shards_are_read_in_place_document_by_document(tmp_path: Path, plain: bool) -> None:
    every = [text for text in texts(60) if text]
    for i in range(3):
        shard(tmp_path / "d" / f"fineweb_train_{i:06}.bin", every[i * 15 : i * 15 + 15], plain=plain)
    shard(tmp_path / "d" / "fineweb_val_000000.bin", every[45:], plain=plain)
    corpus = made(tmp_path, tmp_path / "d" / "fineweb_train_*.bin", valid=tmp_path / "d" / "fineweb_val_*.bin")
    assert documents_of(corpus) == [text.encode() for text in every[:45]]
    assert sorted(corpus.tokenizer.decode(one.ids) for one in corpus.valid) == sorted(every[45:])
    assert corpus.valid.n_scored_bytes == sum(len(text.encode()) for text in every[45:])
    assert not (corpus.path / "train.tokens").exists(), "training tokens are not copied"
    assert corpus.n_train == sum(len(ids_of(text)) for text in every[:45])


def test_rows_of_token_files_equal_rows_of_the_same_text(tmp_path: Path) -> None:
    every = [text for text in texts(40) if text]
    for i, text in enumerate(every):
        (tmp_path / ("held" if i % 4 == 0 else "train")).mkdir(exist_ok=True)
        (tmp_path / ("held" if i % 4 == 0 else "train") / f"{i:03}.txt").write_text(text, encoding="utf-8")
    kept = [text for i, text in enumerate(every) if i % 4]
    shard(tmp_path / "a.bin", kept[:11]), shard(tmp_path / "b.bin", kept[11:])
    shard(tmp_path / "v.bin", every[::4])
    text = made(tmp_path, f"{tmp_path}/train/*.txt", valid=f"{tmp_path}/held/*.txt")
    ids = made(tmp_path, tmp_path / "a.bin", tmp_path / "b.bin", valid=tmp_path / "v.bin")
    how = {"seed": 3, "span": 32, "batch_tokens": 128, "seq_len": 32}
    one, other = Stream(text, **how), Stream(ids, **how)
    for step in range(2 * text.n_train // 128):  # more than once round the circle
        for mine, theirs in zip(one.batch(step), other.batch(step)):
            assert np.array_equal(mine, theirs)
    assert valid_rows(text, 16).tokens_RT.shape == valid_rows(ids, 16).tokens_RT.shape


def test_without_held_out_files_documents_are_split_by_content(tmp_path: Path) -> None:
    every = [text for text in texts(80) if text]
    prefix = megatron(tmp_path / "all", [ids_of(text) for text in [*every, every[3]]])
    corpus = made(tmp_path, prefix)
    held = {corpus.tokenizer.decode(one.ids) for one in corpus.valid}
    trained = [text.decode() for text in documents_of(corpus)]
    assert sorted([*held, *trained]) == sorted(every) and held and trained
    assert corpus.manifest["counts"]["duplicates"] == 1
    assert (corpus.path / "train.tokens").exists()


def test_marks_say_what_is_trained_and_scored(tmp_path: Path) -> None:
    rows = [([5, 6, 7, 8, 9, 10], [0, 0, 1, 1, 2, 0]), ([11, 12, 13], [0, 0, 0]), ([14, 15, 16, 17], [0, 2, 2, 0])] * 8
    train = masked(tmp_path, "t", rows)
    valid = masked(tmp_path, "v", [([*ids[:-1], 99 + n], spans) for n, (ids, spans) in enumerate(rows)])
    corpus = made(tmp_path, train, valid=valid)
    assert corpus.marks is not None and corpus.valid.spans
    batch = Stream(corpus, seed=0, span=16, batch_tokens=64, seq_len=16).batch(0)
    tokens, targets, _, spans = (part.numpy() for part in batch)
    want = {6: (7, 1), 7: (8, 1), 8: (9, 2), 14: (15, 2), 15: (16, 2)}
    for token, target, span in zip(tokens.flat, targets.flat, spans.flat):
        assert (int(target), int(span)) == want.get(int(token), (-1, 0)), f"after {token}"
    assert len({tuple(one.marks) for one in corpus.valid}) == 2, "documents without a target are left out"
    assert corpus.manifest["counts"]["unscored_documents"] == 8
    for one in corpus.valid:
        assert list(one.marks) in ([0, 0, REASONING, REASONING, FINAL, 0], [0, FINAL, FINAL, 0])
    rows_of = valid_rows(corpus, 4)
    assert int((rows_of.targets_RT >= 0).sum()) == corpus.valid.n_targets == 8 * 3 + 8 * 2
    assert np.array_equal(rows_of.spans_RT > 0, rows_of.targets_RT >= 0)
    assert made(tmp_path, tmp_path / "t", valid=tmp_path / "v").key == corpus.key, (
        "a prefix without _tokens is found, too"
    )
    again = open_corpus(corpus.path)
    assert np.array_equal(again.valid.marks, corpus.valid.marks)


def test_labels_and_byte_counts_are_no_tokens(tmp_path: Path) -> None:
    train = masked(tmp_path, "t", [([5, 6, 7, 8], [0, 0, 0, 1])] * 3)
    for named in (tmp_path / "t_lossmask.bin", tmp_path / "t_span.bin"):
        with pytest.raises(
            InvalidStudy, match=r"holds labels or byte counts of another file, no tokens; name that file"
        ):
            made(tmp_path, named, valid=train)
    silent = masked(tmp_path, "s", [([5, 6, 7, 8], [0, 0, 0, 0])] * 3)
    with pytest.raises(CheckFailed, match="masks every training token: nothing would be learned; check the masks"):
        made(tmp_path, silent, valid=masked(tmp_path, "v", [([9, 6, 7, 8], [0, 0, 0, 1])]))


def test_marks_survive_the_split(tmp_path: Path) -> None:
    rows = [([5, 6, 7, 8, 100 + n], [0, 0, 1, 2, 0]) for n in range(40)]
    corpus = made(tmp_path, masked(tmp_path, "t", rows))
    batch = Stream(corpus, seed=0, span=20, batch_tokens=100, seq_len=20).batch(0)
    found = {(int(a), int(b), int(c)) for a, b, c in zip(*(batch[i].flatten() for i in (0, 1, 3))) if b >= 0}
    assert found == {(6, 7, 1), (7, 8, 2)}
    assert set(corpus.valid.marks.tolist()) == {UNTRAINED, REASONING, FINAL} and PLAIN not in corpus.valid.marks


def test_a_document_on_both_sides_stops_the_run(tmp_path: Path) -> None:
    every = [text for text in texts(30) if text]
    shard(tmp_path / "t.bin", every), shard(tmp_path / "v.bin", [every[4], "never seen", every[9]])
    with pytest.raises(CheckFailed, match=r"2 of 3 validation documents \(66\.7 %\) are also in the training split"):
        made(tmp_path, tmp_path / "t.bin", valid=tmp_path / "v.bin")


def test_the_same_for_text(tmp_path: Path) -> None:
    for name, text in (("t1", "one"), ("t2", "two"), ("v1", "two"), ("v2", "three")):
        (tmp_path / f"{name}.txt").write_text(text)
    (tmp_path / "v2.txt").write_text("3")
    with pytest.raises(CheckFailed, match=r"1 of 2 validation documents \(50\.0 %\) are also in the training split"):
        made(tmp_path, f"{tmp_path}/t*.txt", valid=f"{tmp_path}/v*.txt")


def test_named_held_out_text_is_all_held_out(tmp_path: Path) -> None:
    for i in range(12):
        (tmp_path / f"{'v' if i < 3 else 't'}{i}.txt").write_text(f"text {i}")
    corpus = made(tmp_path, f"{tmp_path}/t*.txt", valid=f"{tmp_path}/v*.txt")
    assert sorted(corpus.tokenizer.decode(one.ids) for one in corpus.valid) == ["text 0", "text 1", "text 2"]
    assert len(corpus.documents) == 9


def test_ids_beyond_the_vocabulary_are_named(tmp_path: Path) -> None:
    write_shard(tmp_path / "t.bin", np.array([BOS, 1, 300, 2]))
    with pytest.raises(
        CheckFailed, match=r"t\.bin: token id 300 is outside the tokenizer's vocabulary of 257; name the"
    ):
        made(tmp_path, tmp_path / "t.bin", valid=tmp_path / "t.bin")


def test_sidecars_of_bytes_are_what_is_counted(tmp_path: Path) -> None:
    shard(tmp_path / "fineweb_train_0.bin", [f"some text {i}" for i in range(9)])
    valid = shard(tmp_path / "fineweb_val_0.bin", ["held out", "and more"])
    count = len(ids_of("held out")) + len(ids_of("and more"))
    right = np.ones(count, np.int64)
    right[[0, len(ids_of("held out"))]] = 0
    write_shard(tmp_path / "fineweb_val_bytes_0.bin", right)
    corpus = made(tmp_path, tmp_path / "fineweb_train_0.bin", valid=tmp_path / "fineweb_val_*.bin")
    assert corpus.valid.n_scored_bytes == count - 2 and len(corpus.valid) == 2
    for sizes, said in (
        (
            right * 7,
            r"byte sidecar: a held-out document counts 56 bytes where its text has 8 \(ratio 7.0000\); bits per",
        ),
        (right * 0, r"byte sidecar: a held-out document counts 0 bytes where its text has 8"),
        (right * 0 + 1, r"byte sidecar: charges bytes to BOS, which stands for no text"),
    ):
        write_shard(tmp_path / "fineweb_val_bytes_0.bin", sizes)
        with pytest.raises(CheckFailed, match=said):
            made(tmp_path, tmp_path / "fineweb_train_0.bin", valid=valid)
    write_shard(tmp_path / "fineweb_val_bytes_0.bin", sizes[:-1])
    with pytest.raises(CheckFailed, match=f"has {count - 1} counts, {valid.name} has {count} tokens"):
        made(tmp_path, tmp_path / "fineweb_train_0.bin", valid=valid)


def test_declared_bytes_are_held_against_the_text(tmp_path: Path) -> None:
    shard(tmp_path / "t.bin", [f"some text {i}" for i in range(9)]), shard(tmp_path / "v.bin", ["held out"])
    made(tmp_path, tmp_path / "t.bin", valid=tmp_path / "v.bin", valid_text_bytes=8)
    with pytest.raises(CheckFailed, match=r"holds 8 bytes of text, the study says 7 \(ratio 1\.1429\); bits per byte"):
        made(tmp_path, tmp_path / "t.bin", valid=tmp_path / "v.bin", valid_text_bytes=7)


def test_a_changed_token_file_makes_another_corpus_and_never_an_old_one(tmp_path: Path) -> None:
    path = shard(tmp_path / "t.bin", [f"some text {i}" for i in range(9)])
    shard(tmp_path / "v.bin", ["held out"])
    first = made(tmp_path, path, valid=tmp_path / "v.bin")
    shard(path, [f"other text {i}" for i in range(9)])
    with pytest.raises(
        CheckFailed, match=r"t\.bin: is not the file that corpus [0-9a-f]{8} was made from \(sha256 differs\)"
    ):
        open_corpus(first.path)
    assert made(tmp_path, path, valid=tmp_path / "v.bin").key != first.key
    path.unlink()
    with pytest.raises(CheckFailed, match=r"t\.bin: is not the file that corpus \w+ was made from \(it is missing\)"):
        open_corpus(first.path)


def test_token_files_may_move(tmp_path: Path) -> None:
    path = shard(tmp_path / "t.bin", [f"some text {i}" for i in range(9)])
    held = shard(tmp_path / "v.bin", ["held out"])
    first = made(tmp_path, path, valid=held)
    (tmp_path / "there").mkdir()
    again = made(tmp_path, path.rename(tmp_path / "there" / "t.bin"), valid=held.rename(tmp_path / "there" / "w.bin"))
    assert again.key == first.key and documents_of(again) == documents_of(first)
    assert documents_of(open_corpus(first.path)) == documents_of(first), "the corpus has learned where they are"


def test_repeats_stay_in_files_that_are_named_as_held_out(tmp_path: Path) -> None:
    (
        shard(tmp_path / "t.bin", [f"some text {i}" for i in range(9)]),
        shard(tmp_path / "v.bin", ["again", "again", "once"]),
    )
    corpus = made(tmp_path, tmp_path / "t.bin", valid=tmp_path / "v.bin", valid_text_bytes=14)
    assert sorted(corpus.tokenizer.decode(one.ids) for one in corpus.valid) == ["again", "again", "once"]
    for name, text in (("a", "train"), ("b", "held"), ("c", "held")):
        (tmp_path / f"{name}.txt").write_text(text)
    text = made(tmp_path, tmp_path / "a.txt", valid=f"{tmp_path}/[bc].txt")
    assert len(text.valid) == 2 and text.valid.n_scored_bytes == 8


@pytest.mark.parametrize(
    "end, value, said",
    [
        ("span", 9, r"t_span: says loss 1 and span 9 at token 2; a loss mask is 0 or 1, a span 0, 1 or 2"),
        ("lossmask", 3, r"t_lossmask: says loss 3 and span 1 at token 2"),
        ("lossmask", 0, r"t_span: says loss 0 and span 1 at token 2"),
    ],
)
def test_labels_that_mean_nothing_are_named(tmp_path: Path, end: str, value: int, said: str) -> None:
    train = masked(tmp_path, "t", [([5, 6, 7, 8], [0, 0, 0, 1])] * 3)
    data = bytearray((tmp_path / f"t_{end}.bin").read_bytes())
    data[2] = value
    (tmp_path / f"t_{end}.bin").write_bytes(data)
    with pytest.raises(CheckFailed, match=said):
        made(tmp_path, train, valid=masked(tmp_path, "v", [([9, 6, 7, 8], [0, 0, 0, 1])]))


def test_tokens_of_a_type_too_small_for_the_vocabulary_are_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "t.bin", np.arange(50))
    with pytest.raises(
        CheckFailed, match=r"t\.bin: has uint16 tokens, too small for a vocabulary of 201,088; name the"
    ):
        tokenizer = {"name": "o200k_harmony", "vocab": ""}
        made(tmp_path, tmp_path / "t.bin", valid=tmp_path / "t.bin", tokenizer=tokenizer)


def test_settings_that_these_sources_leave_idle_are_refused(tmp_path: Path) -> None:
    shard(tmp_path / "t.bin", ["a text"] * 3), shard(tmp_path / "v.bin", ["held out"])
    with pytest.raises(InvalidStudy) as caught:
        made(tmp_path, tmp_path / "t.bin", valid=tmp_path / "v.bin", valid_fraction=0.5, text_field="body")
    assert [str(fault) for fault in caught.value.faults] == [
        "data.valid_fraction: 0.5 chooses nothing: the held-out part has files of its own; remove it",
        "data.text_field: 'body' is read from nothing: token files hold no fields; remove it",
    ]


def test_a_build_that_held_nothing_out_is_not_split_in_silence(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "built")
    manifest = read_json(folder / "manifest.json")
    manifest["tokenizer"]["sha256"] = SHA256
    manifest["splits"]["valid"] |= {"shards": [], "rows": 0, "tokens": 0}
    for file in (folder / "valid").iterdir():
        file.unlink()
    seal(folder, manifest)
    with pytest.raises(
        CheckFailed, match=r"data\.source: has an empty held-out part: there is nothing to score; build it"
    ):
        made(tmp_path, folder, tokenizer={"name": "o200k_harmony", "vocab": ""})


def test_only_shards_have_byte_sidecars(tmp_path: Path) -> None:
    for name in ("a_val_bytes_1", "b"):
        (tmp_path / f"{name}.txt").write_text(f"text of {name}")
    corpus = made(tmp_path, f"{tmp_path}/*.txt", valid_fraction=0.5)
    assert corpus.manifest["counts"]["documents"] == 2


def test_what_cannot_be_meant_is_said_at_once(tmp_path: Path) -> None:
    shard(tmp_path / "t.bin", ["a text"])
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "half.idx").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("{}")
    asked = settings(*(f"{tmp_path}/{name}" for name in ("t.bin", "a.txt", "half", "empty", "other", "no*.bin")))
    with pytest.raises(InvalidStudy) as caught:
        prepare(asked, tmp_path / "out", quiet)
    assert [str(fault).replace(str(tmp_path), "") for fault in caught.value.faults] == [
        "data.source: '/half.bin' is missing beside its partner; a Megatron prefix needs .bin and .idx",
        "data.source: '/empty' is a folder; name its files, such as '/empty/*.txt'",
        "data.source: '/other' is a folder; name its files, such as '/other/*.txt'",
        "data.source: '/no*.bin' matches no file; check the path; \"python\" needs none",
        "data.source: mixes texts and token files; give sources of one kind",
    ]


def test_a_tokenizer_to_be_trained_has_no_text_there(tmp_path: Path) -> None:
    shard(tmp_path / "t.bin", ["a text"])
    with pytest.raises(
        CheckFailed, match=r"'sentencepiece' would be trained, and token files hold no text; name the model"
    ):
        tokenizer = {"name": "sentencepiece", "vocab_size": 300, "model": ""}
        made(tmp_path, tmp_path / "t.bin", valid=tmp_path / "t.bin", tokenizer=tokenizer)


def test_masked_and_unmasked_files_do_not_mix(tmp_path: Path) -> None:
    one = masked(tmp_path, "t", [([5, 6, 7], [0, 1, 2])] * 4)
    shutil.copy(f"{one}.bin", tmp_path / "plain.bin"), shutil.copy(f"{one}.idx", tmp_path / "plain.idx")
    with pytest.raises(CheckFailed, match="some files have loss masks and spans beside them, others have none"):
        made(tmp_path, one, tmp_path / "plain", valid=one)
