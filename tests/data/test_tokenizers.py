"""Tokenizers: exact round trips, exact bytes, no control tokens from text, the same model bytes every time."""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

import ablab
from ablab.data.tokenizers import slot
from ablab.data.tokenizers.bytes import Bytes
from ablab.data.tokenizers.sentencepiece import SentencePiece

TEXTS = [
    "def add(a, b):\n    return a + b\n",
    "class Point:\n\tdef __init__(self, x, y):\n\t\tself.x, self.y = x, y\n",
    "the quick brown fox jumps over the lazy dog, then sleeps for 1234567 years.\r\n",
    "héllo wörld \u2581 \u2585 \0 <s> </s> <unk> <0x41> \U0001f600",
] * 4
NASTY = [
    "",
    " ",
    "   leading and trailing   ",
    "\n\n\t\r\n \u00a0\u2003\u3000",
    "\u2581",
    "a\u2581\u2581 b\u2581",
    "<s></s><unk><pad><0x0A>\u2047",
    "\0a\0",
    "e\u0301 \u00e9 \ufb01 \u212b \uff21",  # what NFKC would change
    "\ufeffbom \ufffd \ufffe \U0010ffff",
    "\u2585\u2047",
    "a" * 5000,
]


@pytest.fixture(scope="module")
def pieces() -> SentencePiece:
    tokenizer = SentencePiece(vocab_size=380)
    tokenizer.train(TEXTS)
    return tokenizer


@pytest.fixture(scope="module", params=["bytes", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest, pieces: SentencePiece) -> Bytes | SentencePiece:
    return Bytes() if request.param == "bytes" else pieces


def check(tokenizer: Bytes | SentencePiece, text: str) -> None:
    ids, n_bytes = tokenizer.encode(text)
    assert len(ids) == len(n_bytes)
    assert int(n_bytes.sum()) == len(text.encode())
    assert tokenizer.decode(ids) == text
    assert tokenizer.to_bytes(ids) == text.encode()
    assert len(ids) == 0 or (ids.min() >= 0 and ids.max() < tokenizer.vocab_size)
    assert tokenizer.bos_id not in ids
    assert bool((n_bytes > 0).all())  # control tokens and <unk> stand for no bytes
    assert [len(tokenizer.to_bytes([i])) for i in ids.tolist()] == n_bytes.tolist()


@pytest.mark.parametrize("text", [*NASTY, *TEXTS[:4]], ids=range(len(NASTY) + 4))
def test_nasty_texts_come_back(tokenizer: Bytes | SentencePiece, text: str) -> None:
    check(tokenizer, text)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_comes_back(tokenizer: Bytes | SentencePiece, text: str) -> None:
    check(tokenizer, text)


@settings(max_examples=200, deadline=None)
@given(st.text(" \n\t\u2581\u2585<>/s0xAunkdef()_:", max_size=40))
def test_text_made_of_marks_comes_back(tokenizer: Bytes | SentencePiece, text: str) -> None:
    check(tokenizer, text)


def test_no_text_yields_a_token_twice_over(tokenizer: Bytes | SentencePiece) -> None:
    """Encoding what the tokens decode to gives the same tokens for pieces of whole documents."""
    for text in TEXTS:
        ids, _ = tokenizer.encode(text)
        assert np.array_equal(tokenizer.encode(tokenizer.decode(ids))[0], ids)


def test_lone_surrogates_are_refused(tokenizer: Bytes | SentencePiece) -> None:
    with pytest.raises(ValueError, match="character 2 is a lone surrogate; text must be valid Unicode"):
        tokenizer.encode("ab\ud800c")


@pytest.mark.parametrize("wrong", [-1, 10_000])
def test_ids_outside_the_vocabulary_are_refused(tokenizer: Bytes | SentencePiece, wrong: int) -> None:
    with pytest.raises(ValueError, match="token ids must lie in 0 to"):
        tokenizer.decode([65, wrong])


def test_bytes_that_are_no_utf8_decode_to_a_mark(tokenizer: Bytes | SentencePiece) -> None:
    ids, _ = tokenizer.encode("\u00e9")
    assert tokenizer.decode(ids[:1]) in ("\ufffd", "\u00e9")


def test_bos_stands_for_no_text(tokenizer: Bytes | SentencePiece) -> None:
    assert tokenizer.decode([tokenizer.bos_id]) == ""


def test_saved_and_loaded(tokenizer: Bytes | SentencePiece, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "t")
    again = type(tokenizer).load(tmp_path / "t")
    assert (again.fingerprint, again.vocab_size) == (tokenizer.fingerprint, tokenizer.vocab_size)
    assert np.array_equal(again.encode(TEXTS[0])[0], tokenizer.encode(TEXTS[0])[0])


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b'{"tokenizer": "other"}')
    with pytest.raises(ValueError, match="holds no byte tokenizer; prepare the data again"):
        Bytes.load(tmp_path / "t")
    with pytest.raises(ValueError, match="holds no SentencePiece model"):
        SentencePiece.load(tmp_path / "t")


def test_sizes_of_the_byte_tokenizer() -> None:
    assert (Bytes().vocab_size, Bytes().bos_id) == (257, 256)
    assert Bytes().encode("a\n\u00e9")[0].tolist() == [97, 10, 0xC3, 0xA9]


def test_pieces_learn_from_the_text(pieces: SentencePiece) -> None:
    assert pieces.vocab_size == 380
    assert len(pieces.encode(TEXTS[0])[0]) <= len(TEXTS[0]) / 2


