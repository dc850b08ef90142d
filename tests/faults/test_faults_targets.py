"""F11, F12, F13: nothing to learn, held-out text inside training, bytes that are not those of the text."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.sharded import write_shard

from ablab.core.fault import CheckFailed, Fault, Halted
from ablab.core.files import write_json
from ablab.data import Corpus, open_corpus, prepare
from ablab.data.corpus import build, stretches
from ablab.data.corpus.corpus import Valid, digest_of_manifest
from ablab.data.corpus.sidecar import SidecarBytes

BOS = 256
LETTERS = random.Random(5)


def text(count: int) -> list[int]:
    return [LETTERS.randrange(97, 123) for _ in range(count)]


def made(folder: Path, tokenizer: Any = None, **changed: Any) -> tuple[Corpus, list[str]]:
    """The corpus of a_train_*.bin and a_val_*.bin, and what was said."""
    data = {
        "source": sorted(map(str, folder.glob("a_train*.bin"))),
        "valid_source": [str(path) for path in sorted(folder.glob("a_val_?.bin"))],
        "valid_text_bytes": None,
        "text_field": "text",
        "tokenizer": tokenizer or {"name": "bytes"},
        "valid_fraction": 0.01,
        "valid_bytes": 10**6,
        "order": "chunks",
        "weights": None,
        "span": 64,
    } | changed
    said: list[str] = []
    return prepare(data, folder / "store", say=lambda line: said.append(str(line))), said


def shards(folder: Path, train: list[int], valid: list[int], **how: Any) -> None:
    write_shard(folder / "a_train_0.bin", np.array(train), **how)
    write_shard(folder / "a_val_0.bin", np.array(valid), **how)


# ---- nothing to learn


@pytest.mark.parametrize("train", [[BOS] * 300, [BOS], [BOS] * 2])
def test_training_without_a_target_is_refused(train: list[int], tmp_path: Path) -> None:
    shards(tmp_path, train, [BOS, *text(100)])
    for _ in range(2):  # and again, from the store
        with pytest.raises(
            CheckFailed, match=f"data.source: holds no training token with a target: {len(train)} tokens, "
        ):
            made(tmp_path)


def test_few_targets_are_said(tmp_path: Path) -> None:
    shards(tmp_path, [BOS] * 300 + text(20), [BOS, *text(100)])
    assert (
        "data: warning: 20 of 320 training tokens are targets; the others begin documents or are masked"
        in made(tmp_path)[1]
    )


# ---- held-out text inside training


def glued(v: list[int]) -> list[int]:
    return [BOS, *text(3000), *v, *text(3000)]


def with_a_blank(v: list[int]) -> list[int]:
    return [BOS, *text(3000), 32, *v, *text(3000)]


def in_pieces(v: list[int]) -> list[int]:
    """Stretches of 150 tokens each behind a document of its own; less than half of any held-out document."""
    found: list[int] = []
    for at in range(0, len(v) * 2 // 5 - 150, 150):
        found += [BOS, *text(300), *v[at : at + 150]]
    return [*found, BOS, *text(3000)]


@pytest.mark.parametrize("inside", [glued, with_a_blank, in_pieces], ids=lambda f: f.__name__)
def test_held_out_text_inside_training_is_refused(inside: Callable[[list[int]], list[int]], tmp_path: Path) -> None:
    v = text(4000)
    shards(tmp_path, inside(v), [BOS, *v])
    with pytest.raises(CheckFailed) as caught:
        made(tmp_path)
    assert "in training" in str(caught.value) or "in the training split" in str(caught.value)


def test_no_bos_anywhere_is_refused(tmp_path: Path) -> None:
    v = [32 if i % 7 == 0 else c for i, c in enumerate(text(2000))]
    shards(tmp_path, text(6000) + v + text(100), v, plain=True)
    with pytest.raises(CheckFailed, match=r"BOS .* occurs nowhere"):
        made(tmp_path)


def test_the_share_in_pieces_is_said_with_its_numbers(tmp_path: Path) -> None:
    v = text(4000)
    shards(tmp_path, in_pieces(v), [BOS, *v])
    with pytest.raises(CheckFailed) as caught:
        made(tmp_path)
    assert str(caught.value) == (
        "data.source: 37.5 % of the held-out text (30 of 80 stretches of 50 tokens) stands word for word in training; "
        "at most 25 % may; take it out of the training sources, or name a held-out part that they do not contain"
    )


def test_a_small_share_is_noted_and_kept(tmp_path: Path) -> None:
    v = text(4000)
    shards(tmp_path, [BOS, *text(3000), *v[:420], *text(3000)], [BOS, *v])
    corpus, said = made(tmp_path)
    assert "data: 10.0 % of the held-out text (8 of 80 stretches of 50 tokens) also stands in training" in said
    assert corpus.manifest["looked_at"] == {"targets": 6420, "stretches": 80, "in_training": 8}
    assert not [line for line in made(tmp_path)[1] if "stretches" in line]  # looked at once


def test_a_corpus_that_was_never_looked_at_can_be_used_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    v = text(4000)
    shards(tmp_path, [BOS, *text(3000), *v[:420], *text(3000)], [BOS, *v])
    corpus, _ = made(tmp_path)
    manifest = {name: value for name, value in corpus.manifest.items() if name != "looked_at"}
    write_json(corpus.path / "manifest.json", manifest | {"digest": digest_of_manifest(manifest)})

    def full(path: Path, value: object) -> None:
        raise Halted(Fault(str(path), "cannot be written (Read-only file system)"))

    monkeypatch.setattr(build, "write_json", full)
    again, said = made(tmp_path)
    assert again.manifest["looked_at"] == corpus.manifest["looked_at"] and "stretches" in said[-2]
    assert said[-1].endswith("cannot be written (Read-only file system); the data are looked at again the next time")


@pytest.mark.parametrize("name", ["", "x", "../../x"])
def test_a_manifest_that_names_no_tokenizer_of_ours_is_refused(name: str, tmp_path: Path) -> None:
    shards(tmp_path, [BOS, *text(9000)], [BOS, *text(4000)])
    corpus, _ = made(tmp_path)
    tokenizer = corpus.manifest["tokenizer"] | {"choice": {"name": name}}
    manifest = corpus.manifest | {"tokenizer": tokenizer}
    write_json(corpus.path / "manifest.json", manifest | {"digest": digest_of_manifest(manifest)})
    with pytest.raises(CheckFailed, match=f"names the tokenizer '{name}', which this ablab does not have"):
        open_corpus(corpus.path)


def test_text_of_its_own_shares_nothing(tmp_path: Path) -> None:
    shards(tmp_path, [BOS, *text(9000)], [BOS, *text(4000)])
    corpus, said = made(tmp_path)
    assert corpus.manifest["looked_at"]["in_training"] == 0 and not [line for line in said if "held-out text" in line]


@pytest.mark.parametrize("vocab", [3, 300, 70_000])
def test_shares_are_those_of_a_search_by_hand(vocab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretches, "PIECE", 512)
    draws = np.random.default_rng(vocab)
    train = draws.integers(vocab, size=5000)
    v = draws.integers(vocab, size=2000)
    for at in range(0, 2000, 250):
        cut = int(draws.integers(60, 200))
        train[at * 2 : at * 2 + cut] = v[at : at + cut]
    starts = np.array([0, 700, 720, 1500])
    valid = Valid(v, np.ones(2000), starts, np.zeros((4, 16), np.uint8))
    windows = {tuple(train[i : i + 50]) for i in range(2500 - 49)} | {
        tuple(train[i : i + 50]) for i in range(2500, 4951)
    }
    wanted = [tuple(v[i : i + 50]) for s, e in zip(starts, [700, 720, 1500, 2000]) for i in range(s + 1, e - 49, 50)]
    once = [one for one in wanted if wanted.count(one) == 1]
    expected = (len(once), sum(one in windows for one in once))
    assert expected[1] > 3 and stretches.share(valid, [train[:2500], train[2500:]]) == expected


# ---- byte sidecars


WORDS = ["".join(random.Random(i).choices("abcdefghijklmnopqrstuvwxyz", k=3 + i % 8)) for i in range(120)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    import sentencepiece

    folder = tmp_path_factory.mktemp("models")
    draw = random.Random(1)
    lines = [" ".join(draw.choices(WORDS, k=60)) for _ in range(200)]

    def trained(rule: str) -> Path:
        path, out = folder / f"{rule}.model", io.BytesIO()
        if not path.exists():
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines), model_writer=out, vocab_size=900, model_type="bpe", byte_fallback=True,
                normalization_rule_name=rule, hard_vocab_limit=False, minloglevel=3, bos_id=1, eos_id=2, unk_id=0,
            )  # fmt: skip
            path.write_bytes(out.getvalue())
        return path

    return trained


def documents(odd: bool) -> list[str]:
    """Words, some of them in full width or behind several spaces, where `odd`."""
    draw = random.Random(2)
    made = []
    for _ in range(40):
        words = draw.choices(WORDS, k=50)
        if odd:
            words[3] = "".join(chr(ord(c) + 0xFEE0) for c in words[3])
            words[7] = "   " + words[7]
        made.append(" ".join(words))
    return made


def sidecar(folder: Path, model: Path, odd: bool) -> np.ndarray:
    """Shards of documents, and the true bytes of each token by the model's own alignment."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    ids: list[int] = []
    sizes: list[int] = []
    for one in documents(odd):
        pieces = processor.encode(one, return_type="proto").pieces
        ids += [1, *(piece.id for piece in pieces)]
        sizes += [0, *(len(one[piece.begin : piece.end].encode()) for piece in pieces)]
    other = [" ".join(random.Random(i).choices(WORDS, k=50)) for i in range(300, 400)]
    train = [i for one in other for i in [1, *processor.encode(one)]]
    shards(folder, train, ids)
    return np.array(sizes)


