"""inspect() and show(): counts, and a document that reads well with and without colours."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from tests.data.built import EOD, write_dataset, write_prefix
from tests.sharded import write_shard

from ablab.core.fault import CheckFailed
from ablab.data.formats.indexed import IndexedWriter
from ablab.data.look import inspect as inspecting
from ablab.data.look.excerpt import printable
from ablab.data.look.inspect import inspect, show
from ablab.data.tokenizers.bytes import Bytes
from ablab.data.tokenizers.o200k_harmony import O200kHarmony


def printed(facts: dict[str, Any], encoding: str = "utf-8", **settings: Any) -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    show(facts, Console(file=stream, **settings))
    stream.flush()
    return raw.getvalue().decode(encoding)


def written(prefix: Path, text: str, spans: list[tuple[int, int, int]] = ()) -> Path:  # type: ignore[assignment]
    """One document of the bytes of `text`; spans (first token, last token + 1, span) of tokens, stored label-aligned."""
    ids = [256, *text.encode()]
    marks = [0] * len(ids)
    for start, stop, span in spans:
        for i in range(start, stop):
            marks[i - 1] = span
    write_prefix(prefix, [(ids, marks)])
    return prefix


def test_counts_of_a_prefix_with_its_labels(tmp_path: Path) -> None:
    facts = inspect(write_dataset(tmp_path / "out") / "train/shard_00000", tokenizer=None)
    assert facts["kind"] == "megatron" and facts["place"].endswith("train/shard_00000_tokens")
    assert (facts["documents"], facts["sequences"], facts["tokens"], facts["dtype"]) == (2, 2, 9, ["int32"])
    assert facts["largest_id"] == EOD and facts["trained"] == 4
    assert facts["spans"] == {"none": 5, "reasoning": 3, "final": 1}
    assert facts["lengths"]["min"] == 4 and facts["lengths"]["max"] == 5 and facts["lengths"]["mean"] == 4.5


def test_a_folder_counts_its_splits(tmp_path: Path) -> None:
    out = write_dataset(tmp_path / "out", "bytes", 257)
    facts = inspect(out, document=2)
    assert facts["kind"] == "harmony" and facts["tokenizer"]["name"] == "bytes" and facts["quarantined"] == 1
    train, valid = facts["splits"]["train"], facts["splits"]["valid"]
    assert (train["shards"], train["documents"], train["tokens"], train["trained"]) == (2, 3, 12, 5)
    assert (valid["shards"], valid["documents"], valid["spans"]["final"]) == (1, 1, 1)
    sample = facts["sample"]
    assert (sample["split"], sample["file"], sample["tokens"]) == ("train", "shard_00001_tokens", 3)
    with pytest.raises(CheckFailed, match="has no document 3: there are 3; count from 0"):
        inspect(out, document=3)
    text = printed(facts)
    assert text.startswith(
        f"{out}: Harmony dataset\n  tokenizer bytes, 257 ids, sha256 000000000000\n  1 row quarantined\n"
    )
    assert "  train: 2 shards\n    3 documents, 12 tokens, int32, largest id 199,999\n" in text
    assert "    trained on 5 tokens (41.7 %); spans: none 7, reasoning 3, final 2\n" in text
    assert "document 2 of train/shard_00001_tokens: 3 tokens\n" in text


def test_a_documents_marks_are_of_the_tokens_that_are_learned(tmp_path: Path) -> None:
    prefix = written(tmp_path / "a", "ask\nthink\nsay.", [(5, 11, 1), (11, 15, 2)])
    facts = inspect(prefix, tokenizer="bytes")
    runs = facts["sample"]["runs"]
    assert [(run["mark"], run["tokens"]) for run in runs] == [("not trained", 5), ("reasoning", 6), ("final", 4)]
    assert [part for run in runs for part in run["parts"]] == [
        (True, "<|bos|>"),
        (False, "ask\n"),
        (False, "think\n"),
        (False, "say."),
    ]
    assert printed(facts).split("\n\n")[1] == (
        "document 0 of a_tokens: 15 tokens\n"
        "tokens as targets: not trained 5, reasoning 6, final 4; control tokens <|name|>, the same in text \\<|name|>\n"
        "not trained | <|bos|>ask\n"
        "not trained |\n"
        "reasoning   | think\n"
        "reasoning   |\n"
        "final       | say.\n"
    )


def test_colours_on_a_terminal(tmp_path: Path) -> None:
    facts = inspect(written(tmp_path / "a", "ask think say", [(5, 11, 1), (11, 14, 2)]), tokenizer="bytes")
    coloured = printed(facts, force_terminal=True, color_system="standard", width=100)
    assert "\x1b[36mthink \x1b[0m" in coloured and "\x1b[1;33msay\x1b[0m" in coloured
    assert "\x1b[2;7m<|bos|>\x1b[0m" in coloured and "not trained |" not in coloured
    assert "not trained | <|bos|>ask" in printed(facts, force_terminal=True, no_color=True, width=100)


def test_tokens_that_are_masked_without_a_span_are_shown_as_trained(tmp_path: Path) -> None:
    prefix = written(tmp_path / "a", "abc", [(2, 4, 1)])
    with IndexedWriter(tmp_path / "a_span", np.uint8) as writer:
        writer.add([0, 0, 0, 0])
        writer.end_document()
    runs = inspect(prefix, tokenizer="bytes")["sample"]["runs"]
    assert [(run["mark"], run["tokens"]) for run in runs] == [("not trained", 2), ("trained", 2)]


def test_labels_that_mean_nothing_are_shown_as_unknown(tmp_path: Path) -> None:
    prefix = written(tmp_path / "a", "abcdef", [(2, 4, 2)])
    for kind, labels in (("span", [0, 2, 2, 7, 0, 0, 0]), ("lossmask", [0, 1, 1, 1, 3, 0, 0])):
        with IndexedWriter(tmp_path / f"a_{kind}", np.uint8) as writer:
            writer.add(labels)
            writer.end_document()
    facts = inspect(prefix, tokenizer="bytes")
    assert facts["trained"] == 3 and facts["spans"] == {"none": 4, "reasoning": 0, "final": 2, "unknown": 1}
    assert facts["warnings"] == ["1 loss masks are neither 0 nor 1", "1 spans are none of 0, 1, 2"]
    marks = [(run["mark"], run["tokens"]) for run in facts["sample"]["runs"]]
    assert marks == [("not trained", 2), ("final", 2), ("unknown", 2), ("not trained", 1)]
    text = printed(facts)
    assert "  warning: 1 spans are none of 0, 1, 2; `ablab data verify` says where\n" in text
    assert "final 2, unknown 1\n" in text and "unknown     | de\n" in text
    assert "\x1b[1;31mde\x1b[0m" in printed(facts, force_terminal=True, color_system="standard", width=100)


def test_a_tokenizer_that_is_trained_needs_its_file(tmp_path: Path) -> None:
    wanted = "tokenizer sentencepiece: learns its pieces from texts; name the .model file .*: --tokenizer FILE.model"
    with pytest.raises(CheckFailed, match=wanted):
        inspect(written(tmp_path / "a", "abc"), tokenizer="sentencepiece")


def test_what_a_terminal_must_not_get_is_escaped(tmp_path: Path) -> None:
    nasty = "a\x1b[2J\tb\r\x07 [red]\u202e\u200b\ue001\x00 <|start|> \u00e9\U0001f600"
    assert printable(nasty.encode() + b"\xff\xc3") == (
        "a\\x1b[2J\\tb\\r\\x07 [red]\\u202e\\u200b\\ue001\\x00 \\<|start|> \u00e9\U0001f600\\xff\\xc3"
    )
    facts = inspect(written(tmp_path / "a", nasty), tokenizer=Bytes())
    for settings in ({}, {"force_terminal": True, "no_color": True, "width": 100}):
        text = printed(facts, **settings)
        assert not any(ord(c) < 32 and c != "\n" for c in text) and "[red]" in text and "\\<|start|>" in text
    assert "\\xe9\\U0001f600" in printed(facts, encoding="ascii")


def test_a_document_is_shown_up_to_a_limit(tmp_path: Path) -> None:
    prefix = written(tmp_path / "a", "abcdefgh")
    facts = inspect(prefix, tokenizer="bytes", limit=4)
    assert facts["sample"]["shown"] == 4 and "".join(p for _, p in facts["sample"]["runs"][0]["parts"]) == "<|bos|>abc"
    assert "document 0 of a_tokens: 9 tokens, the first 4 shown\n" in printed(facts)
    assert inspect(prefix, tokenizer="bytes", limit=0)["sample"]["runs"] == []


def test_without_a_tokenizer_the_ids_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = inspect(written(tmp_path / "a", "abc"))
    assert "(token ids; name a tokenizer to see text)\n" in printed(facts) and "256 97 98 99\n" in printed(facts)
    missing = {"name": "o200k_harmony", "vocab": str(tmp_path / "none")}
    out = write_dataset(tmp_path / "out")
    with pytest.raises(CheckFailed, match=r"^tokenizer o200k_harmony: .*none.*data vocab"):
        inspect(out, tokenizer=missing)
    table = O200kHarmony.table
    monkeypatch.setattr(O200kHarmony, "table", lambda _: table(O200kHarmony(vocab=missing["vocab"])))
    facts = inspect(out)  # nobody asked for text: the numbers are worth showing, and what is missing is said
    note = facts["sample"]["note"]
    assert note.startswith("token ids, as the text cannot be shown: tokenizer o200k_harmony: ") and "data vocab" in note
    assert facts["sample"]["runs"][0]["parts"] == [(False, "5 6")]
    with pytest.raises(CheckFailed, match="no tokenizer is called 'byte'; did you mean 'bytes'"):
        inspect(tmp_path / "out", tokenizer="byte")


def test_ids_beyond_the_vocabulary_are_said(tmp_path: Path) -> None:
    write_prefix(tmp_path / "a", [([65, 300, 0], [0, 0, 0])])
    parts = inspect(tmp_path / "a", tokenizer="bytes")["sample"]["runs"][0]["parts"]
    assert parts == [(False, "A"), (True, "<|300: beyond the vocabulary|>"), (False, "\\x00")]


def test_a_piece_that_is_a_space_is_no_control_token(tmp_path: Path) -> None:
    class Dummy(Bytes):
        """As SentencePiece with a dummy prefix: the space before the first word is not the text's."""

        def to_bytes(self, ids: Any) -> bytes:
            return super().to_bytes(ids).removeprefix(b" ")

    write_prefix(tmp_path / "a", [([256, 32, 65, 32, 66], [0] * 5)])
    parts = inspect(tmp_path / "a", tokenizer=Dummy())["sample"]["runs"][0]["parts"]
    assert parts == [(True, "<|bos|>"), (False, "A B")]