def test_training_is_the_same_in_another_process(pieces: SentencePiece) -> None:
    code = (
        "from ablab.data.tokenizers.sentencepiece import SentencePiece\n"
        f"t = SentencePiece(vocab_size=380)\nt.train({TEXTS!r})\nprint(t.fingerprint)"
    )
    env = {"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(ablab.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == pieces.fingerprint


@pytest.mark.parametrize("size", [0, 258, 65_537])
def test_sizes_outside_the_range_are_refused(size: int) -> None:
    with pytest.raises(
        ValueError, match=f"vocab_size = {size} is outside 259 to 65536; choose one inside, such as 4096"
    ):
        SentencePiece(vocab_size=size)


def test_a_vocabulary_too_large_for_the_text_says_what_fits() -> None:
    with pytest.raises(
        ValueError, match=r"vocab_size = 8000 is too large .* supports (\d+) pieces; set vocab_size <= "
    ) as e:
        SentencePiece(vocab_size=8000).train(TEXTS)
    largest = int(str(e.value).split("<= ")[1].split()[0])
    SentencePiece(vocab_size=largest).train(TEXTS)  # the cure cures


def test_a_vocabulary_too_small_for_the_characters_says_what_is_needed() -> None:
    with pytest.raises(ValueError, match=r"vocab_size = 260 is too small .* set vocab_size > ") as e:
        SentencePiece(vocab_size=260).train(TEXTS)
    SentencePiece(vocab_size=int(str(e.value).split("> ")[1]) + 1).train(TEXTS)


def test_nothing_to_train_on() -> None:
    with pytest.raises(ValueError, match="the training text is empty; give more text"):
        SentencePiece().train(["", "\n\t"])


def test_an_untrained_tokenizer_says_so() -> None:
    with pytest.raises(ValueError, match=r"not trained; call train\(texts\) or load\(path\)"):
        SentencePiece().encode("a")


def test_they_are_in_the_slot() -> None:
    assert slot.names == ["bytes", "sentencepiece", "case_ops", "o200k_harmony"]
    chosen, faults = slot.coerce("sentencepiece", "data.tokenizer")
    assert (chosen, faults) == ({"name": "sentencepiece", "vocab_size": 4096, "model": ""}, [])
    assert slot.coerce("case_ops", "data.tokenizer")[0] == {"name": "case_ops", "vocab_size": 4096, "model": ""}
    assert [slot.revision({"name": name}) for name in slot.names] == [1, 1, 1, 1]
    assert [slot.load(name).paths for name in slot.names] == [(), ("model",), ("model",), ("vocab",)]


def test_bytes_are_counted_from_ids_alone(tokenizer: Bytes | SentencePiece) -> None:
    for text in [*NASTY, *TEXTS[:4]]:
        ids, n_bytes = tokenizer.encode(text)
        counted = tokenizer.count(np.append(tokenizer.bos_id, ids).astype(np.uint16))
        assert counted.dtype == np.int32 and counted.tolist() == [0, *n_bytes.tolist()]
    with pytest.raises(ValueError, match="token ids must lie in 0 to"):
        tokenizer.count([tokenizer.vocab_size])


def test_the_pieces_are_those_of_before(pieces: SentencePiece) -> None:
    """Stored studies rest on these settings: SentencePiece called with them gives the same bytes."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in TEXTS for line in re.split("[\n\t\0\u2581\u2585]+", text) if line]),
        model_writer=out, model_type="bpe", vocab_size=380, byte_fallback=True, normalization_rule_name="identity",
        add_dummy_prefix=False, remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, split_digits=True,
        character_coverage=0.9995, required_chars="\n", max_sentence_length=1 << 30, unk_id=0, bos_id=1, eos_id=-1,
        pad_id=-1, num_threads=1, minloglevel=3,
    )  # fmt: skip
    assert hashlib.sha256(out.getvalue()).hexdigest() == pieces.fingerprint


def test_an_existing_model_is_used_as_it_is(pieces: SentencePiece, tmp_path: Path) -> None:
    pieces.save(tmp_path / "a.model")
    loaded = SentencePiece(model=str(tmp_path / "a.model"))
    assert (loaded.trained, pieces.trained) == (False, True)
    loaded.ready()
    assert (loaded.vocab_size, loaded.bos_id, loaded.fingerprint) == (380, 1, pieces.fingerprint)
    for text in NASTY:
        check(loaded, text)
        assert np.array_equal(loaded.encode(text)[0], pieces.encode(text)[0])
    with pytest.raises(ValueError, match=r"a\.model is used as it is; remove model to train pieces"):
        loaded.train(TEXTS)
    loaded.save(tmp_path / "b.model")
    assert (tmp_path / "b.model").read_bytes() == (tmp_path / "a.model").read_bytes()


def test_a_model_that_is_missing_wrong_or_contradicted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="vocab_size = 1024 is given beside model, which has its own; remove vocab_size"
    ):
        SentencePiece(vocab_size=1024, model="a.model")
    for missing in (tmp_path / "none.model", tmp_path):
        with pytest.raises(ValueError, match=r"cannot be read .*; give the path of a \.model file"):
            SentencePiece(model=str(missing)).ready()
    (tmp_path / "wrong.model").write_bytes(b"no model")
    for use in ("vocab_size", "bos_id", "fingerprint"):
        with pytest.raises(ValueError, match=r"wrong\.model: holds no SentencePiece model, or only a part of one"):
            getattr(SentencePiece(model=str(tmp_path / "wrong.model")), use)
