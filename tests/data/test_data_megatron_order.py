"""The order of Megatron's GPTDataset: its published numbers, its cached indices, its compiled functions."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablab.core.fault import CheckFailed
from ablab.data.batches import megatron_index
from ablab.data.batches.megatron_order import (
    DatasetOrder,
    MegatronOrder,
    Slice,
    blend,
    blend_all,
    resets,
    sample_index,
    sequences_of,
    split_ranges,
)
from ablab.data.formats.indexed import Indexed, IndexedWriter, open_indexed

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "synth_lengths.json").read_text())


def write(prefix: Path, lengths: list[int]) -> Indexed:
    """Documents of these lengths; token i of the file is i, so that a sample says where it comes from."""
    with IndexedWriter(prefix, np.int32) as writer:
        writer.add_documents(np.arange(sum(lengths)), np.array(lengths, np.int64))
    return open_indexed(prefix)


@pytest.fixture
def five(tmp_path: Path) -> Indexed:
    return write(tmp_path / "five", [5, 3, 8, 2, 6])


@pytest.fixture(scope="module")
def compiled() -> Any:
    """Megatron-core's compiled index functions, loaded from the file: the package would import for seconds."""
    (place,) = importlib.util.find_spec("megatron").submodule_search_locations  # type: ignore[union-attr]
    (path,) = Path(place).glob("core/datasets/helpers_cpp*.so")
    loader = importlib.machinery.ExtensionFileLoader("helpers_cpp", str(path))
    spec = importlib.util.spec_from_loader("helpers_cpp", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_one_epoch(five: Indexed) -> None:
    order = DatasetOrder(five, 4)
    assert order.document_index.tolist() == [4, 0, 1, 2, 3] and order.document_index.dtype == np.int32
    assert order.sample_index.tolist() == [[0, 0], [0, 4], [1, 2], [2, 1], [3, 2], [3, 6]]
    assert order.sample_index.dtype == np.int32
    assert order.shuffle_index.tolist() == [3, 2, 1, 0, 4] and order.shuffle_index.dtype == np.uint32


def test_a_last_epoch_of_which_little_is_used_is_shuffled_apart(five: Indexed) -> None:
    order = DatasetOrder(five, 4, num_samples=6)
    assert order.epochs == 2
    assert order.document_index.tolist() == [4, 0, 1, 2, 3, 3, 2, 1, 0, 4]
    assert order.shuffle_index.tolist() == [2, 0, 4, 3, 1, 6, 10, 7, 5, 9, 8]
    assert len(MegatronOrder([five], seq_len=4, num_samples=6)) == 11  # whole epochs, as Megatron's has


def test_epochs_that_are_used_are_shuffled_together(five: Indexed) -> None:
    order = DatasetOrder(five, 4, num_samples=9)
    assert order.document_index.tolist() == [2, 2, 4, 1, 0, 3, 4, 0, 1, 3]
    assert order.shuffle_index.tolist() == [3, 10, 2, 1, 7, 5, 4, 0, 8, 6, 9]


def test_cached_indices_of_a_published_run(tmp_path: Path) -> None:
    shards = [write(tmp_path / name, lengths) for name, lengths in GOLDEN["lengths"].items()]
    order = DatasetOrder(shards[0], 1024)
    assert len(order) == 185
    assert order.document_index[:8].tolist() == [5, 106, 6, 167, 59, 54, 155, 77]
    assert order.sample_index[:4].tolist() == [[0, 0], [1, 289], [2, 611], [4, 150]]
    assert order.shuffle_index[:8].tolist() == [40, 44, 28, 59, 75, 27, 136, 61]
    for name, wanted in GOLDEN["shard_00"].items():
        found = getattr(order, name)
        assert list(found.shape) == wanted["shape"] and str(found.dtype) == wanted["dtype"]
        assert hashlib.sha256(found.tobytes()).hexdigest() == wanted["sha256"]
    blended = MegatronOrder(shards, seq_len=1024, num_samples=5)
    assert blended.dataset_index is not None and blended.dataset_sample_index is not None
    assert blended.dataset_index.tolist() == GOLDEN["blend"]["dataset_index"] == [2, 3, 0, 1, 2]
    assert blended.dataset_sample_index.tolist() == GOLDEN["blend"]["dataset_sample_index"]


def test_blending() -> None:
    chosen, sample = blend([0.5, 0.3, 0.2], 10)
    assert chosen.tolist() == [0, 1, 2, 0, 1, 0, 2, 0, 1, 0] and chosen.dtype == np.int16
    assert sample.tolist() == [0, 0, 0, 1, 1, 2, 1, 3, 2, 4] and sample.dtype == np.int64
    assert blend([7, 3], 10)[0].tolist() == [0, 1, 0, 0, 1, 0, 0, 1, 0, 0]
    with pytest.raises(ValueError, match="are not all positive; leave out"):
        blend([1.0, 0.0], 3)


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=12),
    seq_len=st.integers(1, 12),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 9),
    drop_last=st.booleans(),
    piece=st.sampled_from([1, 2, 5, 1 << 20]),
)
@settings(max_examples=300, deadline=None)
def test_sample_index_is_the_compiled_one(
    compiled: Any, lengths: list[int], seq_len: int, epochs: int, seed: int, drop_last: bool, piece: int
) -> None:
    sizes = np.array([*lengths, 2], np.int32)  # a last document without tokens makes Megatron itself fail
    documents = np.tile(np.arange(len(lengths), dtype=np.int32), epochs)
    np.random.RandomState(seed).shuffle(documents)
    documents = np.append(documents, np.int32(len(lengths)))
    tokens = int(sizes[documents].sum())
    wanted = compiled.build_sample_idx_int32(sizes, documents, seq_len, 1, tokens, drop_last, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(megatron_index, "_PIECE", piece)
        found = sample_index(sizes, documents, seq_len, tokens, drop_last)
    assert found.dtype == wanted.dtype and found.tolist() == wanted.tolist()


def test_the_number_of_samples_is_rounded_in_fp32_as_megatron_does(compiled: Any) -> None:
    sizes, documents = np.full(2, (1 << 25) + 1, np.int32), np.arange(2, dtype=np.int32)
    tokens, seq_len = int(sizes.sum()), 1 << 14
    wanted = compiled.build_sample_idx_int32(sizes, documents, seq_len, 1, tokens, False, 1)
    assert len(wanted) - 1 == 4096 and -(-(tokens - 1) // seq_len) == 4097  # exact division keeps one more
    assert np.array_equal(sample_index(sizes, documents, seq_len, tokens, False), wanted)


@given(weights=st.lists(st.floats(0.01, 10), min_size=1, max_size=5), size=st.integers(0, 60))
@settings(max_examples=100, deadline=None)
def test_blend_is_the_compiled_one(compiled: Any, weights: list[float], size: int) -> None:
    chosen, sample = np.zeros(size, np.int16), np.zeros(size, np.int64)
    norm = np.array(weights) / np.array(weights).sum()
    compiled.build_blending_indices(chosen, sample, norm, len(weights), size, False)
    ours = blend(weights, size)
    assert ours[0].tolist() == chosen.tolist() and ours[1].tolist() == sample.tolist()


@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=5))
@settings(max_examples=100, deadline=None)
def test_blend_of_everything_is_the_compiled_one(compiled: Any, sizes: list[int]) -> None:
    chosen, sample = np.zeros(sum(sizes), np.int16), np.zeros(sum(sizes), np.int64)
    compiled.build_exhaustive_blending_indices(chosen, sample, np.array(sizes, np.int64), len(sizes))
    ours = blend_all(sizes)
    assert ours[0].tolist() == chosen.tolist() and ours[1].tolist() == sample.tolist()


