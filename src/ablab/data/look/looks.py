"""What the numbers of a token file show that its size does not: another width or byte order, zeros in place of tokens.

A file without a header says nothing of its type. What is read with the wrong one has the right size, ids inside of the
vocabulary, and scores that mean nothing; so the numbers are looked at before they are believed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ablab.core.fault import CheckFailed, Fault

_PIECE = 1 << 24  # tokens looked through at once
_FEW = 8  # tokens of which nothing but zeros at every second place is concluded
_SOME = 64  # tokens from which on shares mean something
_HIGH = 64  # no vocabulary has 64 times 65,536 ids: the upper half of a 32-bit id lies below
_APART = (
    0.4  # in tokens of 16 bits even and odd places hold alike many small numbers; halves of 32 bits differ by 0.7 on
)
_TAIL, _HOLE = 32, 2048  # zeros at the end, and a page of a disk (4 KiB) anywhere: no text has so many of one token 0
_NARROW = "numpy.fromfile(sys.argv[1], '{}').astype('<u2').tofile(sys.argv[2])"
_ZEROS = {  # which of four places hold anything but 0, where 16-bit values are parts of wider ones
    (True, False, False, False): ("three of four values are 0: these are tokens of 64 bits", "<u8"),
    (False, False, False, True): ("three of four values are 0: these are tokens of 64 bits, big endian", ">u8"),
    (True, False, True, False): ("every second value is 0: these are tokens of 32 bits", "<u4"),
    (False, True, False, True): ("every second value is 0: these are tokens of 32 bits, big endian", ">u4"),
}


def _floats(tokens: np.ndarray) -> str | None:
    """Name the type of floating-point numbers as which all values are whole and ids of 32 bits; None where there is none.

    Ids of whole numbers are no such floats: small ones are denormal, others have fractions or are too large.
    """
    raw = np.ascontiguousarray(tokens[: 1 << 20])
    for kind in ("<f8", "<f4", ">f8", ">f4", "<f2", ">f2"):
        values = raw[: len(raw) * 2 // np.dtype(kind).itemsize * np.dtype(kind).itemsize // 2].view(kind)
        with np.errstate(invalid="ignore", over="ignore"):
            whole = bool(len(values)) and bool(
                (np.isfinite(values) & (values >= 0) & (values < 1 << 32) & (values == np.floor(values))).all()
            )
        if whole and values.max() > 0 and (kind[1:] != "f2" or len(values) >= _SOME):
            return kind
    return None


def right_width(path: Path, tokens: np.ndarray) -> None:
    """Refuse 16-bit `tokens` that are the halves or quarters of wider ones."""
    if len(tokens) < 4 or (len(tokens) < _FEW and len(tokens) % 2):  # so few are looked at where halves come in pairs
        return
    if len(tokens) >= _FEW and (kind := _floats(tokens)) is not None:
        name = f"{np.dtype(kind).name}{', big endian' if kind[0] == '>' else ''}"
        cure = f'write them as uint16: python -P -c "import numpy, sys; {_NARROW.format(kind)}" OLD NEW'
        if float(tokens[: len(tokens) // 4 * 4].view(kind).max()) >= 1 << 16:
            cure = "write them as a Megatron prefix of int32, and name that"
        raise CheckFailed(Fault(str(path), f"holds floating-point numbers ({name}), all of them whole", cure))
    full = (_any(tokens, 0), _any(tokens, 1), _any(tokens, 2), _any(tokens, 3))
    if full in _ZEROS:
        fault, kind = _ZEROS[full]
        cure = f'write them as uint16: python -P -c "import numpy, sys; {_NARROW.format(kind)}" OLD NEW'
        raise CheckFailed(Fault(str(path), fault, cure))
    wide = full in ((True, True, False, False), (False, False, True, True))
    if (
        len(tokens) >= _FEW
        and any(full)
        and (wide or (len(tokens) >= _SOME and abs(_low(tokens, 0) - _low(tokens, 1)) > _APART))
    ):
        fault = (
            f"small and large values take turns: these are tokens of {64 if wide else 32} bits, with ids above 65,535"
        )
        raise CheckFailed(
            Fault(str(path), fault, "write them as a Megatron prefix, which says its type, and name that")
        )


def no_zeros(path: Path, tokens: np.ndarray, loss: np.ndarray | None = None) -> str:
    """Refuse tokens that end in zeros, or have a disk page of them: a copy or a write that broke off.

    Returns a warning where they end in a few, which a text may do (0 is "!" in one vocabulary, a document's end in another):
    where 0 stands nowhere else, or never so often in a row. "" where nothing is odd. Zeros that `loss` masks are padding.
    """
    run, longest, where = 0, 0, 0
    for at in range(0, len(tokens), _PIECE):
        piece = np.asarray(tokens[at : at + _PIECE]) != 0
        if loss is not None:
            piece |= np.asarray(loss[at : at + _PIECE]) == 0
        full = np.flatnonzero(piece)
        if not len(full):
            run += len(piece)
            continue
        gaps = np.diff(np.concatenate([[-1 - run], full])) - 1
        if int(gaps.max()) > longest:
            index = int(gaps.argmax())
            longest, where = int(gaps[index]), at + (int(full[index - 1]) + 1 if index else -run)
        run = len(piece) - 1 - int(full[-1])
    cure = "copy or write the file again; if they are padding, cut them off"
    if run >= _TAIL or (run >= _FEW and run == len(tokens)):
        what = (
            f"ends in {run:,} zeros, from token {len(tokens) - run:,} on"
            if run < len(tokens)
            else "is nothing but zeros"
        )
        raise CheckFailed(Fault(str(path), f"{what}: filled up, not written", cure))
    if longest >= _HOLE:
        fault = f"has {longest:,} zeros from token {where:,} on: a hole that was filled up, not written"
        raise CheckFailed(Fault(str(path), fault, cure))
    if not run or run == len(tokens) or (longest and (run < _FEW or run <= longest)):
        return ""
    many = "1 zero" if run == 1 else f"{run} zeros"
    seen = f"at most {longest} in a row before" if longest else "nowhere before"
    told = f"warning: {path} ends in {many}, and 0 stands {seen}: was it filled up, not written? if not, all is well"
    return f"{told}; else {cure}"


def swapped(tokens: np.ndarray, vocab_size: int) -> bool:
    """Tell whether 16-bit ids lie inside of the vocabulary once their bytes change places."""
    pieces = range(0, len(tokens), _PIECE) if tokens.dtype.itemsize == 2 else ()
    return bool(pieces) and all(
        int(np.asarray(tokens[at : at + _PIECE]).byteswap().max()) < vocab_size for at in pieces
    )


def _any(tokens: np.ndarray, place: int) -> bool:
    return any(np.asarray(tokens[at + place : at + _PIECE : 4]).any() for at in range(0, len(tokens), _PIECE))


def _low(tokens: np.ndarray, place: int) -> float:
    """Share of values at even (0) or odd (1) places that are small, in either order of bytes; of the first piece."""
    values = np.asarray(tokens[place:_PIECE:2])
    return float(((values <= _HIGH) | (values.byteswap() <= _HIGH)).mean())
