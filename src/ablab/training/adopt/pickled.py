"""What a pickle of torch would build, told without building it: one that never ends, or grows without end, is not loaded.

torch's restricted reader runs no code, but a tuple of twice the same tuple, sixty times over, is hashed for centuries as a
key; a zip may unpack to a thousand times its size; and old files may be tar archives, whose members may be pipes.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from typing import IO, BinaryIO

MOST = 1 << 20  # parts of one value, those that are there twice counted twice; a tensor's description has about twenty
MOST_STEPS = 1 << 25  # of a pickle; a tensor takes about 40
LEGACY = re.compile(rb"\x80[\x02-\x05](?:\x95.{8})?\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19\.", re.DOTALL)
PARTS = 4  # pickles behind the first one of an old file: protocol, machine, state_dict, keys of the storages
_MARK = -1
_GETS = ("BINGET", "LONG_BINGET", "GET")
_PUTS = ("BINPUT", "LONG_BINPUT", "PUT")
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_TAKES = {"APPEND": 1, "SETITEM": 2, "BUILD": 1}  # values that go into what lies below them
_TO_MARK = {"APPENDS", "SETITEMS", "ADDITEMS"}


def in_zip(archive: zipfile.ZipFile, size: int) -> str:
    """Say what is wrong with the zip that torch.save wrote, of a file of `size` bytes; "" for nothing."""
    entries = archive.infolist()
    if any(one.compress_type != zipfile.ZIP_STORED for one in entries):
        return "is a compressed zip, which torch.save does not write"
    if sum(one.file_size for one in entries) > size:
        return "is a zip whose entries overlap"
    for one in entries:
        if one.filename.endswith("data.pkl"):
            with archive.open(one) as file:
                if said := endless(file):
                    return said
    return ""


def in_legacy(file: BinaryIO) -> str:
    """Say the same of an old file, whose storages lie behind its pickles."""
    return next((said for _ in range(1 + PARTS) if (said := endless(file))), "")


def endless(file: IO[bytes]) -> str:
    """Say what is wrong with the next pickle of a file; "" for nothing. ValueError where it is none."""
    stack, memo = list[int](), dict[int, int]()
    for step, (op, told, _) in enumerate(pickletools.genops(file)):
        if step > MOST_STEPS:
            return "holds a pickle of too many steps"
        try:
            _take(op.name, told, stack, memo)
        except (IndexError, KeyError):
            raise ValueError("is a damaged pickle") from None
        if stack and stack[-1] > MOST:
            return "holds a value that is nested into itself without end"
    return ""


def _take(name: str, told: object, stack: list[int], memo: dict[int, int]) -> None:
    """Do one step with the number of parts in place of each value."""
    if name in _PUTS:
        memo[_place(told)] = stack[-1]
    elif name == "MEMOIZE":
        memo[len(memo)] = stack[-1]
    elif name in _GETS:
        stack.append(memo[_place(told)])
    elif name == "MARK":
        stack.append(_MARK)
    elif name in _TUPLES:
        stack.append(1 + sum(stack.pop() for _ in range(_TUPLES[name])))
    elif name in ("TUPLE", "LIST", "DICT", "FROZENSET"):
        stack.append(1 + _to_mark(stack))
    elif name in _TO_MARK:
        inside = _to_mark(stack)
        stack[-1] = min(stack[-1] + inside, MOST)  # of what can grow nothing is hashed, and nothing is walked
    elif name in _TAKES:
        inside = sum(stack.pop() for _ in range(_TAKES[name]))
        stack[-1] = min(stack[-1] + inside, MOST)
    elif name in ("REDUCE", "NEWOBJ"):
        stack.append(stack.pop() + stack.pop())
    elif name in ("BINPERSID", "PROTO", "FRAME"):
        pass
    elif name in ("STOP", "POP"):
        stack.pop()
    elif name == "STACK_GLOBAL":
        del stack[-2:]
        stack.append(1)
    else:
        stack.append(1)


def _place(told: object) -> int:
    assert isinstance(told, int)  # of every step that has a place in the memo
    return told


def _to_mark(stack: list[int]) -> int:
    total = 0
    while (one := stack.pop()) != _MARK:
        total += one
    return total
