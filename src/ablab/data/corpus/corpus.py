"""A prepared corpus on disk: token files, their checksums, and how they are read."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict, cast, overload

import numpy as np

from ablab.core.fault import CheckFailed, Fault
from ablab.core.files import key_of, read_json, sha256_file
from ablab.core.forms import fits, misfit
from ablab.core.inputs import Inputs
from ablab.data.corpus.marks import Marks
from ablab.data.corpus.tokens import PLAIN, UNTRAINED, Tokens
from ablab.data.formats.mapped import map_file
from ablab.data.formats.parts import TokenFile
from ablab.data.spans import FINAL, REASONING
from ablab.data.tokenizers import slot
from ablab.data.tokenizers.tokenizer import Tokenizer
from ablab.records.corpus import InputFile, Manifest

if TYPE_CHECKING:
    from ablab.data.corpus.groups import Groups

FILES = ("tokenizer", "train.starts", "valid.tokens", "valid.bytes", "valid.starts", "valid.digests")
MOST_TOKENS = 1 << 24  # of a vocabulary; the largest that are published have a million
PIECE = 1 << 24  # ids looked through at once
SOME = ("train.tokens", "train.loss", "train.span", "valid.marks")  # of corpora that copy their tokens, or mask some


class Document(NamedTuple):
    """One validation document: `ids` (int64), `n_bytes` (int64, bytes of text of each token; 0 for control tokens) and
    `marks` (uint8, of each token: UNTRAINED where it is not scored, as the first of a document never is)."""

    ids: np.ndarray
    n_bytes: np.ndarray
    marks: np.ndarray


class Valid(Sequence[Document]):
    """The validation documents, in hash order. `digests` (documents, 16) names each by its content.

    `marks` (one per token; by default PLAIN, and UNTRAINED for the first of each document) says what is scored.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        n_bytes: np.ndarray,
        starts: np.ndarray,
        digests: np.ndarray,
        marks: np.ndarray | None = None,
    ) -> None:
        self.tokens, self.n_bytes, self.digests = tokens, n_bytes, digests
        self.starts = np.append(starts, len(tokens))
        if marks is None:
            marks = np.full(len(tokens), PLAIN, np.uint8)
            marks[starts[starts < len(tokens)]] = UNTRAINED  # an empty document at the end begins at no token
        self.marks = marks

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, index: int) -> Document: ...
    @overload
    def __getitem__(self, index: slice) -> list[Document]: ...
    def __getitem__(self, index: int | slice) -> Document | list[Document]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} validation documents")
        index %= len(self)
        piece = slice(int(self.starts[index]), int(self.starts[index + 1]))
        return Document(self.tokens[piece].astype(np.int64), self.n_bytes[piece].astype(np.int64), self.marks[piece])

    def first(self, documents: int) -> Valid:
        """Return the first `documents` of them."""
        end = int(self.starts[documents])
        cut = slice(None, end)
        return Valid(
            self.tokens[cut], self.n_bytes[cut], self.starts[:documents], self.digests[:documents], self.marks[cut]
        )

    def some(self, chosen: Sequence[int] | np.ndarray) -> Valid:
        """Return the documents of these numbers, in the order given."""
        parts = [slice(int(self.starts[i]), int(self.starts[i + 1])) for i in chosen]
        tokens, n_bytes, marks = (
            np.concatenate([part[cut] for cut in parts]) for part in (self.tokens, self.n_bytes, self.marks)
        )
        starts = np.cumsum([0, *(cut.stop - cut.start for cut in parts)])[:-1]
        return Valid(tokens, n_bytes, starts, self.digests[np.asarray(chosen)], marks)

    @property
    def n_targets(self) -> int:
        """Tokens that are scored: all but the first of each document, and but those that are masked."""
        return int(np.count_nonzero(self.marks))

    @property
    def n_scored_bytes(self) -> int:
        """Bytes of text of the tokens that are scored."""
        return int(self.n_bytes[self.marks != UNTRAINED].sum(dtype=np.int64))

    @functools.cached_property
    def spans(self) -> bool:
        """Whether scored tokens lie in spans (reasoning, final)."""
        return bool(((self.marks == REASONING) | (self.marks == FINAL)).any())


