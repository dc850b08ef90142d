"""TensorBoard's event files: records of a length, a checksum and a message, of which only scalars are read, by hand.

No message is made an object of a library: a field that is not known is passed by, and what is cut off ends the reading.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ablab.judging.logs.building import named_level, unit_of
from ablab.judging.logs.text import Text
from ablab.judging.logs.trainer import TRAINED
from ablab.judging.logs.wandb import HELD_OUT
from ablab.records.log import Level, LoggedRun

NAME = "tensorboard"
MARK = re.compile(rb"brain\.Event:\d")
_HEAD = struct.Struct("<QI")  # length, and the length's checksum
_LONGEST = 1 << 24  # bytes of a record; an image has some million
# Numbers of fields: of Event, of Summary, of Summary.Value and of TensorProto.
_WALL, _STEP, _SUMMARY, _VALUE, _TAG, _SIMPLE, _TENSOR, _DTYPE, _FLOATS, _DOUBLES, _CONTENT = (
    1,
    2,
    5,
    1,
    1,
    2,
    8,
    1,
    5,
    6,
    4,
)
_FLOAT, _DOUBLE = 1, 2  # dtypes


class Scalar(NamedTuple):
    """A number that was logged."""

    tag: str
    step: int
    wall: float
    value: float


def read(text: Text) -> list[LoggedRun]:
    """Read the run: the last value of every held-out scalar, else of the losses of training. Lines are records, from 1."""
    last: dict[str, tuple[int, Scalar]] = {}
    walls: list[float] = []
    for place, record in enumerate(_records(text.data), 1):
        for scalar in _scalars(record):
            if scalar.tag not in last or scalar.step >= last[scalar.tag][1].step:
                last[scalar.tag] = (place, scalar)
            walls.append(scalar.wall)
    scored = [tag for tag in last if unit_of(tag) != "value" or HELD_OUT.search(tag)]
    held_out = [tag for tag in scored if HELD_OUT.search(tag)]
    stages: dict[str, Level] = {}
    lost: dict[str, int] = {}
    for tag in held_out or scored:
        place, scalar = last[tag]
        if (level := named_level(text, place, tag, _printed(scalar.value), lost)) is not None:
            stages[tag] = level
    if not stages and not lost:
        return []
    took, steps = max(walls) - min(walls), max(scalar.step for _, scalar in last.values())
    return [LoggedRun(text.path, 1, stages, seed_in_name=text.seed_in_name, steps=steps, notes=[] if held_out else [TRAINED],
                      seconds=took if 0 < took < 1e9 else None, reader=NAME, lost=lost)]  # fmt: skip


def _printed(value: float) -> str:
    """Write the shortest text of a float of 32 bits: it has no more digits than were logged."""
    with np.errstate(over="ignore"):
        return str(np.float32(value))


def _records(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + _HEAD.size <= len(data):
        length = _HEAD.unpack_from(data, at)[0]
        start = at + _HEAD.size
        if length > _LONGEST or start + length > len(data):
            return
        yield data[start : start + length]
        at = start + length + 4


def _scalars(event: bytes) -> Iterator[Scalar]:
    wall, step, summaries = 0.0, 0, []
    for number, value in _fields(event):
        if number == _WALL and isinstance(value, bytes) and len(value) == 8:
            wall = struct.unpack("<d", value)[0]
        elif number == _STEP and isinstance(value, int):
            step = value if value < 1 << 63 else 0
        elif number == _SUMMARY and isinstance(value, bytes):
            summaries.append(value)
    for summary in summaries:
        for number, value in _fields(summary):
            if number == _VALUE and isinstance(value, bytes) and (told := _value(value)) is not None:
                yield Scalar(told[0], step, wall, told[1])


def _value(message: bytes) -> tuple[str, float] | None:
    tag, decoded = None, None
    for number, value in _fields(message):
        if not isinstance(value, bytes):
            continue
        if number == _TAG:
            tag = value.decode("utf-8", "replace")
        elif number == _SIMPLE and len(value) == 4:
            decoded = struct.unpack("<f", value)[0]
        elif number == _TENSOR:
            decoded = _tensor(value)
    return (tag, decoded) if tag and len(tag) <= 200 and isinstance(decoded, float) else None


def _tensor(message: bytes) -> float | None:
    """Read the number of a tensor that holds one."""
    dtype, raw = 0, b""
    for number, value in _fields(message):
        if number == _DTYPE and isinstance(value, int):
            dtype = value
        elif number in (_FLOATS, _DOUBLES, _CONTENT) and isinstance(value, bytes):
            raw = value
    form = {(_FLOAT, 4): "<f", (_DOUBLE, 8): "<d"}.get((dtype, len(raw)))
    return float(struct.unpack(form, raw)[0]) if form else None


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (number, value) of a message's fields: varints as numbers, else bytes; it ends where the message makes no sense."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(message, at)
            if at <= len(message):
                yield number, value
            continue
        if wire == 2:
            length, at = _varint(message, at)
        else:
            length = {1: 8, 5: 4}.get(wire, len(message) + 1)
        if at + length > len(message):
            return
        yield number, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Read (number, where it ends); an end behind the message's where it is cut off."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    return 0, len(message) + 1
