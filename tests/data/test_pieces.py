"""SentencePiece models of any kind: bytes per token against SentencePiece's own decoding, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from ablab.data import pieces
from ablab.data.capitals import OPERATORS
from ablab.data.pieces import SPACE, Pieces
from ablab.data.tokenizers.sentencepiece import SentencePiece

TEXTS = [
    "the quick brown fox jumps over the lazy dog and sleeps for 1234 years",
    "The number of bytes is counted by the tokenizer, not by the model.",
    "caf\u00e9 na\u00efve \u4f60\u597d \u043c\u0438\u0440 one two three",
    "to be or not to be: that is the question; to sleep, to dream",
] * 6
PLAIN = st.lists(st.text("abcdefghijklmnopqrstuvwxyz.,;\u00e9\u4f60\U0001f600", min_size=1, max_size=8), min_size=1)
KINDS = {
    "golf": dict(normalization_rule_name="nmt_nfkc", add_dummy_prefix=False),
    "dummy": dict(normalization_rule_name="nmt_nfkc", add_dummy_prefix=True),
    "dummy_identity": dict(normalization_rule_name="identity", add_dummy_prefix=True, remove_extra_whitespaces=False),
    "unigram": dict(normalization_rule_name="nmt_nfkc", add_dummy_prefix=True, model_type="unigram", vocab_size=330),
}


def trained(**changed: Any) -> bytes:
    """A model with the layout of published ones: <pad> 0, <s> 1, </s> 2, <unk> 3, then the bytes."""
    out = io.BytesIO()
    asked: dict[str, Any] = dict(
        model_type="bpe", vocab_size=380, byte_fallback=True, split_digits=True, character_coverage=0.999,
        pad_id=0, bos_id=1, eos_id=2, unk_id=3, hard_vocab_limit=False, num_threads=1, minloglevel=3,
    )  # fmt: skip
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(TEXTS), model_writer=out, **{**asked, **changed})
    return out.getvalue()


@pytest.fixture(scope="module")
def models() -> dict[str, bytes]:
    return {name: trained(**kind) for name, kind in KINDS.items()}


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest, models: dict[str, bytes]) -> tuple[Pieces, Any]:
    model = models[request.param]
    return Pieces(model), sentencepiece.SentencePieceProcessor(model_proto=model)


def slow_count(processor: Any, ids: list[int], dummy: bool) -> list[int]:
    """The published rule, one token after the other, from what SentencePiece says of each piece."""

    def boundary(i: int) -> bool:
        return bool(processor.is_control(i) or processor.is_unknown(i) or processor.is_unused(i))

    found, before = [], True
    for i in ids:
        piece = processor.id_to_piece(i)
        if boundary(i):
            size = 0
        elif processor.is_byte(i):
            size = 1
        else:
            size = len(piece.removeprefix(SPACE).replace(SPACE, " ").encode())
            size += piece.startswith(SPACE) and not (before and dummy)
        found.append(size)
        before = boundary(i)
    return found


def test_the_tables_are_what_sentencepiece_says(kind: tuple[Pieces, Any]) -> None:
    ours, processor = kind
    assert (ours.vocab_size, ours.bos_id) == (processor.get_piece_size(), processor.bos_id()) and ours.bos_id == 1
    for i in range(ours.vocab_size):
        none = processor.is_control(i) or processor.is_unknown(i) or processor.is_unused(i)
        assert bool(ours.boundary[i]) == none
        assert len(ours.bytes[i]) == ours.lengths[i] and bool(ours.lengths[i]) != none
    assert len({ours.bytes[i] for i in range(ours.vocab_size) if processor.is_byte(i)}) == 256


@settings(max_examples=150, deadline=None)
@given(PLAIN)
def test_bytes_are_those_of_the_decoded_text(kind: tuple[Pieces, Any], words: list[str]) -> None:
    ours, processor = kind
    text = " ".join(words)
    ids = processor.encode(text)
    counted = ours.count(ids)
    assert counted.dtype == np.int32 and counted.tolist() == slow_count(processor, ids, ours.dummy_prefix)
    assert int(counted.sum()) == len(processor.decode(ids).encode()) == len(text.encode())
    assert ours.join(ids).decode() == processor.decode(ids) == text
    assert ours.encode(text).tolist() == ids
    framed = ours.count([ours.bos_id, *ids, processor.eos_id()])  # control tokens count nothing and change nothing
    assert framed.tolist() == [0, *counted.tolist(), 0]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 319), max_size=30))
def test_any_ids_count_what_they_join_to(kind: tuple[Pieces, Any], ids: list[int]) -> None:
    ours, processor = kind
    assert ours.count(ids).tolist() == slow_count(processor, ids, ours.dummy_prefix)
    assert int(ours.count(ids).sum()) == len(ours.join(ids))


def test_the_first_word_of_each_document_has_no_space(models: dict[str, bytes]) -> None:
    ours = Pieces(models["dummy"])
    one = ours.encode("the dog").tolist()
    both = [1, *one, 2, 1, *one]
    assert int(ours.count(both).sum()) == 2 * len("the dog") and ours.join(both) == b"the dogthe dog"
    assert ours.count(one)[0] + 1 == ours.lengths[one[0]]


def test_a_space_counted_twice_is_seen(models: dict[str, bytes]) -> None:
    """The published mistake: a table that has the space in it, and the rule adds it once more."""
    ours = Pieces(models["golf"])
    text = " ".join(TEXTS)
    ids = ours.encode(text)
    wrong = ours.lengths[ids] + ours.marked[ids]
    right = len(text.encode())
    assert int(ours.count(ids).sum()) == right
    assert int(wrong.sum()) == right + text.count(" ") and 1.1 < wrong.sum() / right < 1.3


@pytest.mark.parametrize(
    ("name", "text", "at"),
    [
        ("golf", "one  two", 4),  # spaces are collapsed
        ("golf", " one", 0),
        ("golf", "one\ntwo", 3),
        ("golf", "\ufb01ne \uff21", 0),  # NFKC
        ("dummy", "a e\u0301", 2),
    ],
)
def test_a_text_that_would_be_rewritten_is_refused(models: dict[str, bytes], name: str, text: str, at: int) -> None:
    rule = KINDS[name]["normalization_rule_name"]
    with pytest.raises(
        ValueError, match=rf"does not give the text back: from character {at} on .*\(its normaliser is {rule}\)"
    ):
        Pieces(models[name]).encode(text)


def test_an_identity_model_with_a_dummy_prefix_keeps_every_space(models: dict[str, bytes]) -> None:
    ours = Pieces(models["dummy_identity"])
    for text in ("", " ", "  two  three   ", "\n\tx ", " \u00e9\0"):
        ids = ours.encode(text)
        assert ours.join(ids) == text.encode() and int(ours.count(ids).sum()) == len(text.encode())


def test_unknown_pieces_are_boundaries_of_no_bytes() -> None:
    model = trained(byte_fallback=False, add_dummy_prefix=True)
    ours = Pieces(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    ids = processor.encode("the \U0001f600 dog")
    assert 3 in ids and ours.count(ids).tolist() == slow_count(processor, ids, True)
    with pytest.raises(ValueError, match="does not give the text back: from character 4 on"):
        ours.encode("the \U0001f600 dog")


def test_unused_pieces_are_boundaries_of_no_bytes(models: dict[str, bytes]) -> None:
    end = b"\n\r\n\x04</s>\x15\x00\x00\x00\x00\x18"
    assert models["dummy"].count(end + b"\x03") == 1
    model = models["dummy"].replace(end + b"\x03", end + b"\x05")
    ours, processor = Pieces(model), sentencepiece.SentencePieceProcessor(model_proto=model)
    ids = [*processor.encode("the dog"), 2, *processor.encode("the dog")]
    assert processor.is_unused(2) and ours.count(ids).tolist() == slow_count(processor, ids, True)
    assert int(ours.count(ids).sum()) == 2 * len("the dog")


def test_case_operators_are_counted_by_the_sidecar_only(tmp_path: Path) -> None:
    symbols = [*OPERATORS, "\ue005"]
    (tmp_path / "case.model").write_bytes(trained(user_defined_symbols=symbols))
    tokenizer = SentencePiece(model=str(tmp_path / "case.model"))
    ids = [1, 4, *range(265, 270)]
    assert tokenizer.decode(ids)[0] == "\ue001"
    with pytest.raises(
        ValueError, match=r"would count as 3 bytes .*; take bytes from the sidecar \(fineweb_val_bytes_"
    ):
        tokenizer.count(ids)
    with pytest.raises(ValueError, match="expects text that was transformed before; use token files made with it, or "):
        tokenizer.encode("the dog")
    plain = Pieces(trained(user_defined_symbols=["\ue005", "<|x|>"]))
    assert not plain.operators and plain.count([4, 5]).tolist() == [3, 5]


def test_spaces_without_a_piece_are_bytes(tmp_path: Path) -> None:
    """Trained where no space is: SentencePiece would cut a space into the bytes of U+2581."""
    ours = Pieces(pieces.train(["abcabcabc" * 9] * 9, 264))
    text = f"a b  {SPACE} c"
    assert not ours.has_space and ours.exact
    assert ours.join(ours.encode(text)) == text.encode()


def test_wrong_models_are_refused(models: dict[str, bytes]) -> None:
    for wrong in (b"", b"\x01", b"{}", models["golf"][:-9], models["golf"][:5000], models["golf"][:5001], b"\x12\x00"):
        with pytest.raises(ValueError, match=r"holds no SentencePiece model.*; give the whole file again"):
            Pieces(wrong)
    for odd in (b"\n\x01a\x18" + b"\xff" * 9 + b"\x7f", b"\x08\x01"):  # a type of 70 bits; a number, no text
        with pytest.raises(ValueError, match="holds no SentencePiece model"):
            Pieces(bytes([10, len(odd)]) + odd + models["golf"])
    with pytest.raises(ValueError, match=r"the model has no BOS \(<s>\).*; train it with bos_id >= 0"):
        Pieces(trained(bos_id=-1))
    with pytest.raises(ValueError, match="treats spaces in a way that is not counted here"):
        Pieces(trained(add_dummy_prefix=True, treat_whitespace_as_suffix=True))
    with pytest.raises(
        ValueError, match=r"no piece for a bare space \(U\+2581\), so that spaces would count as unknown"
    ):
        bare = f"\n\x03{SPACE}".encode()
        assert models["dummy"].count(bare) == 1
        Pieces(models["dummy"].replace(bare, b"\n\x03\xee\x80\x80"))


def test_another_name_of_bos_is_found() -> None:
    ours = Pieces(trained(bos_piece="<doc>", bos_id=2, eos_id=1))
    assert (ours.bos_id, ours.count([2]).tolist()) == (2, [0])


@pytest.mark.parametrize("wrong", [[-1], [0, 10_000]])
def test_ids_outside_the_vocabulary_are_refused(models: dict[str, bytes], wrong: list[int]) -> None:
    with pytest.raises(ValueError, match="token ids must lie in 0 to"):
        Pieces(models["dummy"]).count(wrong)


def test_no_ids_are_no_bytes(kind: tuple[Pieces, Any]) -> None:
    assert kind[0].count([]).tolist() == [] and kind[0].join([]) == b""


def test_a_lower_block_is_named_with_cures_that_work() -> None:
    """A model writes U+2581 for a space; behind a dummy prefix the character itself cannot be told from one."""

    def trained(**how: object) -> pieces.Pieces:
        out = io.BytesIO()
        asked: dict[str, object] = {
            "byte_fallback": True,
            "normalization_rule_name": "identity",
            "character_coverage": 1.0,
        }
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(f"load {n} of {n * n % 97} done" for n in range(300)), model_writer=out, model_type="bpe",
            vocab_size=320, remove_extra_whitespaces=False, minloglevel=3, **(asked | how),
        )  # fmt: skip
        return pieces.Pieces(out.getvalue())

    text = "load \u2581\u2582\u2583 done"
    with pytest.raises(ValueError) as caught:
        trained().encode(text)
    assert str(caught.value) == (
        "the model does not give the text back: character 5 is U+2581, which the model itself writes for a space; "
        "take it out of the text, or use a model trained with add_dummy_prefix = false"
    )
    for model, said in ((trained(), text.replace("\u2581", "")), (trained(add_dummy_prefix=False), text)):
        assert model.join(model.encode(said)) == said.encode()
    with pytest.raises(
        ValueError, match=r"use a model trained with normalization_rule_name = .identity., or token files"
    ):
        trained(normalization_rule_name="nfkc").encode("load \u2460 done")
