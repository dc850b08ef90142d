"""megatron-core's own classes against ours: files both ways, and whole datasets sample by sample."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig, _get_ltor_masks_and_position_ids
from megatron.core.datasets.indexed_dataset import DType, IndexedDataset, IndexedDatasetBuilder

from ablab.data.batches.megatron_order import MegatronOrder, resets, split_ranges
from ablab.data.formats.indexed import Indexed, IndexedWriter, best_dtype, open_indexed

DTYPES = ["uint8", "int8", "int16", "int32", "int64", "uint16"]
DOCUMENTS = [[[1, 2, 3], [4]], [[5, 6, 7, 8]], [], [[9], [10, 11]], [], []]


@pytest.mark.parametrize("dtype", DTYPES)
def test_files_pass_both_ways(tmp_path: Path, dtype: str) -> None:
    theirs = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=getattr(np, dtype))
    with IndexedWriter(tmp_path / "ours", dtype) as ours:
        for document in DOCUMENTS:
            for sequence in document:
                theirs.add_item(torch.tensor(sequence))
                ours.add(sequence)
            theirs.end_document()
            ours.end_document()
    theirs.finalize(str(tmp_path / "theirs.idx"))
    for end in ("bin", "idx"):
        assert (tmp_path / f"ours.{end}").read_bytes() == (tmp_path / f"theirs.{end}").read_bytes()
    read_by_us, read_by_them = open_indexed(tmp_path / "theirs"), IndexedDataset(str(tmp_path / "ours"))
    assert len(read_by_us) == len(read_by_them) == 5 and read_by_us.dtype == np.dtype(dtype)
    for i in range(5):
        assert read_by_us[i].tolist() == read_by_them[i].tolist()
    assert read_by_us.documents.tolist() == read_by_them.document_indices.tolist() == [0, 2, 3, 3, 5, 5, 5]
    assert read_by_us.document(3).tolist() == [9, 10, 11]


def test_a_multimodal_file_of_text_is_read(tmp_path: Path) -> None:
    theirs = IndexedDatasetBuilder(str(tmp_path / "m.bin"), dtype=np.int32, multimodal=True)
    theirs.add_item(torch.tensor([1, 2]))
    theirs.end_document()
    theirs.finalize(str(tmp_path / "m.idx"))
    data = open_indexed(tmp_path / "m")
    assert data[0].tolist() == [1, 2] and data.modes is not None and data.modes.tolist() == [0]


@pytest.mark.parametrize("vocab_size", [257, 65499, 65500, 201088])
def test_dtype_of_a_vocabulary(vocab_size: int) -> None:
    assert best_dtype(vocab_size) == np.dtype(DType.optimal_dtype(vocab_size))


def build(prefixes: list[Path], weights: list[float] | None, size: int | None, **settings: Any) -> Any:
    """The training dataset that Megatron builds from these prefixes."""
    tokenizer = SimpleNamespace(vocab_size=70000, eod=7, pad=-1, unique_identifiers={"class": "none"})
    config = GPTDatasetConfig(
        random_seed=settings.pop("seed", 1234),
        sequence_length=settings.pop("seq_len"),
        blend=([str(prefix) for prefix in prefixes], weights),
        split=settings.pop("split", "1,0,0"),
        tokenizer=tokenizer,
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
        mid_level_dataset_surplus=0.005,
        **settings,
    )
    return BlendedMegatronDatasetBuilder(GPTDataset, [size, size, size], lambda: True, config).build()


@pytest.fixture
def three(tmp_path: Path) -> list[Indexed]:
    rng = np.random.default_rng(0)
    found = []
    for name, count in (("a", 40), ("b", 25), ("c", 60)):
        lengths = rng.integers(0, 30, count)
        lengths[-1] = 5
        with IndexedWriter(tmp_path / name, np.int32) as writer:
            writer.add_documents(rng.integers(0, 60000, lengths.sum()), lengths)
        found.append(open_indexed(tmp_path / name))
    return found


def same(theirs: Any, ours: MegatronOrder) -> None:
    assert len(theirs) == len(ours)
    for k in range(len(ours)):
        sample, row = theirs[k], ours.tokens(k)
        assert sample["tokens"].tolist() == np.maximum(row[:-1], 0).tolist()
        assert sample["labels"].tolist() == np.maximum(row[1:], 0).tolist()


@pytest.mark.parametrize(("seq_len", "size", "seed"), [(16, None, 1234), (7, 100, 1234), (16, 97, 5), (33, 60, 1)])
def test_one_dataset(three: list[Indexed], seq_len: int, size: int | None, seed: int) -> None:
    theirs, *_ = build([three[0].prefix], None, size, seq_len=seq_len, seed=seed)
    same(theirs, MegatronOrder(three[:1], seq_len=seq_len, num_samples=size, seed=seed))


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 4.5]])
@pytest.mark.parametrize("size", [50, 200])
def test_a_blend(three: list[Indexed], weights: list[float] | None, size: int) -> None:
    theirs, *_ = build([data.prefix for data in three], weights, size, seq_len=16)
    same(theirs, MegatronOrder(three, weights, seq_len=16, num_samples=size))


def test_a_blend_of_everything(three: list[Indexed]) -> None:
    theirs, *_ = build([data.prefix for data in three], None, None, seq_len=16)
    same(theirs, MegatronOrder(three, seq_len=16))


def test_splits_and_partial_samples(three: list[Indexed]) -> None:
    split = "70,20,10"
    theirs = build([three[2].prefix], None, None, seq_len=16, split=split, drop_last_partial_validation_sequence=False)
    for dataset, part, drop_last in zip(theirs, split_ranges(split), (True, False, True)):
        assert part is not None
        same(dataset, MegatronOrder([three[2]], seq_len=16, split=part, drop_last=drop_last))


def test_ends_of_documents_reset_the_same() -> None:
    rng = np.random.default_rng(1)
    for length in (1, 2, 9, 30):
        tokens = rng.integers(0, 4, length)
        masked, loss, positions = _get_ltor_masks_and_position_ids(torch.tensor(tokens), 0, True, True, True, True)
        ours = resets(tokens, 0)
        assert ours.positions.tolist() == positions.tolist() and ours.loss_mask.tolist() == loss.tolist()
        seen = (ours.segments[:, None] == ours.segments) & np.tri(length, dtype=bool)
        assert np.array_equal(masked[0].numpy(), ~seen)