@dataclass(frozen=True, eq=False)
class Corpus:
    """A prepared corpus. `tokens` are the training documents end to end; `documents` where they start.

    Documents of text begin with BOS; those of token files are as they are. `marks` say which tokens are trained on, where
    not all are.
    """

    path: Path
    key: str
    manifest: Manifest
    vocab_size: int
    bos_id: int
    tokens: np.ndarray | Tokens
    documents: np.ndarray  # int64
    valid: Valid
    marks: Marks | None = None
    groups: Groups | None = None  # of the held-out documents, where the study declares any

    @property
    def n_train(self) -> int:
        """Training tokens, the BOS of each document included."""
        return len(self.tokens)

    @property
    def fingerprint(self) -> str:
        """Hash of the tokenizer; "" of a corpus that never was a file."""
        return str(self.manifest.get("tokenizer", {}).get("fingerprint", ""))

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the tokens."""
        return _lever(self.manifest).load(self.path / "tokenizer")


def open_corpus(path: Path) -> Corpus:
    """Open the corpus at `path` after checking every file against the manifest's sha256.

    CheckFailed, naming the file, where one is missing, changed, or not listed.
    """
    manifest = read_manifest(path)
    for name, entry in manifest["files"].items():
        file = path / name
        if not file.is_file():
            raise _broken(file, "is missing")
        if file.stat().st_size != entry["size"] or sha256_file(file) != entry["sha256"]:
            raise _broken(file, "is not what the manifest says (sha256 differs)")
    for file in path.iterdir():
        if file.name not in manifest["files"] and file.name != "manifest.json" and not file.name.startswith("."):
            raise _broken(file, "is not listed in the manifest")
    if manifest["dtype"] not in ("<u2", "<u4"):
        raise _broken(path / "manifest.json", f"says that tokens are {manifest['dtype'][:20]!a}")
    token = np.dtype(manifest["dtype"])
    tokens, marks = _training(path, manifest, token)
    corpus = Corpus(
        path=path,
        key=manifest["key"],
        manifest=manifest,
        vocab_size=manifest["tokenizer"]["vocab_size"],
        bos_id=manifest["tokenizer"]["bos_id"],
        tokens=tokens,
        documents=_mapped(path / "train.starts", "<i8").copy(),
        valid=_valid(path, manifest, token),
        marks=marks,
    )
    _fits(corpus)
    return corpus


def _valid(path: Path, manifest: Manifest, token: np.dtype) -> Valid:
    """Return the held-out documents. CheckFailed where their files do not fit one another."""
    tokens, n_bytes = _mapped(path / "valid.tokens", token), _mapped(path / "valid.bytes", "<u2")
    starts, digests = _mapped(path / "valid.starts", "<i8").copy(), _mapped(path / "valid.digests", "u1").copy()
    marks = _mapped(path / "valid.marks", "u1").copy() if "valid.marks" in manifest["files"] else None
    if len(n_bytes) != len(tokens) or (marks is not None and len(marks) != len(tokens)):
        raise _broken(path / "valid.tokens", f"holds {len(tokens):,} tokens, and the files beside it speak of others")
    if len(digests) != 16 * len(starts):
        raise _broken(path / "valid.digests", f"is not of the {len(starts):,} documents of valid.starts")
    if marks is not None and len(marks) and marks.max() > PLAIN:
        raise _broken(path / "valid.marks", f"holds the mark {marks.max()}; known: 0 to {PLAIN}")
    _ascending(path / "valid.starts", starts, len(tokens))
    return Valid(tokens, n_bytes, starts, digests.reshape(-1, 16), marks)


def _fits(corpus: Corpus) -> None:
    """Refuse starts or ids that lie beyond what there is: such an id reads another row, or ends a run."""
    tokenizer, path = corpus.manifest["tokenizer"], corpus.path
    if not 0 < tokenizer["vocab_size"] <= MOST_TOKENS or not -1 <= tokenizer["bos_id"] < tokenizer["vocab_size"]:
        fault = f"names a vocabulary of {tokenizer['vocab_size']} with BOS {tokenizer['bos_id']}"
        raise _broken(path / "manifest.json", fault)
    if (name := tokenizer["choice"]["name"]) not in slot.table:
        raise _broken(path / "manifest.json", f"names the tokenizer {name!r}, which this ablab does not have")
    _ascending(path / "train.starts", corpus.documents, corpus.n_train)
    own = [] if corpus.manifest["parts"] else [("train.tokens", corpus.tokens)]
    for name, ids in (("valid.tokens", corpus.valid.tokens), *own):
        for at in range(0, len(ids), PIECE):
            if (most := int(np.asarray(ids[at : at + PIECE]).max())) >= corpus.vocab_size:  # type: ignore[index]
                raise _broken(path / name, f"holds the id {most:,}; the vocabulary has {corpus.vocab_size:,}")


def _ascending(file: Path, starts: np.ndarray, end: int) -> None:
    if len(starts) and (starts.min() < 0 or starts.max() > end or (starts[1:] < starts[:-1]).any()):
        raise _broken(file, f"holds starts that do not go from 0 up to the {end:,} tokens")


def _mapped(file: Path, dtype: str | np.dtype) -> np.ndarray:
    """Map all of a file into memory. CheckFailed where it holds half a number."""
    kind, size = np.dtype(dtype), file.stat().st_size
    if size % kind.itemsize:
        raise _broken(file, f"has {size:,} bytes, no whole number of {kind}")
    return map_file(file, kind, 0, size // kind.itemsize)


def _training(path: Path, manifest: Manifest, token: np.dtype) -> tuple[np.ndarray | Tokens, Marks | None]:
    """Return the training tokens and their marks: the corpus's own files, or the token files that it was made from."""
    if not manifest["parts"]:
        marked = "train.loss" in manifest["files"]
        tokens = _mapped(path / "train.tokens", token)
        sides = [_mapped(path / name, "u1") for name in ("train.loss", "train.span")] if marked else []
        for name, side, most in zip(("train.loss", "train.span"), sides, (1, FINAL)):
            if len(side) != len(tokens) or (len(side) and side.max() > most):
                raise _broken(
                    path / name, f"does not hold a number from 0 to {most} for each of {len(tokens):,} tokens"
                )
        return tokens, Marks([sides[0]], [sides[1]]) if sides else None
    inputs = Inputs(path.parent / "inputs.json")
    for entry in manifest["inputs"]:
        for file in cast(list[InputFile], entry["files"]):  # as `read_manifest` has seen
            here = Path(file["path"])
            if not here.is_file() or inputs.sha256(here) != file["sha256"]:
                how = "sha256 differs" if here.is_file() else "it is missing"
                fault = f"is not the file that corpus {manifest['key'][:8]} was made from ({how})"
                raise CheckFailed(
                    Fault(file["path"], fault, f"put it back, or delete {path} to have the data prepared again")
                )
    inputs.save()
    opened = [TokenFile(Path(one["path"]), one["kind"]).open(None) for one in manifest["parts"]]
    loss = [one.loss for one in opened if one.loss is not None]
    span = [one.span for one in opened if one.span is not None]
    return Tokens([one.tokens for one in opened]), Marks(loss, span) if loss else None


