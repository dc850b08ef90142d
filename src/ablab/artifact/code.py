"""A Python script as small as it runs: minified, compressed, and wrapped in the line that unpacks it."""

from __future__ import annotations

import ast
import base64
import bisect
import io
import itertools
import lzma
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

from ablab.artifact.container import imported
from ablab.core.opened import read_whole

Place = tuple[int, int]  # line, column in characters, both as tokenize counts
Span = tuple[Place, Place, bool]  # of a docstring; whether a `pass` must stand for it
STUBS = {  # base85 of Python uses neither quotes nor backslashes
    "lzma": 'import lzma,base64\nexec(lzma.decompress(base64.b85decode("{}"),3,None,[{{"id":33}}]))',
    "brotli": 'import brotli,base64\nexec(brotli.decompress(base64.b85decode("{}")))',
}
MOST_BYTES = 1 << 24  # of a script; a submission of parameter-golf has 16 MB for all
SKIPPED = (tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER)


def read(path: Path) -> str:
    """Read the source of a script. Raises ValueError where it is no file, or no Python."""
    if not path.is_file():
        raise ValueError(f"{path} is no file; give the path of a Python script")
    try:
        data = read_whole(path, MOST_BYTES)
        source = io.TextIOWrapper(io.BytesIO(data), tokenize.detect_encoding(io.BytesIO(data).readline)[0]).read()
        ast.parse(source)
    except (SyntaxError, ValueError, OSError, RecursionError, MemoryError) as error:
        at = getattr(error, "lineno", None)  # none where the bytes are no text
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        line = f" ({said})" if at is None else f" (line {at}: {said})"
        version = f"Python {sys.version_info[0]}.{sys.version_info[1]}"
        raise ValueError(
            f"{path} is not {version}{line}; give the path of a script that this Python can run"
        ) from error
    return source


def minified(source: str) -> str:
    """Return the same program without comments, docstrings, blank lines and needless spaces; names and annotations stay.

    Minifying twice gives the same as once. SyntaxError where `source` is not Python.
    """
    docstrings = _docstrings(source)
    lines, depth, line = [], 0, ""
    last: tokenize.TokenInfo | None = None
    skip_semicolon = False
    for token in _tokens(source):
        if token.type == tokenize.INDENT:
            depth += 1
        elif token.type == tokenize.DEDENT:
            depth -= 1
        elif token.type == tokenize.NEWLINE:
            if line:
                lines.append(" " * depth + line.removesuffix(";"))
            line, last, skip_semicolon = "", None, False
        elif (span := _within(token, docstrings)) is not None:
            if span[2] and token.start == span[0]:
                line += "pass"
            skip_semicolon = True
        elif skip_semicolon and token.string == ";":
            skip_semicolon = False
        else:
            line, last, skip_semicolon = line + _space(last, token) + token.string, token, False
    return "\n".join(lines)


def wrapped(source: str) -> bytes:
    """Return the smallest file that runs `source`: a line that decodes and executes it, or the source itself.

    Source: parameter-golf counts such a file as the code of a submission (PR #1394, #1855).
    """
    return min([*wrappers(source).values(), source.encode()], key=len)


def wrappers(source: str) -> dict[str, bytes]:
    """Return the file of each codec: stub, and the compressed source in base85. CheckFailed where brotli is not installed."""
    plain, brotli = source.encode(), imported("brotli")
    packed = {
        "lzma": min((_lzma(plain, lc, pb) for lc in (0, 2, 3, 4) for pb in (0, 2)), key=len),
        "brotli": brotli.compress(plain, mode=brotli.MODE_TEXT, quality=11, lgwin=24),
    }
    return {name: STUBS[name].format(base64.b85encode(packed[name]).decode()).encode() for name in STUBS}


def _lzma(plain: bytes, lc: int, pb: int) -> bytes:
    how = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 23, "lc": lc, "pb": pb}
    return lzma.compress(plain, lzma.FORMAT_RAW, filters=[how])


def _docstrings(source: str) -> list[Span]:
    """Find the docstrings, in order. Strings right after one are dropped with it: they would become docstrings."""
    lines = [line.encode() for line in source.split("\n")]

    def place(line: int, byte: int) -> Place:
        return line, len(lines[line - 1][:byte].decode())

    spans = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        leading = list(itertools.takewhile(_is_text, node.body))
        alone = len(leading) == len(node.body) and not isinstance(node, ast.Module)
        for i, one in enumerate(leading):
            end = place(one.end_lineno or one.lineno, one.end_col_offset or 0)
            spans.append((place(one.lineno, one.col_offset), end, alone and i == 0))
    return sorted(spans)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _within(token: tokenize.TokenInfo, spans: list[Span]) -> Span | None:
    i = bisect.bisect_right(spans, token.start, key=lambda span: span[0]) - 1
    return spans[i] if i >= 0 and token.start < spans[i][1] else None


def _tokens(source: str) -> Iterator[tokenize.TokenInfo]:
    """Yield the tokens; an f-string is one, word for word, whatever the Python version makes of it."""
    begin, depth = (0, 0), 0
    lines = source.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        if kind == "FSTRING_START":
            begin, depth = (begin if depth else token.start), depth + 1
        elif kind == "FSTRING_END":
            depth -= 1
            if not depth:
                text = _text(lines, begin, token.end)
                yield token._replace(type=tokenize.STRING, string=text, start=begin)
        elif not depth and token.type not in SKIPPED:
            yield token


def _text(lines: list[str], start: Place, end: Place) -> str:
    rows = lines[start[0] - 1 : end[0]]
    rows[-1] = rows[-1][: end[1]]
    rows[0] = rows[0][start[1] :]
    return "\n".join(rows)


def _space(last: tokenize.TokenInfo | None, token: tokenize.TokenInfo) -> str:
    """Return a space where two tokens would otherwise be read as one."""
    if last is None or last.end == token.start:
        return ""
    if last.type == token.type == tokenize.STRING:  # "" "a" is no triple quote
        return " "
    words = (tokenize.NAME, tokenize.NUMBER)
    if last.type in words and (token.string[0].isalnum() or token.string[0] in "_\\" or not token.string[0].isascii()):
        return " "
    return " " if last.type == tokenize.NUMBER and token.string[0] == "." else ""
