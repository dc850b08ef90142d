"""What a file is by its first bytes, for files that are not what their name says."""

from __future__ import annotations

import re
import shlex
import zipfile
import zlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from ablab.core.loose_json import loads
from ablab.core.opened import opened, read_whole

HEAD = 512
_TEXT = 16  # characters that no damaged model begins with
_ANSWER = 2048  # bytes; what servers say besides pages is short
_REFUSAL = re.compile(
    r"(error:? )?(40[0134]|429|50[0234])?:? ?((entry|repository|revision|file|page|object)? ?not found|"
    r"access (to .* )?(denied|is restricted.*)|invalid (username or password|credentials.*)|unauthorized|forbidden|"
    r"bad request|too many requests.*|internal server error|bad gateway|service unavailable|gateway time-?out|"
    r"rate limit.*)[.!]?",
    re.IGNORECASE,
)
_XML = re.compile(r"(<\?xml[^>]*>\s*)?<Error>\s*<Code>")  # of object stores
# Of these the same helps whatever the file was to be; of all others, another file.
ANYWHERE = frozenset(
    {"gzip", "bzip2", "xz", "zstd", "lz4", "7z", "tar", "rar", "zip", "cut zip", "lfs", "html", "answer"}
)
_RANKS = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")  # a token in base64 and its rank
_WRONG = {"error", "errors", "detail", "error_code", "error_message"}  # keys of an object that says what went wrong


class Kind(NamedTuple):
    """`name` for code, `what` for a sentence that begins with the file, `cure` for what to do about it."""

    name: str
    what: str
    cure: str


def kind_of(path: Path) -> Kind | None:
    """Say what the file at `path` is: an archive, a compressed file, numpy's, a page of the web and so on; None where its
    first bytes say nothing, or cannot be read."""
    try:
        with opened(path) as file:
            head = file.read(HEAD)
    except OSError:
        return None
    quoted = shlex.quote(str(path))
    for name, begins, what, cure in _KINDS:
        if begins(head):
            return Kind(name, what, cure.replace("FILE", quoted))
    if head.startswith(b"PK\x03\x04"):
        return _zip(path, quoted)
    return None


def text_of(path: Path, shown: int = 40) -> str:
    """Read how a file of text begins; "" for one that is none (of its first 512 bytes), or cannot be read."""
    try:
        with opened(path) as file:
            begun = file.read(HEAD)
        words = begun.decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        if error.start < HEAD - 3 or len(begun) < HEAD:
            return ""
        words = begun[: error.start].decode()  # a character that the cut went through
    except OSError:
        return ""
    if not all(letter.isprintable() or letter in "\t\r\n\f" for letter in words):
        return ""
    return " ".join(words.split())[:shown].strip()


def other_than(path: Path, allowed: Collection[str] = ()) -> Kind | None:
    """Do as kind_of, None for the `allowed` ones."""
    kind = kind_of(path)
    return None if kind is None or kind.name in allowed else kind


def no_text(path: Path, allowed: Collection[str] = ()) -> Kind | None:
    """Do as other_than, for a file that should be text: UTF-16 without a mark is seen by its zeros."""
    kind = other_than(path, allowed)
    if kind is None:
        try:
            with opened(path) as file:
                head = file.read(64)
        except OSError:
            return None
        for zeros, others in ((head[1::2], head[::2]), (head[::2], head[1::2])):
            if len(head) >= 8 and not any(zeros) and all(others):
                cure = f"convert it to UTF-8: iconv -f UTF-16{'LE' if zeros == head[1::2] else 'BE'} -t UTF-8"
                return Kind("utf16", "is UTF-16", f"{cure} {shlex.quote(str(path))} > NEW")
    return kind


def instead(path: Path, give: str = "", allowed: Collection[str] = ()) -> Kind | None:
    """Do as other_than, or return what a server answered. `give`: the cure where only another file helps."""
    kind = other_than(path, allowed) or answer(path)
    return kind._replace(cure=give) if kind is not None and give and kind.name not in ANYWHERE else kind