class _Guarded(TypedDict):
    """A manifest that can be told from one that was changed."""

    digest: str


class _Listed(TypedDict):
    """A source whose files are named one by one."""

    files: list[object]


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of the corpus at `path`, checked against its own digest."""
    file = path / "manifest.json"
    manifest = read_json(file)
    if not fits(manifest, _Guarded) or manifest["digest"] != digest_of_manifest(manifest):
        raise _broken(file, "was changed after it was written")
    if not fits(manifest, Manifest):
        raise _broken(file, misfit(manifest, Manifest))
    names = set(manifest["files"])
    if manifest["parts"] and misfit(manifest["inputs"], list[_Listed]):
        raise _broken(file, "does not list the files that its parts consist of")
    wanted = set() if manifest["parts"] else {"train.tokens"}
    wanted |= {"train.loss", "train.span"} if names & {"train.loss", "train.span"} else set()
    if not names >= {*FILES, *wanted} or names - {*FILES, *SOME}:
        raise _broken(file, f"does not list the files {', '.join(FILES)}")
    return manifest


def digest_of_manifest(manifest: Mapping[str, object]) -> str:
    """Hash of everything in the manifest but the hash itself."""
    return key_of({name: value for name, value in manifest.items() if name != "digest"})


def _lever(manifest: Manifest) -> type[Tokenizer]:
    return slot.load(manifest["tokenizer"]["choice"]["name"])


def _broken(file: Path, fault: str) -> CheckFailed:
    return CheckFailed(Fault(str(file), fault, f"delete {file.parent} to have the data prepared again"))
