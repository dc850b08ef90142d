"""Checks of a corpus: each returns nothing, or raises CheckFailed with place, fault and cure."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ablab.core.fault import CheckFailed, Fault


def no_leak(train: Iterable[bytes], valid: Iterable[bytes], place: str = "data") -> None:
    """Refuse a validation document that is in the training split, too: content digests are compared."""
    held = set(valid)
    leaked = held.intersection(train)
    if leaked:
        share = 100 * len(leaked) / len(held)
        fault = f"{len(leaked)} of {len(held)} validation documents ({share:.1f} %) are also in the training split"
        raise CheckFailed(Fault(place, fault, "prepare the data again from sources that do not overlap"))


def something_to_learn(targets: int, tokens: int) -> str:
    """Refuse a corpus without a token that has another before it in its document, and no mask; says so where few have.

    A text of documents of one token trains without a fault, and its levels are those of chance.
    """
    if not targets:
        fault = f"holds no training token with a target: {tokens:,} tokens, each the first of its document or masked"
        cure = "give documents of two tokens and more; if BOS (data.tokenizer) is no document's beginning, name their tokenizer"
        raise CheckFailed(Fault("data.source", fault, cure))
    if 2 * targets < tokens:
        return f"data: warning: {targets:,} of {tokens:,} training tokens are targets; the others begin documents or are masked"
    return ""


def few_shared(shared: int, documents: int, size: int, of: int) -> None:
    """Leave out held-out copies of training documents, unless they are more than half of the held-out part: those are refused.

    `size` of `of` bytes or tokens are shared, in `shared` of `documents`. Then the two are no split of anything.
    """
    if 2 * size > of:
        share = 100 * shared / documents
        fault = f"{shared} of {documents} validation documents ({share:.1f} %) are also in the training split"
        cure = "name a held-out part that the training part does not contain; fewer shared documents are left out"
        raise CheckFailed(Fault("data.valid_source", fault, cure))


def bytes_accounted(n_bytes: np.ndarray, rebuilt: bytes, text: bytes, place: str) -> None:
    """Refuse tokens of a document that do not decode to its bytes, or whose byte counts do not sum to its length."""
    counted = int(n_bytes.sum())
    if counted != len(text):
        ratio = counted / max(len(text), 1)
        fault = f"the tokens count {counted} bytes where the text has {len(text)} (ratio {ratio:.4f})"
        raise CheckFailed(Fault(place, fault, "bits per byte would be wrong by that ratio; repair the tokenizer"))
    if rebuilt != text:
        at = next((i for i, (a, b) in enumerate(zip(rebuilt, text)) if a != b), min(len(rebuilt), len(text)))
        fault = f"the tokens decode to another text from byte {at} on"
        raise CheckFailed(Fault(place, fault, "repair the tokenizer"))


def ids_in_range(ids: np.ndarray, vocab_size: int, bos_id: int, place: str) -> None:
    """Refuse a document's own tokens outside of the vocabulary, or BOS among them."""
    if not ids.size:
        return
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab_size:
        wrong = low if low < 0 else high
        fault = f"token id {wrong} is outside the vocabulary of {vocab_size}"
        raise CheckFailed(Fault(place, fault, "tokens and tokenizer do not belong together; prepare the data again"))
    if bool((ids == bos_id).any()):
        raise CheckFailed(Fault(place, f"the text yields BOS (id {bos_id})", "repair the tokenizer"))


def whole_text(held: int, wanted: int | None) -> None:
    """Refuse held-out documents that do not hold together the bytes of text that the study says, where it says so."""
    if wanted is not None and held != wanted:
        fault = f"the held-out part holds {held:,} bytes of text, the study says {wanted:,} (ratio {held / wanted:.4f})"
        cure = "bits per byte would be wrong by that ratio, or be of another text; check files and data.valid_bytes"
        raise CheckFailed(Fault("data.valid_text_bytes", fault, cure))
