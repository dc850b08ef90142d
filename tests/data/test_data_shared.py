"""Held-out documents that are trained on too, documents without a target, and text files that hold many documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.test_data_tokenised import masked, megatron, shard
from tests.data.tiny import settings

from ablab.core.fault import CheckFailed, InvalidStudy
from ablab.core.rng import stream
from ablab.data import Corpus, prepare
from ablab.data.corpus.verbatim import Verbatim
from ablab.data.sources.sources import JsonLines, TextFile


def made(tmp_path: Path, source: object, valid: object, said: list[str] | None = None, **changed: Any) -> Corpus:
    asked = settings(str(source), valid_source=[str(valid)], valid_fraction=0.01, **changed)
    return prepare(asked, tmp_path / "out", [].append if said is None else said.append)


def lines(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


SENTENCES = [f"Sentence {i} says {i * i}." for i in range(2000)]


@pytest.mark.parametrize("kind", ["text", "tokens"])
@pytest.mark.parametrize("shared", [["Thank you."], [], ["Thank you.", "Yes.", "Thank you.", "Sentence 5 says 25."]])
def test_official_splits_that_share_short_documents_have_a_way_in(tmp_path: Path, kind: str, shared: list[str]) -> None:
    train, valid = [*SENTENCES[:1900], "Thank you.", "Yes."], [*SENTENCES[1900:], *shared]
    said: list[str] = []
    if kind == "text":
        corpus = made(tmp_path, lines(tmp_path / "t.jsonl", train), lines(tmp_path / "v.jsonl", valid), said)
    else:
        files = [
            megatron(tmp_path / name, [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts])
            for name, texts in (("t", train), ("v", valid))
        ]
        corpus = made(tmp_path, *files, said)
    counts = corpus.manifest["counts"]
    assert (counts["train_documents"], counts["valid_documents"]) == (1902, 100)
    assert counts["also_trained_documents"] == len(shared)
    many = "document is" if len(shared) == 1 else "documents are"
    note = f"data: {len(shared)} held-out {many} also trained on, and left out"
    assert (note in said) == bool(shared)
    assert sorted(corpus.tokenizer.decode(one.ids) for one in corpus.valid) == sorted(SENTENCES[1900:])


def test_a_held_out_part_that_is_mostly_trained_on_is_refused(tmp_path: Path) -> None:
    train = lines(tmp_path / "t.jsonl", SENTENCES)
    for count, share in ((100, "100.0"), (60, "60.0")):
        valid = lines(tmp_path / "v.jsonl", [*SENTENCES[:count], *[f"Another {i} is {i}." for i in range(100 - count)]])
        said = (
            rf"{count} of 100 validation documents \({share} %\) are also in the training split; name a held-out part"
        )
        with pytest.raises(CheckFailed, match=said):
            made(tmp_path, train, valid)


def words(number: int, count: int) -> str:
    draws = stream(7, "test", "words", number)
    return " ".join(f"w{draws.integers(10_000)}" for _ in range(count))


def test_a_part_cut_from_the_training_text_is_seen(tmp_path: Path) -> None:
    whole = "\n".join(words(i, 40) for i in range(200))
    (tmp_path / "train.txt").write_text(whole + "\n")
    for name, cut in (("a", whole[5_000:12_345]), ("b", whole[-7_000:]), ("c", words(999, 10) + whole[777:9_000])):
        (tmp_path / f"{name}.txt").write_text(cut)
        with pytest.raises(
            CheckFailed, match=r"1 of 1 validation documents \(100\.0 %\) are also in the training split"
        ):
            made(tmp_path, tmp_path / "train.txt", tmp_path / f"{name}.txt")
    (tmp_path / "d.txt").write_text(words(1000, 900) + whole[:1_000])  # a quotation is no cut
    assert len(made(tmp_path, tmp_path / "train.txt", tmp_path / "d.txt").valid) == 1


def values(raw: bytes) -> np.ndarray:
    return np.frombuffer(raw, np.uint8)


def test_windows_are_found_wherever_they_lie() -> None:
    draws = np.random.default_rng(0)
    train = draws.integers(0, 256, (1 << 21) + 777, dtype=np.uint8).tobytes()
    found = Verbatim()
    places = [0, 1, (1 << 20) - 200, (1 << 20) - 63, len(train) - 300]
    for at in places:
        found.hold(values(train[at : at + 300]))
        found.hold(draws.integers(0, 256, 300, dtype=np.uint8))
    found.hold(values(b"short"))
    found.hold(values(bytes(300)))
    found.train(values(b"tiny"))
    found.train(values(train))
    assert found.cuts() == [2 * i for i in range(len(places))]


DOCS = [words(i, 130) for i in range(120)]  # about 750 bytes each
CUTS: dict[str, list[str]] = {
    "less the last byte": [text[:-1] for text in DOCS],
    "from the middle": [text[100:700] for text in DOCS],
    "with a title": ["Title: x\n" + text for text in DOCS],
    "short": [text[100:200] for text in DOCS],
    "spliced": [one[:400] + other[400:] for one, other in zip(DOCS, DOCS[1:])],
}


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("kind", ["text", "golf", "megatron"])
def test_documents_cut_from_training_documents_are_refused(tmp_path: Path, kind: str, how: str) -> None:
    def written(name: str, texts: list[str]) -> Path:
        if kind == "text":
            return lines(tmp_path / f"{name}.jsonl", texts)
        if kind == "golf":
            return shard(tmp_path / f"{name}.bin", texts)
        return megatron(tmp_path / name, [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts])

    train, new = written("t", DOCS), [words(1000 + i, 40) for i in range(20)]
    count = len(CUTS[how])
    with pytest.raises(
        CheckFailed, match=rf"{count} of {count} validation documents \(100\.0 %\) are also in the training"
    ):
        made(tmp_path, train, written("v", CUTS[how]))
    counts = made(tmp_path, train, written("w", [*CUTS[how][:3], *new])).manifest["counts"]
    assert (counts["also_trained_documents"], counts["valid_documents"]) == (3, 20)


def test_documents_joined_to_one_and_a_window_of_one_long_document_are_refused(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("\n\n".join(DOCS[-40:]))
    with pytest.raises(CheckFailed, match="1 of 1 validation documents"):
        made(tmp_path, lines(tmp_path / "t.jsonl", DOCS), tmp_path / "v.txt")
    whole = " ".join(DOCS)
    with pytest.raises(CheckFailed, match="1 of 1 validation documents"):
        made(tmp_path, shard(tmp_path / "t.bin", [whole]), shard(tmp_path / "v.bin", [whole[20_000:60_000]]))


@pytest.mark.parametrize("kind", ["text", "golf", "megatron"])
def test_a_split_by_content_scores_no_near_copy_of_what_is_trained_on(tmp_path: Path, kind: str) -> None:
    def asked(texts: list[str], said: list[str]) -> Corpus:
        if kind == "text":
            source = lines(tmp_path / "a.jsonl", texts)
        elif kind == "golf":
            source = shard(tmp_path / "a.bin", texts)
        else:
            ids = [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]
            source = megatron(tmp_path / "a", ids)
        return prepare(settings(str(source), valid_fraction=0.1), tmp_path / "out", said.append)

    copied = [f"Title: x\n{text}" for text in DOCS]
    with pytest.raises(CheckFailed, match=r"data\.source: \d+ of \d+ held-out documents .* word for word, in training"):
        asked([*DOCS, *copied], [])
    said: list[str] = []
    plain = asked(DOCS, said)
    assert plain.manifest["counts"]["also_trained_documents"] == 0
    assert not [line for line in said if "left out" in line]
    some = asked([*DOCS, *copied[:20]], said)
    assert (count := some.manifest["counts"]["also_trained_documents"])
    assert [line for line in said if f"{count} of " in line and "in training documents, and are left out" in line]
    before, after = ({one.tokenizer.decode(each.ids) for each in one.valid} for one in (plain, some))
    twins = list(zip(DOCS[:20], copied[:20], strict=True))
    assert all((text in after) == (copy in after) for text, copy in twins)  # never one scored and one trained
    assert before - after == {text for text, _ in twins if text in before and text not in after}
    assert after <= before | set(copied)


@pytest.mark.parametrize("named", [True, False])
def test_headers_that_many_documents_share_refuse_nothing(tmp_path: Path, named: bool) -> None:
    """Licences and prompts: 70% of every document, and each has text of its own."""
    header = words(5000, 300)
    train, valid = ([f"{header}\n{words(i, 120)}" for i in some] for some in (range(100), range(200, 230)))
    said: list[str] = []
    if named:
        counts = made(tmp_path, lines(tmp_path / "t.jsonl", train), lines(tmp_path / "v.jsonl", valid), said).manifest[
            "counts"
        ]
        assert (counts["also_trained_documents"], counts["valid_documents"]) == (0, 30)
    else:
        source = lines(tmp_path / "t.jsonl", train)
        counts = prepare(settings(str(source)), tmp_path / "out", said.append).manifest["counts"]
        assert counts["also_trained_documents"] == 0
    assert not [line for line in said if "warning" in line or "left out" in line]


@pytest.mark.parametrize("separator", ["<|endoftext|>", "\n\n", "\f", "</s>", "\r\n\r\n"])
def test_a_text_file_with_separators_is_many_documents(tmp_path: Path, separator: str) -> None:
    stories = [f"Story {i}:\nthe cat saw {i * i} birds." for i in range(60)]
    for name, part in (("t", stories[:50]), ("v", stories[50:]), ("leak", stories[20:30])):
        around = "\n" if separator.startswith("<") else ""
        (tmp_path / f"{name}.txt").write_bytes(f"{around}{separator}{around}".join(part).encode() + b"\n")
    changed = {} if separator == "<|endoftext|>" else {"text_separator": separator}
    corpus = made(tmp_path, tmp_path / "t.txt", tmp_path / "v.txt", **changed)
    assert len(corpus.documents) == 50
    assert sorted(corpus.tokenizer.decode(one.ids) for one in corpus.valid) == sorted(stories[50:])
    with pytest.raises(CheckFailed, match="10 of 10 validation documents"):
        made(tmp_path, tmp_path / "t.txt", tmp_path / "leak.txt", **changed)
    whole = made(tmp_path, tmp_path / "t.txt", tmp_path / "v.txt", text_separator="")
    assert (len(whole.documents), len(whole.valid)) == (1, 1) and whole.key != corpus.key


def test_a_separator_that_cuts_nothing_is_refused(tmp_path: Path) -> None:
    for name in ("t", "v"):
        (tmp_path / f"{name}.txt").write_bytes(f"{name}: one\r\n\r\ntwo\r\n".encode())
    with pytest.raises(
        InvalidStudy, match=r"data\.text_separator: '\\n\\n' occurs in no \.txt file of the sources; remove"
    ):
        made(tmp_path, tmp_path / "t.txt", tmp_path / "v.txt", text_separator="\n\n")
    for separator in ("", "\n\n"):
        with pytest.raises(InvalidStudy, match=r"text_separator: cuts nothing: no source is a \.txt file; remove it"):
            made(tmp_path, lines(tmp_path / "a.jsonl", SENTENCES), tmp_path / "a.jsonl", text_separator=separator)
    corpus = made(tmp_path, tmp_path / "t.txt", tmp_path / "v.txt", text_separator="\r\n\r\n")  # the cure
    assert len(corpus.documents) == 2 and len(corpus.valid) == 1  # "two" is on both sides


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone \xef\xbb\xbf\r\n")
    assert list(TextFile(tmp_path / "a.txt").documents()) == [(str(tmp_path / "a.txt"), "one \ufeff\r\n")]
    row = '{"text": "one"}'
    (tmp_path / "a.jsonl").write_bytes(f"\ufeff{row}\r\n\ufeff\n\ufeff{row}\r\n".encode())
    assert [text for _, text in JsonLines(tmp_path / "a.jsonl").documents()] == ["one", "one"]
    for kind in ("utf-16", "utf-16-le", "utf-16-be"):
        for name, reader in (("b.txt", TextFile), ("b.jsonl", JsonLines)):
            (tmp_path / name).write_bytes((row + "\n").encode(kind))
            with pytest.raises(CheckFailed, match=rf"{name}: is UTF-16.*; convert it to UTF-8: iconv -f UTF-16"):
                list(reader(tmp_path / name).documents())


def test_a_key_that_stands_twice_and_a_text_filled_with_zeros_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "meta": 1, "meta": 2}\n{"text": "b", "text": "c"}\n')
    with pytest.raises(CheckFailed, match=r"line 2: has the field 'text' more than once; keep one"):
        list(JsonLines(tmp_path / "a.jsonl").documents())
    (tmp_path / "a.txt").write_bytes(b"text" + bytes(100))
    with pytest.raises(
        CheckFailed, match=r"a\.txt: ends in 100 zero bytes: filled up, not written; copy the file again"
    ):
        list(TextFile(tmp_path / "a.txt").documents())


@pytest.mark.parametrize("named", [True, False])
def test_documents_without_a_target_enter_no_check(tmp_path: Path, named: bool) -> None:
    """One token, or none that is scored: equal ones on both sides are no leak, no duplicates and no documents."""
    train = [np.array([5, *range(i, i + 9)], np.int32) for i in range(100)]
    valid = [np.array([6, *range(i, i + 9)], np.int32) for i in range(20)]
    alone = [np.array([7], np.int32)] * 30
    t, v = megatron(tmp_path / "t", [*train, *alone]), megatron(tmp_path / "v", [*valid, *alone])
    if named:
        counts = made(tmp_path, t, v).manifest["counts"]
        assert (counts["valid_documents"], counts["also_trained_documents"]) == (20, 0)
        assert counts["unscored_documents"] == 30
    else:
        counts = prepare(settings(str(t), str(v)), tmp_path / "out", lambda _: None).manifest["counts"]
        assert (counts["unscored_documents"], counts["duplicates"]) == (60, 0)
        assert counts["train_documents"] + counts["valid_documents"] == 120


def test_masked_documents_without_a_target_are_no_leak(tmp_path: Path) -> None:
    plain = [([9, i, 2, 3], [0, 1, 2, 0]) for i in range(40)]
    silent = [([9, 1, 2, 3], [0, 0, 0, 0])] * 5
    (tmp_path / "t").mkdir(), (tmp_path / "v").mkdir()
    t, v = masked(tmp_path / "t", "a", [*plain[:30], *silent]), masked(tmp_path / "v", "a", [*plain[30:], *silent])
    counts = made(tmp_path, t, v).manifest["counts"]
    assert (counts["valid_documents"], counts["unscored_documents"], counts["also_trained_documents"]) == (10, 5, 0)


def test_one_document_is_no_documents(tmp_path: Path) -> None:
    said: list[str] = []
    made(
        tmp_path,
        lines(tmp_path / "t.jsonl", ["One text.", "One text."]),
        lines(tmp_path / "v.jsonl", ["Another."]),
        said,
    )
    assert "data: 3 documents, 0.0 MB, 1 exact duplicate removed" in said
    assert "data: 10 training tokens in 1 document, 8 validation tokens in 1" in said
    assert not [line for line in said if "1 documents" in line]


def test_one_large_document_that_looks_like_many_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    for name, separator in (("t", "\n\n"), ("v", "\n")):
        (tmp_path / f"{name}.txt").write_text(separator.join(words(i + 99 * (name == "v"), 300) for i in range(60)))
    made(tmp_path, tmp_path / "t.txt", tmp_path / "v.txt", said)
    assert f'data: {tmp_path}/t.txt is one document; data.text_separator = "\\n\\n" would make 60 of it' in said
    assert not any("v.txt is one document" in line for line in said)