def test_samples_and_what_they_are_made_of(five: Indexed) -> None:
    order = MegatronOrder([five], seq_len=4)
    # laid end to end: sequences 4, 0, 1, 2, 3; sample 0 is row 3, from token 1 of sequence 1 on
    assert order.pieces(0) == [Slice(0, 1, 1, 3), Slice(0, 2, 0, 3)]
    assert order.tokens(0).tolist() == [6, 7, 8, 9, 10]
    stream = np.concatenate([five[i] for i in order.orders[0].document_index])
    for k, row in enumerate(order.orders[0].shuffle_index.tolist()):
        assert order.tokens(k).tolist() == stream[4 * row : 4 * row + 5].tolist()
    with pytest.raises(IndexError, match="there are 5 samples"):
        order.pieces(5)


def test_a_partial_sample_is_kept_and_filled_where_asked(tmp_path: Path) -> None:
    data = write(tmp_path / "a", [4, 0, 3])
    whole = MegatronOrder([data], seq_len=4)
    kept = MegatronOrder([data], seq_len=4, drop_last=False)
    assert (len(whole), len(kept)) == (1, 2)
    rows = {tuple(kept.tokens(k).tolist()) for k in range(2)}
    laid = np.concatenate([data[i] for i in kept.orders[0].document_index]).tolist()
    assert rows == {tuple(laid[:5]), (*laid[4:], -1, -1)}