@pytest.mark.parametrize("rule", ["identity", "nmt_nfkc", "nfkc", "nmt_nfkc_cf"])
def test_a_sidecar_that_lies_is_refused_with_the_ratio(rule: str, model: Callable[[str], Path], tmp_path: Path) -> None:
    path = model(rule)
    tokenizer = {"name": "sentencepiece", "model": str(path), "vocab_size": 4096}
    right = sidecar(tmp_path, path, odd=False)
    side = tmp_path / "a_val_bytes_0.bin"
    write_shard(side, right)
    assert made(tmp_path, tokenizer)[0].valid.n_scored_bytes == sum(len(one.encode()) for one in documents(False))
    for lie in (
        np.rint(right * 1.09),
        right * 2,
        right * 20,
        right // 20,
        np.rint(right * 0.9),
        right + (right > 0),  # every piece one more, as spaces counted twice
        right * 0,
        np.where((np.arange(len(right)) % 50 == 1) & (right > 0), 1000, right),
    ):
        write_shard(side, lie.astype(np.int64))
        with pytest.raises(CheckFailed, match=r"byte sidecar: .*\(ratio \d+\.\d{4}") as caught:
            made(tmp_path, tokenizer)
        assert "bits per byte would be wrong by that ratio" in str(caught.value)