def what_is(data: bytes) -> str:
    """Say what bytes are that should be something else, for a sentence that begins with them; "" where nothing says so."""
    known = next((what for _, begins, what, _ in _KINDS if begins(data[:HEAD])), "")
    if not known and data.startswith(b"PK\x03\x04"):
        return "is a zip archive"
    said = _said(data) if not known else None
    return said.what if said is not None else known


def no_model(path: Path) -> str:
    """Say what a file is that was to be a SentencePiece model, and what to do; "" where nothing says so."""
    give = "give the .model file that SentencePiece wrote"
    if (other := instead(path, give)) is not None:
        return f"{other.what}; {other.cure}"
    try:
        with opened(path) as file:
            ranks = all(_RANKS.fullmatch(line) for line in (file.readline(HEAD), file.readline(HEAD)))
    except OSError:
        return ""
    if ranks:
        return f'is a list of tokens and ranks, as tiktoken reads it; {give} (o200k is name = "o200k_harmony")'
    if len(text := text_of(path)) < _TEXT:
        return ""
    listed = " (such as Hugging Face's tokenizer.json)" if text.startswith("{") else ""
    return f"holds no SentencePiece model, it is text{listed} that begins with '{text}'; {give}"


def answer(path: Path) -> Kind | None:
    """Recognise what a server said in place of a file: `Entry not found`, `{"error": ...}` and the like, nothing besides."""
    try:
        return _said(read_whole(path, _ANSWER))
    except OSError:
        return None


def _said(data: bytes) -> Kind | None:
    if len(data) > _ANSWER:
        return None
    try:
        text = data.decode().strip()
    except ValueError:
        return None
    if not _REFUSAL.fullmatch(text) and not _error(text) and not _XML.match(text):
        return None
    what = f"is what a server answered in place of the file: '{text[:60]}'"
    return Kind("answer", what, "check the name and the access, and download the file itself")


def _error(text: str) -> bool:
    """Tell whether a text is one JSON object that says what went wrong."""
    try:
        parsed = loads(text)
    except ValueError:
        return False
    return isinstance(parsed, dict) and "text" not in parsed and bool(_WRONG & {str(key).lower() for key in parsed})


def _starts(*magics: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(magics)


def _gzip(head: bytes) -> bool:
    """Tell whether a gzip stream can be begun: its three bytes are few, tokens may begin so."""
    if not head.startswith(b"\x1f\x8b\x08"):
        return False
    try:
        zlib.decompressobj(31).decompress(head, 64)
    except zlib.error:
        return False
    return True


_TAGS = (b"html", b"head", b"body", b"!--", b"title", b"meta", b"script")


def _page(head: bytes) -> bool:
    begun = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:64].lower()
    return begun.startswith((b"<!doctype html", b"<?xml", *(b"<" + tag for tag in _TAGS)))


def _safetensors(head: bytes) -> bool:
    """Tell whether there is the length of a JSON object as 8 bytes, and its beginning."""
    return len(head) > 9 and 2 <= int.from_bytes(head[:8], "little") < 100_000_000 and head[8:10] in (b'{"', b"{}")


def _pickle(head: bytes) -> bool:
    return len(head) > 2 and head[0] == 0x80 and head[1] in (2, 3, 4, 5) and head[2] in b"\x95}]()cX\x8aKM\x8c"


def _unpack(program: str) -> str:
    return f"unpack it and name NEW: {program} FILE > NEW"


