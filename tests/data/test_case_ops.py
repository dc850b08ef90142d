"""Case operators: any text comes back, bytes are those of the original text, any tokens decode."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

import ablab
from ablab.data.capitals import ALLCAPS, CAPNEXT, ESC, OPERATORS, TITLE, Case, PublishedCase, letters_with_two_cases
from ablab.data.tokenizers.case_ops import CaseOps
from ablab.data.tokenizers.sentencepiece import SentencePiece

LETTERS = letters_with_two_cases()
CASE = Case(LETTERS)
TEXTS = [
    "def HTTPServer(self, URL):\n    raise TypeError('The Server is not iPhone')\n",
    "The quick brown Fox jumps over THE lazy dog. A dog Sleeps for 1234567 YEARS.\r\n",
    "\u00c9cole \u00c0 \u041c\u043e\u0441\u043a\u0432\u0430 \u0391\u03b8\u03ae\u03bd\u03b1 stra\u00dfe STRASSE",
    "class Point:\n\tdef __init__(self, x, y):\n\t\tself.X, self.Y = x, y\n",
] * 5
# Letters whose case is odd: no single other case, another way back, another number of bytes, other planes, marks.
ODD = (
    "\u00df\u1e9e\u0130\u0131\u01c5\u01c4\u01c6\u03a3\u03c3\u03c2\ufb01\u023a\u2c65\u212a\u212b\u03f4\u0149\u017f\u01f0\u1fb3\u1fbc"
    "\U00010400\U00010428\u10d0\u1c90\u13a0\uab70\u0301\u0300\u0308\u0345\u24b6\u24d0\u2160\u2170\u00aa\u1d2c"
    "\ue001\ue002\ue003\ue004\ue005\u2581\u2585\0 \n'AaBbZzIi"
)
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
BIASED = st.text(st.one_of(st.sampled_from(ODD), st.sampled_from(LETTERS), st.sampled_from(" ABCabc")), max_size=40)
WORDS = st.text("ABCabc  \u0301\u00df\u023a\u2c65\ue001\ue004\ue002-", max_size=30)


@pytest.fixture(scope="module")
def tokenizer() -> CaseOps:
    made = CaseOps(vocab_size=400)
    made.train(TEXTS)
    return made


def plain(text: str) -> str:
    """A lowered text with its operators written as T, A, C and E in angle brackets."""
    for operator, name in ((TITLE, "T"), (ALLCAPS, "A"), (CAPNEXT, "C"), (ESC, "E")):
        text = text.replace(operator, f"<{name}>")
    return text


@pytest.mark.parametrize(
    ("text", "lowered"),
    [
        ("the The THE tHE thE", "the<T> the<A> the t<A>he th<C>e"),
        ("A", "<T>a"),
        ("AB", "<A>ab"),
        ("iPhone McDonald", "i<C>phone<T> mc<C>donald"),
        ("HTTPServer parseHTTP ABc", "<A>http<C>server parse<A>http<T> a<C>bc"),
        ("  Two (The\nThe", " <T> two (<T>the\n<T>the"),
        ("x_Y A1B2", "x_<T>y<T> a1<T>b2"),
        ("\u00c9COLE E\u0301COLE", "<A>\u00e9cole<A> e\u0301cole"),
        ("STRA\u00dfE Stra\u00dfe", "<A>stra\u00dfe<T> stra\u00dfe"),
        (
            "\u039f\u0394\u039f\u03a3 \u039f\u03b4\u03cc\u03c2",
            "<A>\u03bf\u03b4\u03bf\u03c3<T> \u03bf\u03b4\u03cc\u03c2",
        ),
        ("\u0130\u01c5\u212a", "\u0130\u01c5\u212a"),  # no single small letter that leads back
        ("\ue001a \ue004\ue004B", "<E><T>a <E><E><E><E><T>b"),
    ],
)
def test_what_becomes_of_words(text: str, lowered: str) -> None:
    assert plain(CASE.lower(text)) == lowered
    assert CASE.restore(CASE.lower(text)) == text


@settings(max_examples=400, deadline=None)
@given(st.one_of(ANY, BIASED, WORDS))
@example("ABC\u0301d")
@example("AB\u0301c")
@example("A\u00df\u00dfB\u0301\u0301")
@example("\ue004\ue001A\ue004 \ue002 A")
def test_any_text_comes_back(text: str) -> None:
    lowered = CASE.lower(text)
    assert CASE.restore(lowered) == text
    capitals = set(LETTERS[: len(LETTERS) // 2])
    assert not capitals.intersection(lowered)
    if not capitals.intersection(text) and not CASE.operator.search(text):
        assert lowered == text


@settings(max_examples=300, deadline=None)
@given(st.one_of(ANY, BIASED, WORDS))
@example("\u023a")
@example("a\u2c65\u023aB \u023aBC x")
@example("\ue001\u023a")
@example("\u2581The\u2581 A\u2581B\0")
def test_tokens_come_back_with_the_bytes_of_the_text(tokenizer: CaseOps, text: str) -> None:
    ids, n_bytes = tokenizer.encode(text)
    raw = text.encode()
    assert tokenizer.to_bytes(ids) == raw and tokenizer.decode(ids) == text
    assert n_bytes.dtype == np.int32 and len(ids) == len(n_bytes)
    assert int(n_bytes.sum()) == len(raw) and bool((n_bytes >= 0).all())
    assert np.array_equal(n_bytes, tokenizer.count(ids))
    assert tokenizer.bos_id not in ids and 0 not in ids
    if not CASE.operator.search(text):
        assert not n_bytes[(ids >= 2) & (ids < 6)].any()  # operators stand for no bytes
    framed = tokenizer.count([tokenizer.bos_id, *ids.tolist()])
    assert framed.tolist() == [0, *n_bytes.tolist()]


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.one_of(st.integers(0, 399), st.integers(2, 5), st.integers(6, 261), st.integers(262, 399)), max_size=40)
)
@example([2])
@example([5, 5])
@example([5, 6])
@example([2, 6 + 0xE2, 6 + 0xB1, 6 + 0xA5, 3, 6 + 0xE2, 6 + 0xB1])  # a small letter of 3 bytes, its capital has 2
@example([6 + 0xEE, 6 + 0x80, 6 + 0x81, 6 + ord("a")])  # an operator out of single bytes
@example([6 + 0xC3, 2, 6 + 0xA9])
def test_any_tokens_decode_and_count_what_they_decode_to(tokenizer: CaseOps, ids: list[int]) -> None:
    n_bytes = tokenizer.count(ids)
    assert bool((n_bytes >= 0).all()) and int(n_bytes.sum()) == len(tokenizer.to_bytes(ids))
    assert isinstance(tokenizer.decode(ids), str)


def slow_bytes(tokenizer: CaseOps, ids: list[int]) -> list[int]:
    """Bytes per token where no character is cut: what each more token adds to the text."""
    sizes = [len(tokenizer.to_bytes(ids[:end])) for end in range(len(ids) + 1)]
    return np.diff(sizes).tolist()


def test_bytes_are_what_each_token_adds(tokenizer: CaseOps) -> None:
    for text in (*TEXTS[:2], TEXTS[3], "\ue001 A\ue004Bc"):
        ids, n_bytes = tokenizer.encode(text)
        assert n_bytes.tolist() == slow_bytes(tokenizer, ids.tolist())


def test_a_letter_of_other_size_counts_its_capital(tokenizer: CaseOps) -> None:
    assert tokenizer.encode("\u2c65")[1].tolist() == [1, 1, 1]
    assert tokenizer.encode("\u023a")[1].tolist() == [0, 1, 1, 0]
    grown = [c for c in LETTERS[: len(LETTERS) // 2] if len(c.encode()) > len(CASE.lower(c)[1:].encode())]
    assert grown  # capitals of more bytes than their small letters
    for letter in grown:
        assert tokenizer.encode(letter)[1].tolist()[1:] in ([len(letter.encode())], [1, len(letter.encode()) - 1])


def test_what_plain_pieces_would_count_is_wrong(tokenizer: CaseOps) -> None:
    """The published mistake: tokens with operators scored with the table of pieces."""
    text = "".join(TEXTS)
    ids, n_bytes = tokenizer.encode(text)
    operators = int(((ids >= 2) & (ids < 6)).sum())
    wrong = int(tokenizer._loaded().pieces.count(ids).sum())
    assert wrong == int(n_bytes.sum()) + 3 * operators and operators > 100


@pytest.mark.parametrize(
    ("lowered", "text"),
    [
        (f"{TITLE} {TITLE}x", " X"),
        (f"{TITLE}1{CAPNEXT}", "1"),
        (f"{ALLCAPS} {ALLCAPS}ab{ESC}c{ESC}", " ABc"),
        (f"{TITLE}Q{ALLCAPS}aQ", "QAQ"),
        (f"{ESC}{ESC}{ESC}{TITLE}{TITLE}", f"{ESC}{TITLE}"),
    ],
)
def test_operators_without_their_letter_are_dropped(lowered: str, text: str) -> None:
    assert CASE.restore(lowered) == text


def test_words_share_pieces_whatever_their_case(tokenizer: CaseOps) -> None:
    small, title, capital = (tokenizer.encode(f"x {word}")[0].tolist() for word in ("the", "The", "THE"))
    assert tokenizer.decode(small[1:]) == " the" and len(small) <= 3
    assert (title, capital) == ([*small[:1], 2, *small[1:]], [*small[:1], 3, *small[1:]])


def test_the_letters_are_the_same_under_every_python() -> None:
    """Unicode 14 and 15; a later one may only add, and saved tokenizers keep their own."""
    assert len(LETTERS) == 2 * 1396 and len(set(LETTERS)) == len(LETTERS)
    assert hashlib.sha256(LETTERS.encode()).hexdigest() == HASH
    assert unicodedata.unidata_version in ("14.0.0", "15.0.0")


HASH = "7a5b6f99efbf934e3a5e6e17f94b50f2ec0b48389497f6eb44450b95ec512f91"


def test_saved_and_loaded(tokenizer: CaseOps, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "t")
    assert hashlib.sha256((tmp_path / "t").read_bytes()).hexdigest() == tokenizer.fingerprint
    again = CaseOps.load(tmp_path / "t")
    assert (again.fingerprint, again.vocab_size, again.bos_id) == (tokenizer.fingerprint, 400, 1)
    for text in TEXTS[:4]:
        assert np.array_equal(again.encode(text)[0], tokenizer.encode(text)[0])
    model = tokenizer._loaded().pieces.model
    assert tokenizer.fingerprint != hashlib.sha256(model).hexdigest()  # a plain model of the same pieces is another one
    with pytest.raises(ValueError, match="holds no SentencePiece model"):
        SentencePiece.load(tmp_path / "t")


def test_letters_of_the_file_are_used(tokenizer: CaseOps, tmp_path: Path) -> None:
    """A file made under a Unicode with fewer letters decodes as it did there."""
    narrow = CaseOps(vocab_size=400)
    narrow._made = dataclasses.replace(tokenizer._loaded(), letters="Aa")
    narrow.save(tmp_path / "t")
    again = CaseOps.load(tmp_path / "t")
    assert again.fingerprint != tokenizer.fingerprint
    assert again.decode(tokenizer.encode("A B")[0]) == "A b"


def test_a_file_cut_short_or_of_another_kind_is_refused(tokenizer: CaseOps, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "t")
    whole, model = (tmp_path / "t").read_bytes(), tokenizer._loaded().pieces.model
    parts = [whole[: len(whole) * part // 10] for part in range(10)]
    for wrong in (
        *parts,
        whole[:-1],
        whole.replace(b"ABC", b"AbC"),
        model,
        b'["tokenizer"]\n',
        b'{"tokenizer": "bytes"}\n',
    ):
        (tmp_path / "t").write_bytes(wrong)
        with pytest.raises(ValueError, match="holds no case_ops tokenizer; prepare the data again"):
            CaseOps.load(tmp_path / "t")


def published(text: str) -> str:
    """The published transform, one character after the other."""
    out, start = [], 0
    while start < len(text):
        if text[start] in OPERATORS:
            out.append(ESC)
        end = start
        while end < len(text) and text[end].isascii() and text[end].isalpha():
            end += 1
        word = text[start:end]
        if len(word) >= 2 and word == word.upper():
            out += [ALLCAPS, word.lower()]
        else:
            for i, letter in enumerate(word):
                if letter.isupper():
                    out.append(CAPNEXT if i else TITLE)
                out.append(letter.lower())
        if not word:
            out.append(text[start])
            end += 1
        start = end
    return "".join(out)


@settings(max_examples=300, deadline=None)
@given(st.one_of(ANY, BIASED, WORDS))
@example("The iPhone of HTTPServer: A, AB, aBC\u00c9D AB\u0301cd \u212a")
def test_the_published_transform_is_followed_and_undone(text: str) -> None:
    case = PublishedCase()
    lowered = case.lower(text)
    assert lowered == published(text) and case.restore(lowered) == text
    now, original = case.widths(lowered)
    assert int(now.sum()) == len(lowered.encode()) and int(original.sum()) == len(text.encode())


def published_model(path: Path, **changed: object) -> str:
    out = io.BytesIO()
    asked: dict[str, object] = dict(
        model_type="bpe", vocab_size=380, byte_fallback=True, split_digits=True, character_coverage=0.999,
        normalization_rule_name="nmt_nfkc", add_dummy_prefix=False, user_defined_symbols=[*OPERATORS, "\ue005"],
        pad_id=0, bos_id=1, eos_id=2, unk_id=3, hard_vocab_limit=False, num_threads=1, minloglevel=3,
    )  # fmt: skip
    lines = (published(line) for text in TEXTS for line in text.split("\n") if line)
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=out, **{**asked, **changed})
    path.write_bytes(out.getvalue())
    return str(path)


def test_a_published_model_is_used_by_its_own_rules(tmp_path: Path) -> None:
    path = published_model(tmp_path / "golf.model")
    loaded, processor = CaseOps(model=path), sentencepiece.SentencePieceProcessor(model_file=path)
    assert (loaded.trained, loaded.vocab_size, loaded.bos_id) == (False, processor.get_piece_size(), 1)
    text = "The iPhone and the HTTPServer raise TypeError: \u00c9COLE"
    ids, n_bytes = loaded.encode(text)
    assert ids.tolist() == processor.encode(published(text))
    assert int(n_bytes.sum()) == len(text.encode()) and loaded.decode([1, *ids]) == text
    assert not n_bytes[(ids >= 4) & (ids < 8)].any()
    with pytest.raises(ValueError, match=r"from character 9 on .* comes back as .* \(its normaliser is nmt_nfkc\)"):
        loaded.encode("The dog  Fox")
    with pytest.raises(
        ValueError, match=r"normaliser is nmt_nfkc\).*; take bytes from the sidecar \(fineweb_val_bytes_"
    ):
        loaded.count(ids)
    loaded.save(tmp_path / "saved")
    again = CaseOps.load(tmp_path / "saved")
    assert np.array_equal(again.encode(text)[0], ids) and again.fingerprint == loaded.fingerprint


def test_a_published_model_that_rewrites_nothing_counts(tmp_path: Path) -> None:
    rules = dict(normalization_rule_name="identity", remove_extra_whitespaces=False)
    loaded = CaseOps(model=published_model(tmp_path / "m.model", **rules))
    text = "  The iPhone and\nthe HTTPServer \u2581 \ue001\ue004 \u00c9COLE \ufb01"
    ids, n_bytes = loaded.encode(text)
    assert np.array_equal(loaded.count(ids), n_bytes) and int(n_bytes.sum()) == len(text.encode())
    assert loaded.decode(ids) == text


def test_a_saved_tokenizer_is_a_model(tokenizer: CaseOps, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "t")
    loaded = CaseOps(model=str(tmp_path / "t"))
    loaded.ready()
    assert (loaded.trained, loaded.vocab_size, loaded.fingerprint) == (False, 400, tokenizer.fingerprint)
    ids = tokenizer.encode(TEXTS[0])[0]
    assert np.array_equal(loaded.encode(TEXTS[0])[0], ids) and np.array_equal(loaded.count(ids), tokenizer.count(ids))


def test_a_model_that_is_missing_wrong_or_contradicted_is_refused(pieces_only: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="vocab_size = 512 is given beside model, which has its own; remove vocab_size"
    ):
        CaseOps(vocab_size=512, model="a")
    with pytest.raises(ValueError, match=r"cannot be read \(No such file.*; give a saved case_ops or \.model file"):
        CaseOps(model=str(tmp_path / "none")).ready()
    with pytest.raises(ValueError, match=r"has no case operators .*; use tokenizer = sentencepiece with it"):
        CaseOps(model=str(pieces_only)).ready()
    (tmp_path / "wrong").write_bytes(b"no model")
    with pytest.raises(ValueError, match="wrong: holds no SentencePiece model"):
        CaseOps(model=str(tmp_path / "wrong")).ready()
    with pytest.raises(ValueError, match="is used as it is; remove model to train pieces"):
        CaseOps(model=str(pieces_only)).train(TEXTS)


@pytest.fixture
def pieces_only(tmp_path: Path) -> Path:
    plain_pieces = SentencePiece(vocab_size=380)
    plain_pieces.train(TEXTS)
    plain_pieces.save(tmp_path / "plain.model")
    return tmp_path / "plain.model"


def test_training_is_the_same_in_another_process(tokenizer: CaseOps) -> None:
    code = (
        "from ablab.data.tokenizers.case_ops import CaseOps\n"
        f"t = CaseOps(vocab_size=400)\nt.train({TEXTS!r})\nprint(t.fingerprint)"
    )
    env = {"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(ablab.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == tokenizer.fingerprint


def test_making_one_reads_and_loads_nothing() -> None:
    code = (
        "import sys; from ablab.data.tokenizers import slot\n"
        "for name in ('bytes', 'sentencepiece', 'case_ops'): slot.build({'name': name})\n"
        "slot.build({'name': 'sentencepiece', 'model': '/no/such.model'})\n"
        "assert not {'sentencepiece', 'torch', 'tiktoken'} & set(sys.modules)"
    )
    env = {"PYTHONPATH": str(Path(ablab.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)


@pytest.mark.parametrize("size", [262, 65_537])
def test_sizes_outside_the_range_are_refused(size: int) -> None:
    with pytest.raises(
        ValueError, match=f"vocab_size = {size} is outside 263 to 65536; choose one inside, such as 4096"
    ):
        CaseOps(vocab_size=size)


def test_what_cannot_be_done_is_said(tokenizer: CaseOps) -> None:
    with pytest.raises(ValueError, match=r"not trained; call train\(texts\) or load\(path\)"):
        CaseOps().encode("a")
    with pytest.raises(ValueError, match="character 2 is a lone surrogate; text must be valid Unicode"):
        tokenizer.encode("Ab\ud800c")
    with pytest.raises(ValueError, match="token ids must lie in 0 to 399"):
        tokenizer.count([400])
    with pytest.raises(ValueError, match=r"vocab_size = 8000 is too large .* supports (\d+) pieces"):
        CaseOps(vocab_size=8000).train(TEXTS)
    with pytest.raises(ValueError, match="the training text is empty; give more text"):
        CaseOps().train(["", "\n"])
    assert set(tokenizer._loaded().pieces.symbols) == set(OPERATORS)