@pytest.mark.parametrize("rule", ["nmt_nfkc", "nmt_nfkc_cf"])
def test_a_true_sidecar_of_text_that_was_normalised_is_taken(
    rule: str, model: Callable[[str], Path], tmp_path: Path
) -> None:
    path = model(rule)
    right = sidecar(tmp_path, path, odd=True)
    write_shard(tmp_path / "a_val_bytes_0.bin", right)
    corpus, _ = made(tmp_path, {"name": "sentencepiece", "model": str(path), "vocab_size": 4096})
    assert corpus.valid.n_scored_bytes == right.sum() == sum(len(one.encode()) for one in documents(True))


def test_bytes_moved_from_one_kind_of_token_to_another_are_found_though_the_whole_is_right() -> None:
    length, yes, no = np.full(1000, 5), np.full(1000, True), np.full(1000, False)
    told = SidecarBytes(squeezes=False)
    told.add(
        np.where(np.arange(1000) < 300, 8, 5), length, yes, no
    )  # of letters, by whose most common count nothing shows
    told.add(np.where(np.arange(1000) < 900, 4, 5), length, no, no)
    with pytest.raises(CheckFailed, match=r"5,900 bytes of plain letters where there are 5,000 \(ratio 1\.1800\)"):
        told.check("side")
    told = SidecarBytes(squeezes=False)
    told.add(length, length, yes, no)
    told.add(np.full(100, 4), np.full(100, 3), yes[:100], no[:100])  # pieces of three letters alone are counted wrongly
    with pytest.raises(CheckFailed, match="4 bytes for most pieces of 3 letters"):
        told.check("side")
    told = SidecarBytes(squeezes=False)
    told.add(length, length, yes, no)
    told.add(np.full(1000, 6), length, no, no)
    told.check("side")