_DATA = "give text, or token files"
_SAVE = "np.save's arrays: python -P -c 'import numpy, sys; numpy.load(sys.argv[1]).tofile(sys.argv[2])' FILE NEW.bin"
_KINDS: tuple[tuple[str, Callable[[bytes], bool], str, str], ...] = (
    ("gzip", _gzip, "is compressed with gzip", _unpack("gunzip -c")),
    (
        "bzip2",
        lambda head: head[:3] == b"BZh" and head[4:10] == b"1AY&SY",
        "is compressed with bzip2",
        _unpack("bunzip2 -c"),
    ),
    ("xz", _starts(b"\xfd7zXZ\0"), "is compressed with xz", _unpack("xz -dc")),
    ("zstd", _starts(b"\x28\xb5\x2f\xfd"), "is compressed with zstd", _unpack("zstd -dc")),
    ("lz4", _starts(b"\x04\x22\x4d\x18"), "is compressed with lz4", _unpack("lz4 -dc")),
    ("7z", _starts(b"7z\xbc\xaf\x27\x1c"), "is a 7z archive", "7z x FILE, and name what it leaves"),
    ("tar", lambda head: head[257:262] == b"ustar", "is a tar archive", "tar -xf FILE, and name what it leaves"),
    ("npy", _starts(b"\x93NUMPY"), "is an array that numpy saved (.npy), with a header of its own", f"write {_SAVE}"),
    ("gguf", _starts(b"GGUF"), "is a GGUF file (llama.cpp's): weights", _DATA),
    (
        "hdf5",
        _starts(b"\x89HDF\r\n\x1a\n"),
        "is an HDF5 file (Keras's .h5, or data)",
        "write its text as .parquet or .jsonl, or its tokens as .bin",
    ),
    ("parquet", _starts(b"PAR1"), "is a Parquet file", "call it .parquet"),
    ("arrow", _starts(b"ARROW1"), "is an Arrow file", "call it .arrow"),
    (
        "feather1",
        _starts(b"FEA1"),
        "is a Feather file of version 1, which nothing writes any more",
        "write it as .parquet",
    ),
    ("sqlite", _starts(b"SQLite format 3\0"), "is an SQLite database", "write its table as .parquet or .jsonl"),
    ("pdf", _starts(b"%PDF-"), "is a PDF", "give its text"),
    ("megatron", _starts(b"MMIDIDX\0\0"), "is a Megatron index", "give the prefix, without .idx"),
    (
        "lfs",
        _starts(b"version https://git-lfs.github.com/spec/"),
        "is a pointer of git-lfs: the file itself was never fetched",
        "run git lfs pull where it was cloned, or download the file itself",
    ),
    (
        "html",
        _page,
        "is a page of the web (HTML), which a server gave in place of the file",
        "download the file itself",
    ),
    (
        "utf16",
        _starts(b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff"),
        "is UTF-16 or UTF-32 (its byte-order mark says so)",
        "convert it to UTF-8: iconv -f UTF-16 -t UTF-8 FILE > NEW",
    ),
    ("png", _starts(b"\x89PNG\r\n\x1a\n"), "is a picture (PNG)", _DATA),
    (
        "jpeg",
        _starts(*(b"\xff\xd8\xff" + end for end in (b"\xe0", b"\xe1", b"\xdb"))),
        "is a picture (JPEG)",
        _DATA,
    ),
    ("gif", _starts(b"GIF87a", b"GIF89a"), "is a picture (GIF)", _DATA),
    (
        "riff",
        lambda head: head[:4] == b"RIFF" and head[8:12] in (b"WAVE", b"WEBP", b"AVI "),
        "is sound, a picture or a film (RIFF)",
        _DATA,
    ),
    ("mp4", lambda head: head[4:8] == b"ftyp" and head[:2] == b"\0\0", "is a film (MP4)", _DATA),
    ("elf", _starts(b"\x7fELF"), "is a program (ELF)", _DATA),
    ("rar", _starts(b"Rar!\x1a\x07"), "is a RAR archive", "unrar x FILE, and name what it leaves"),
    ("safetensors", _safetensors, "is weights in safetensors' format", _DATA),
    ("pickle", _pickle, "is a pickle, and reading it could run code", "write it in a format that is read"),
)


def _zip(path: Path, quoted: str) -> Kind:
    try:
        with opened(path) as file, zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return Kind("cut zip", "is a zip archive, cut short", "copy it again")
    if names and all(name.endswith(".npy") for name in names):
        return Kind("npz", "is an archive of arrays that numpy saved (.npz)", "save one array's tokens with tofile")
    if any(name.endswith("data.pkl") for name in names):
        return Kind("torch", "is what torch.save wrote", _DATA)
    return Kind("zip", "is a zip archive", f"unzip {quoted}, and name what it leaves")
