"""prepare() on token files: held-out documents are copied and counted in bytes; training tokens are read where they lie.

Where nothing is named as held out, documents are split by their content, as text is, and both parts are copied.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import IO

import numpy as np

from ablab.core.fault import CheckFailed, Fault
from ablab.data.corpus import checks
from ablab.data.corpus.marks import marked
from ablab.data.corpus.sidecar import told_by
from ablab.data.corpus.split import DROPPED, HELD, TRAIN, Copies, roles_of
from ablab.data.corpus.tokens import PLAIN, UNTRAINED
from ablab.data.corpus.verbatim import Verbatim, width_of
from ablab.data.formats.parts import Opened, TokenFile, documents_of, highest
from ablab.data.look.looks import no_zeros, right_width, swapped
from ablab.data.sources.find import Sources
from ablab.data.tokenizers import slot
from ablab.data.tokenizers.tokenizer import Tokenizer
from ablab.records.corpus import Laid, Piece
from ablab.records.settings import DataSettings

_PIECE = 1 << 24  # labels looked through at once
FORMAT = 2  # raised when the same files and settings would give another corpus
Say = Callable[[str], object]


def build(folder: Path, sources: Sources, data: DataSettings, say: Say) -> tuple[Tokenizer, Laid]:
    """Write the corpus's files into `folder`; the tokenizer, and what the manifest says besides (dtype, counts, parts).

    CheckFailed where ids do not fit the tokenizer, a document is both trained and held out, byte counts do not add up, or
    nothing is left to train or to score.
    """
    tokenizer = slot.build(data["tokenizer"])
    train, valid = sources.parts, sources.held_parts
    if tokenizer.trained:
        fault = f"'{data['tokenizer']['name']}' would be trained, and token files hold no text"
        raise CheckFailed(
            Fault("data.tokenizer", fault, 'name the model that made them: { name = ..., model = "FILE" }')
        )
    for part in (*train, *valid):
        if part.vocab_sha256 and part.vocab_sha256 != tokenizer.fingerprint:
            fault = f"was made with another tokenizer than {data['tokenizer']['name']} (sha256 differs)"
            raise CheckFailed(Fault(part.name, fault, "set data.tokenizer to the one in its manifest"))
    tokenizer.save(folder / "tokenizer")
    opened = [_open(part, tokenizer, say) for part in train]
    held = [_open(part, tokenizer, say) for part in valid]
    masked = {one.loss is not None for one in (*opened, *held)}
    if len(masked) > 1:
        fault = "some files have loss masks and spans beside them, others have none"
        raise CheckFailed(Fault("data.source", fault, "give files of one kind"))
    if tokenizer.rewrites and any(one.n_bytes is None for one in held or opened):
        say("data: this model normalises text, and bytes are counted on what it made of it, as its users do")
    writer = _Writer(folder, tokenizer, "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4", masked=True in masked)
    built = all(part.vocab_sha256 for part in (*train, *valid))
    if built and not held:
        fault = "has an empty held-out part: there is nothing to score"
        cure = (
            "build it with a larger --valid-fraction, name data.valid_source, or name its prefixes to split by content"
        )
        raise CheckFailed(Fault("data.source", fault, cure))
    counts = _lay(opened, held, writer, built=built) if held else _copy(opened, data["valid_fraction"], writer, say)
    if held and (left_out := counts["also_trained_documents"]):
        many, how = "document is" if left_out == 1 else "documents are", " under another id" if built else ""
        say(f"data: {left_out:,} held-out {many} also trained on{how}, and left out")
    counts |= writer.finish(data["valid_bytes"])
    if any(one.loss is not None for one in opened) and not any(_trains(one) for one in opened):
        raise CheckFailed(
            Fault("data.source", "masks every training token: nothing would be learned", "check the masks")
        )
    for name in ("train_tokens", "valid_tokens"):
        if not counts[name]:
            part_of = "training" if name == "train_tokens" else "held-out"
            raise CheckFailed(Fault("data.source", f"holds no {part_of} document with a target", "give more documents"))
    if not counts["valid_bytes"]:
        fault = "no scored token of the held-out documents stands for a byte of text"
        raise CheckFailed(Fault("data.source", fault, "bits per byte would be infinite; check byte sidecars and masks"))
    where: list[Piece] = [] if not held else [{"path": part.name, "kind": part.kind} for part in train]
    return tokenizer, {"dtype": writer.dtype.str, "counts": counts, "parts": where}


def _open(part: TokenFile, tokenizer: Tokenizer, say: Say) -> Opened:
    opened = part.open(tokenizer.bos_id)
    if not len(opened.tokens):
        raise CheckFailed(Fault(part.name, "holds no tokens", "leave it out"))
    if part.kind == "shard":
        right_width(part.path, opened.tokens)  # a header may say what is not so
    low, high = highest(opened.tokens)
    if low < 0 or high >= tokenizer.vocab_size:
        wrong = low if low < 0 else high
        fault = f"token id {wrong} is outside the tokenizer's vocabulary of {tokenizer.vocab_size}"
        cure = "name the tokenizer that made the file"
        if swapped(opened.tokens, tokenizer.vocab_size):
            fault += ", and with its bytes exchanged each lies inside: the tokens are big endian"
            cure = "write them little endian: python -P -c \"import numpy, sys; numpy.fromfile(sys.argv[1], '>u2')"
            cure += ".astype('<u2').tofile(sys.argv[2])\" OLD NEW"
        raise CheckFailed(Fault(part.name, fault, cure))
    if np.iinfo(opened.tokens.dtype).max < tokenizer.vocab_size - 1:
        fault = f"has {opened.tokens.dtype} tokens, too small for a vocabulary of {tokenizer.vocab_size:,}"
        raise CheckFailed(Fault(part.name, fault, "name the tokenizer that made the file, or build it again"))
    if opened.loss is not None and opened.span is not None:
        _check_labels(part, opened.loss, opened.span)
    if warning := no_zeros(part.tokens_file, opened.tokens, opened.loss):
        say(f"data: {warning}")
    if part.kind == "shard" and len(opened.starts) == 1 and int(opened.tokens[0]) != tokenizer.bos_id:
        raise CheckFailed(_without_bos(part, opened.tokens, tokenizer))
    return opened


def _without_bos(part: TokenFile, tokens: np.ndarray, tokenizer: Tokenizer) -> Fault:
    first = int(tokens[0])
    again = sum(int((np.asarray(tokens[at : at + _PIECE]) == first).sum()) for at in range(0, len(tokens), _PIECE))
    fault = f"BOS (id {tokenizer.bos_id}) occurs nowhere in its {len(tokens):,} tokens, so where documents begin is not known"
    fault += f"; it begins with id {first}, which it holds {again:,} times"
    cure = "name the tokenizer that made the file, put BOS before each document, or give a Megatron prefix, which has an index"
    return Fault(part.name, fault, cure)


def _check_labels(part: TokenFile, loss: np.ndarray, span: np.ndarray) -> None:
    """Refuse loss masks that are not 0 or 1, spans that are not 0, 1 or 2, and a file of which no span is trained on."""
    for at in range(0, len(loss), _PIECE):
        masks, spans = (np.asarray(side[at : at + _PIECE]) for side in (loss, span))
        for name, wrong in (("_lossmask", masks > 1), ("_span", spans > 2), ("_span", (spans > 0) & (masks == 0))):
            if wrong.any():
                where = int(np.flatnonzero(wrong)[0])
                said = f"loss {masks[where]} and span {spans[where]} at token {at + where:,}"
                cure = "a loss mask is 0 or 1, a span 0, 1 or 2 and never masked; build the files again"
                raise CheckFailed(Fault(part.name.removesuffix("_tokens") + name, f"says {said}", cure))


def _trains(one: Opened) -> bool:
    """Tell whether any token of a masked file is trained on."""
    loss = one.loss
    return loss is not None and any(np.asarray(loss[at : at + _PIECE]).any() for at in range(0, len(loss), _PIECE))


def _has_target(one: Opened, here: slice) -> bool:
    """Tell whether any token of a document is trained on or scored: not its first, and none that is masked."""
    if here.stop - here.start < 2:
        return False
    return one.loss is None or bool(np.asarray(one.loss[here.start : here.stop - 1]).any())


def digest_of(ids: np.ndarray) -> bytes:
    """Hash a document to its identity: 16 bytes of blake2b over its ids as int32."""
    return blake2b(np.ascontiguousarray(ids, "<i4").tobytes(), digest_size=16).digest()


def _lay(opened: Sequence[Opened], held: Sequence[Opened], writer: _Writer, *, built: bool) -> dict[str, int]:
    """Lay training files in place and copy held-out ones, repeats included; a held-out document that is in both is left out.

    A build splits by a row's id, so the same text may lie on both sides under two ids, however often. Of files that are
    named as held out no more than half may be shared. Documents without a single target are in no split and no check.
    """
    entries = [
        (one, here, digest_of(one.tokens[here])) for one in held for here in documents_of(one) if _has_target(one, here)
    ]
    known = {digest for *_, digest in entries}
    trained = {digest for one in opened for digest in _alike(one, held)} & known
    if not built:
        trained |= _cut(opened, entries, writer.tokenizer)
    for one, here, digest in entries:
        if digest not in trained:
            writer.hold(one, here, digest)
    writer.unscored = sum(len(one.starts) for one in held) - len(entries)
    if not built:
        sizes = [(here.stop - here.start, digest in trained) for _, here, digest in entries]
        shared = [size for size, both in sizes if both]
        checks.few_shared(len(shared), len(entries), sum(shared), sum(size for size, _ in sizes))
    ends = np.cumsum([0, *(len(one.tokens) for one in opened)])
    writer.starts = np.concatenate([one.starts + end for one, end in zip(opened, ends)])
    left_out = sum(digest in trained for *_, digest in entries)
    return {"train_documents": len(writer.starts), "train_tokens": int(ends[-1]), "also_trained_documents": left_out}


def _cut(opened: Sequence[Opened], entries: Sequence[tuple[Opened, slice, bytes]], tokenizer: Tokenizer) -> set[bytes]:
    """Find the digests of held-out documents that stand for the most part inside of training documents."""
    verbatim = Verbatim(width_of(tokenizer.vocab_size))
    for one, here, _ in entries:
        verbatim.hold(_own(one, here, tokenizer))
    for one in opened:
        for here in documents_of(one):
            verbatim.train(_own(one, here, tokenizer))
    return {entries[number][2] for number in verbatim.cuts()}


def _own(one: Opened, here: slice, tokenizer: Tokenizer) -> np.ndarray:
    """Return the tokens of a document without BOS before them."""
    ids = one.tokens[here]
    return ids[1:] if len(ids) and int(ids[0]) == tokenizer.bos_id else ids


def _alike(one: Opened, held: Sequence[Opened]) -> Iterator[bytes]:
    """Yield digests of those documents of `one` that look like a held-out one by length and five of their tokens."""
    wanted = np.unique(np.concatenate([_first_glance(other) for other in held]))
    mine = _first_glance(one)
    for index in np.flatnonzero(np.isin(mine, wanted)).tolist():
        end = int(one.starts[index + 1]) if index + 1 < len(one.starts) else len(one.tokens)
        here = slice(int(one.starts[index]), end)
        if _has_target(one, here):
            yield digest_of(one.tokens[here])


def _first_glance(one: Opened) -> np.ndarray:
    """Return one number per document, made of its length and some of its tokens: equal for equal documents, cheap."""
    ends = np.append(one.starts[1:], len(one.tokens))
    sizes = (ends - one.starts).astype(np.uint64)
    glance = sizes.copy()
    for share in (0.0, 0.3, 0.5, 0.7, 0.9):
        place = one.starts + (share * (ends - one.starts)).astype(np.int64)
        glance = glance * np.uint64(1_000_003) + np.asarray(one.tokens[place]).astype(np.uint64)
    out: np.ndarray = glance
    return out


def _copy(opened: Sequence[Opened], valid_fraction: float, writer: _Writer, say: Say) -> dict[str, int]:
    """Copy every document to the part that its content says; of equal documents the first. Memory: 17 bytes a document."""
    digests = bytearray()
    for one in opened:
        for here in documents_of(one):
            if _has_target(one, here):
                digests += digest_of(one.tokens[here])
            else:
                writer.unscored += 1
    table = np.frombuffer(bytes(digests), np.uint8).reshape(-1, 16)
    roles = roles_of(table, int(valid_fraction * 2**64))
    copies = Copies(width_of(writer.tokenizer.vocab_size))
    for role in (HELD, TRAIN):
        scored = ((one, here) for one in opened for here in documents_of(one) if _has_target(one, here))
        for index, (one, here) in enumerate(scored):
            if roles[index] != role:
                continue
            if role == HELD:
                writer.hold(one, here, table[index].tobytes())
                copies.hold(_own(one, here, writer.tokenizer), table[index].tobytes())
            else:
                writer.train(one, here)
                copies.train(_own(one, here, writer.tokenizer))
    left_out = writer.leave_out(copies.digests(say))
    writer.starts = np.frombuffer(writer.copied, np.int64) if writer.copied else np.zeros(0, np.int64)
    dropped = int((roles == DROPPED).sum())
    return {
        "train_documents": len(writer.starts),
        "train_tokens": writer.n_tokens,
        "duplicates": dropped,
        "also_trained_documents": left_out,
    }


class _Writer:
    """The files of a corpus made of token files."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, dtype: str, *, masked: bool) -> None:
        self.folder, self.tokenizer, self.dtype, self.masked = folder, tokenizer, np.dtype(dtype), masked
        self.starts = np.zeros(0, np.int64)
        self.copied, self.n_tokens = array("q"), 0
        self._files: dict[str, IO[bytes]] = {}
        self._held: list[tuple[bytes, int, Opened, slice, np.ndarray]] = []
        self.told = told_by(tokenizer)
        self.unscored = 0  # documents without a single target, left out

    def train(self, one: Opened, here: slice) -> None:
        """Copy a training document."""
        self.copied.append(self.n_tokens)
        self.n_tokens += here.stop - here.start
        self._write("train.tokens", one.tokens[here].astype(self.dtype))
        if one.loss is not None and one.span is not None:
            self._write("train.loss", one.loss[here].astype(np.uint8))
            self._write("train.span", one.span[here].astype(np.uint8))

    def hold(self, one: Opened, here: slice, digest: bytes) -> None:
        """Remember a held-out document."""
        n_bytes = self._bytes(one, here)
        self._held.append((digest, int(n_bytes.sum()), one, here, n_bytes))

    def leave_out(self, digests: set[bytes]) -> int:
        """Leave out held-out documents that are no candidates after all; returns how many there are."""
        before, self._held = len(self._held), [entry for entry in self._held if entry[0] not in digests]
        return before - len(self._held)

    def finish(self, valid_bytes: int) -> dict[str, int]:
        """Take held-out documents in hash order while they fit, write what is left, and count."""
        if self.told is not None:
            self.told.check("data.valid_source: byte sidecar")
        taken, left = [], valid_bytes
        for entry in sorted(self._held, key=lambda entry: entry[0]):
            if entry[1] <= left:
                taken.append(entry)
                left -= entry[1]
        taken = taken or sorted(self._held, key=lambda entry: (entry[1], entry[0]))[:1]
        starts, position, n_targets, size = array("q"), 0, 0, 0
        for digest, _, one, here, n_bytes in taken:
            marks = self._marks(one, here)
            starts.append(position)
            position += here.stop - here.start
            n_targets, size = n_targets + int(np.count_nonzero(marks)), size + int(n_bytes[marks != UNTRAINED].sum())
            self._write("valid.tokens", one.tokens[here].astype(self.dtype))
            self._write("valid.bytes", n_bytes.astype("<u2"))
            self._write("valid.digests", np.frombuffer(digest, np.uint8))
            if self.masked:
                self._write("valid.marks", marks)
        self._write("valid.starts", np.array(starts, "<i8"))
        self._write("train.starts", self.starts.astype("<i8"))
        for file in self._files.values():
            file.close()
        return {
            "valid_documents": len(taken),
            "valid_tokens": n_targets,
            "valid_bytes": size,
            "unused_documents": len(self._held) - len(taken),
            "unscored_documents": self.unscored,
        }

    def _write(self, name: str, values: np.ndarray) -> None:
        if name not in self._files:
            self._files[name] = (self.folder / name).open("wb")
        self._files[name].write(values.tobytes())

    def _marks(self, one: Opened, here: slice) -> np.ndarray:
        """Mark what each token of a document is for; sidecars speak of the next token, these of the token itself."""
        marks = np.full(here.stop - here.start, PLAIN, np.uint8)
        if one.loss is not None and one.span is not None:
            marks[1:] = marked(one.loss[here], one.span[here])[:-1]
        marks[0] = UNTRAINED
        return marks

    def _bytes(self, one: Opened, here: slice) -> np.ndarray:
        """Count the bytes of text of each token: the sidecar's, else the tokenizer's; where there are both they must agree."""
        ids = np.asarray(one.tokens[here]).astype(np.int64)
        told = None if one.n_bytes is None else np.asarray(one.n_bytes[here])
        if told is not None and told[ids == self.tokenizer.bos_id].any():
            fault = "charges bytes to BOS, which stands for no text"
            raise CheckFailed(Fault("data.valid_source: byte sidecar", fault, "write it again from the text"))
        rewrites = self.tokenizer.rewrites  # then only the sidecar knows the original text
        try:
            n_bytes = self.tokenizer.count(ids)
            whole = len(self.tokenizer.to_bytes(ids))
        except ValueError as error:
            if told is not None and self.told is not None:
                self.told.add(told, *self.tokenizer.shown(ids))
                return told  # pieces that stand for other text than they show: this is what the sidecar is for
            raise CheckFailed(Fault("data.tokenizer", *str(error).split("; ", 1))) from error
        if told is not None and self.told is not None:
            self.told.add(told, *self.tokenizer.shown(ids))
        for name, counted in (
            ("data.tokenizer", n_bytes),
            ("data.valid_source: byte sidecar", None if rewrites else told),
        ):
            if counted is not None and int(counted.sum()) != whole:
                ratio = f"ratio {int(counted.sum()) / max(1, whole):.4f}"
                fault = f"a held-out document counts {int(counted.sum())} bytes where its text has {whole} ({ratio})"
                cure = "bits per byte would be wrong by that ratio; name the tokenizer that made the files"
                raise CheckFailed(Fault(name, fault, cure))
        return n_bytes if told is None else told