def test_sidecars_are_read_at_the_same_places(tmp_path: Path, five: Indexed) -> None:
    with IndexedWriter(tmp_path / "mask", np.uint8) as writer:
        writer.add_documents(np.arange(24) % 2, np.array(five.lengths))
    order = MegatronOrder([five], seq_len=4)
    mask = open_indexed(tmp_path / "mask")
    for k in range(len(order)):
        assert order.tokens(k, [mask], pad=0).tolist() == (order.tokens(k) % 2).tolist()


def test_weights_and_the_surplus(tmp_path: Path, five: Indexed) -> None:
    other = write(tmp_path / "b", [9] * 100)
    order = MegatronOrder([five, other], [3, 7], seq_len=4, num_samples=400)
    # 120 and 280 asked; half a per cent more is built: 121 and 282, from whole epochs
    assert len(order) == 400 and order.dataset_index is not None
    assert np.bincount(order.dataset_index).tolist() == [120, 280]
    assert [one.epochs for one in order.orders] == [-(-(121 * 4 + 1) // 24), -(-(282 * 4 + 1) // 900)]
    k = int(np.flatnonzero(order.dataset_index == 1)[-1])
    assert order.pieces(k)[0].dataset == 1 and len(order.tokens(k)) == 5


def test_splits_are_ranges_of_sequences(five: Indexed) -> None:
    assert split_ranges("99,1,0") == [(0.0, 0.99), (0.99, 1.0), None]
    assert split_ranges("1") == [(0.0, 1.0), None, None]
    assert split_ranges("0,1") == [None, (0.0, 1.0), None]
    for wrong in ("", "0,0", "1,2,3,4"):
        with pytest.raises(ValueError, match="is not up to three numbers"):
            split_ranges(wrong)
    assert sequences_of(five, (0.0, 0.5)).tolist() == [0, 1]  # 2.5 rounds to the even 2
    assert sequences_of(five, (0.5, 1.0)).tolist() == [2, 3, 4]
    order = MegatronOrder([five], seq_len=4, split=(0.5, 1.0))
    assert sorted(order.orders[0].document_index.tolist()) == [2, 3, 4]


def test_what_an_end_of_document_resets() -> None:
    found = resets(np.array([5, 6, 9, 7, 8, 9, 4]), 9)
    assert found.positions.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert found.loss_mask.tolist() == [1, 1, 0, 1, 1, 0, 1]
    assert found.segments.tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert resets(np.array([9, 9]), 9).positions.tolist() == [0, 0]
    assert resets(np.array([], np.int64), 9).segments.tolist() == []


def test_too_little_data_and_wrong_settings_are_refused(tmp_path: Path, five: Indexed) -> None:
    with pytest.raises(
        CheckFailed, match=r"five.bin: has 24 tokens in 5 sequences, no sample of 24 \+ 1; give more data"
    ):
        DatasetOrder(five, 24)
    assert len(DatasetOrder(five, 23)) == 1
    with pytest.raises(CheckFailed, match=r"has 0 tokens in 0 sequences"):
        MegatronOrder([five], seq_len=4, split=(0.0, 0.01))
    with pytest.raises(ValueError, match="seq_len = 0"):
        DatasetOrder(five, 0)
    with pytest.raises(ValueError, match="weights need num_samples"):
        MegatronOrder([five], [1.0], seq_len=4)
    with pytest.raises(ValueError, match="1 datasets and 2 weights; give a weight for each"):
        MegatronOrder([five], [1.0, 2.0], seq_len=4, num_samples=3)
    with pytest.raises(ValueError, match="0 datasets and 0 weights"):
        MegatronOrder([], seq_len=4)