def test_files_without_labels_or_tokens(tmp_path: Path) -> None:
    with IndexedWriter(tmp_path / "p", np.uint16) as writer:
        writer.add([65, 66])
        writer.add([67])
        writer.end_document()
        writer.end_document()
    facts = inspect(tmp_path / "p.idx", tokenizer="bytes")
    assert "trained" not in facts and facts["sequences"] == 3 - 1 and facts["documents"] == 2
    text = printed(facts)
    assert "2 documents, 2 sequences, 3 tokens" not in text and "2 documents, 3 tokens, uint16, largest id 67" in text
    assert text.endswith("\ndocument 0 of p_tokens: 3 tokens\nABC\n".replace("p_tokens", "p"))
    assert inspect(tmp_path / "p", document=1)["sample"]["tokens"] == 0
    with IndexedWriter(tmp_path / "e", np.uint16):
        pass
    with pytest.raises(CheckFailed, match="has no document 0: there are 0"):
        inspect(tmp_path / "e")


def test_golf_shards_and_plain_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "fineweb_val_000000.bin"
    monkeypatch.setattr(inspecting, "_PIECE", 2)
    write_shard(path, [256, 72, 105, 256, 33])
    write_shard(tmp_path / "fineweb_val_bytes_000000.bin", [0, 1, 2, 0, 1])
    facts = inspect(path, tokenizer="bytes", document=1)
    assert (facts["kind"], facts["documents"], facts["tokens"], facts["bytes"]) == ("golf", 2, 5, 4)
    assert facts["sample"]["runs"][0]["parts"] == [(True, "<|bos|>"), (False, "!")]
    text = printed(facts)
    assert f"{path}: golf shard\n  2 documents, 5 tokens, uint16, largest id 256\n" in text
    assert "  byte sidecar: 4 bytes of text, 1.2500 tokens per byte\n" in text
    facts = inspect(path)
    assert facts["documents"] is None and facts["sample"]["tokens"] == 5
    assert "documents unknown without a tokenizer, 5 tokens" in printed(facts)
    write_shard(tmp_path / "plain.bin", [1, 2], plain=True)
    assert inspect(tmp_path / "plain.bin")["kind"] == "plain"
    write_shard(tmp_path / "empty.bin", [])
    assert inspect(tmp_path / "empty.bin", tokenizer="bytes")["tokens"] == 0


def test_labels_of_some_shards_only_are_not_counted_for_all(tmp_path: Path) -> None:
    out = write_dataset(tmp_path / "out", "bytes", 257)
    for file in (out / "train").glob("shard_00001_*"):
        if "tokens" not in file.name:
            file.unlink()
    assert "trained" not in inspect(out)["splits"]["train"] and inspect(out)["splits"]["valid"]["trained"] == 2


def test_broken_data_is_refused(tmp_path: Path) -> None:
    out = write_dataset(tmp_path / "out")
    (out / "train/shard_00001_span.idx").unlink()
    with pytest.raises(CheckFailed, match=r"shard_00001_span.idx: is missing"):
        inspect(out)
    with pytest.raises(CheckFailed, match="is no prefix"):
        inspect(tmp_path / "none")
