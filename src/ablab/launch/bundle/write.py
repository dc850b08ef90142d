"""One file that holds all that a study's verdict rests on: study, records, scores, pages, hashes of its data and its source.

A zip archive whose members lie as they do in the store. `bundle.json` lists every other member with its size and sha256 and
is sealed by its own digest, by which the bundle is called. Texts are shareable: no path of the machine is in them. Without
weights it is small; the data are in it by their hashes alone. `ablab.launch.bundle.audit` reads it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NotRequired, TypedDict, TypeVar

from ablab.core import chain
from ablab.core.fault import CheckFailed, Fault
from ablab.core.files import atomic, key_of, sha256_file
from ablab.core.forms import fits, misfit
from ablab.core.opened import opened as opened_file
from ablab.core.opened import read_whole
from ablab.core.sealed import changed, sealed
from ablab.core.strict_json import record
from ablab.data.corpus.corpus import Corpus, digest_of_manifest
from ablab.judging import history
from ablab.records.answer import Answer
from ablab.records.corpus import File
from ablab.records.decision import Asked
from ablab.report.shareable import shareable
from ablab.runs.plan import Plan, Run
from ablab.runs.store import read_lines
from ablab.runtime import provenance, source
from ablab.scoring.scores import FILE as SCORES

FORMAT = 1
INDEX = "bundle.json"
STUDY = "study/study.toml"
DATE = (1980, 1, 1, 0, 0, 0)  # of every member: two bundles of one store are the same bytes
MOST_BYTES = 4 << 30  # of all members together without weights; a study of a hundred runs has less than a hundredth
MOST_WEIGHTS = 1 << 40
MOST_MEMBERS = 100_000
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]*(/[A-Za-z0-9_][A-Za-z0-9_. -]*)*")
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
FREE, MOST_RATIO = 1 << 30, 64  # all members may have FREE bytes, or so many times those of the archive
UNREADABLE = (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile)  # encrypted, cut, of no known kind
COUNTED = ("train", "documents", "targets", "bytes")
_AGAIN = "ask for the bundle again"
T = TypeVar("T")


class Bundled(TypedDict):
    """A run: the keys of its training and of its stages."""

    arm: str
    seed: int
    train: str
    score: dict[str, str]


class Index(TypedDict):
    """bundle.json, as far as a reader is sure of it. counts: what of each corpus the verdict counts; weights: files of weights
    trained elsewhere, and what they held; runs: each a Bundled; ablab and commit: what wrote it."""

    format: int
    ablab: NotRequired[object]
    commit: NotRequired[object]
    study: str
    scale: str | None
    root: str
    where: dict[str, object]
    corpora: dict[str, object]
    counts: dict[str, object]
    weights: dict[str, object]
    runs: list[object]
    members: dict[str, File]
    digest: NotRequired[str]


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its index, and where its members are read from."""

    path: Path
    index: Index
    archive: zipfile.ZipFile

    @property
    def key(self) -> str:
        """What the bundle is called: the digest of its index, which holds the sha256 of every other member."""
        return str(self.index["digest"])

    def extract(self, name: str, to: Path) -> None:
        """Write a member to the file `to`, checked against the index. CheckFailed where it is another one."""
        told, digest, left = self.index["members"][name], hashlib.sha256(), 0
        to.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.archive.open(name) as file, to.open("xb") as out:
                left = told["size"]
                # no further than the index says: what the archive says of itself may be anything
                while piece := file.read(min(1 << 20, left + 1)):
                    left -= len(piece)
                    if left < 0:
                        break
                    digest.update(piece)
                    out.write(piece)
        except (*UNREADABLE, zlib.error) as error:
            if isinstance(error, OSError):  # of this machine's disk, which is not the bundle's fault
                raise
            raise _broken(self.path, f"{name} cannot be read ({error})") from error
        if left or digest.hexdigest() != told["sha256"]:
            raise _broken(self.path, f"{name} is not the file that was bundled (its sha256 differs)")


def write(plan: Plan, answer: Answer, to: Path, *, weights: bool = False) -> Index:
    """Write the bundle of a study that was judged (`answer`) to the file `to`; returns its index.

    weights: with the trained weights of every run. CheckFailed where no training has ended, where a script that stages count
    lies outside the study's folder, and where levers do.
    """
    plan.study.trained_here("a bundle")
    if plan.study.levers:
        fault = f"uses levers from outside ablab ({', '.join(plan.study.levers)}), whose code a bundle does not carry"
        cure = "hand over the study, its lever files and its runs folder; or make it one of ablab's own"
        raise CheckFailed(Fault(plan.study.path.name, fault, cure))
    runs = [_run(run) for run in plan.runs.values() if plan.store.trained(run.train_key) is not None]
    if not runs:
        fault = "no training of it has ended: there is nothing to bundle"
        raise CheckFailed(
            Fault(plan.study.path.name, fault, "do `ablab run` first, or name the --out that it was run in")
        )
    members = dict(_members(plan, answer, weights))
    told: Index = {
        "format": FORMAT,
        "ablab": answer["environment"]["ablab"],
        "commit": provenance.of_ablab(),
        "study": plan.study.name,
        "scale": plan.study.scale,
        "root": plan.store.root.name,
        "where": {**plan.where.as_json()},
        "corpora": {name: plan.corpus(plan.runs[name, plan.seeds[0]]).key for name in plan.study.with_baseline},
        "counts": {corpus.key: _counts(corpus) for corpus in plan.corpora.values()},
        "weights": {**_adopted(plan)},
        "runs": [*runs],
        "members": {name: _told(data) for name, data in members.items()},
    }
    index = sealed(told)
    with atomic(to) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {INDEX: _text(index), **members}.items():
            info = zipfile.ZipInfo(name, DATE)
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            with archive.open(info, "w", force_zip64=True) as file, _opened(data) as source:
                shutil.copyfileobj(source, file)
    return index


def opened(path: Path) -> Bundle:
    """Open a bundle: its index is whole, and every member is a plain name of a bounded size. CheckFailed otherwise."""
    if not path.is_file():
        raise CheckFailed(Fault(str(path), "is no file", "give the file that `ablab bundle` wrote"))
    try:
        archive = zipfile.ZipFile(path)
        infos = archive.infolist()
        if len(infos) > MOST_MEMBERS or INDEX not in archive.namelist():
            raise _broken(path, f"holds no {INDEX}", "give the file that `ablab bundle` wrote")
        if odd := [
            info.filename for info in infos if info.compress_type not in PACKED
        ]:  # xz may ask for 4 GiB to begin
            raise _broken(path, f"holds {odd[0][:40]!a} packed otherwise than a bundle is")
        with archive.open(INDEX) as file:
            index = record(file.read(MOST_MEMBERS * 300))
    except UNREADABLE as error:
        raise _broken(
            path, f"cannot be read as a bundle ({error})", "give the file that `ablab bundle` wrote"
        ) from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        form = index.get("format") if isinstance(index, dict) else index
        raise _broken(
            path, f"is of format {form!r}, and this ablab reads {FORMAT}", "audit it with the ablab that wrote it"
        )
    if (fault := changed(index, path, _AGAIN)) is not None:
        raise CheckFailed(fault)
    _check_index(path, index, [info.filename for info in infos])
    if not fits(index, Index):
        raise _broken(path, f"{INDEX} {misfit(index, Index)}")
    return Bundle(path, index, archive)


def _check_index(path: Path, index: Mapping[str, object], names: list[str]) -> None:
    members = index.get("members")
    if not isinstance(members, dict) or not all(_plain(name, one) for name, one in members.items()):
        raise _broken(path, f"{INDEX} lists a member that no bundle has")
    if len(names) != len(set(names)) or set(names) != {INDEX, *members}:
        raise _broken(path, f"does not hold just the members that {INDEX} lists")
    most = MOST_WEIGHTS if any(name.endswith(".safetensors") for name in members) else MOST_BYTES
    most = min(most, max(FREE, MOST_RATIO * path.stat().st_size))
    if len({name.casefold() for name in members}) < len(members) or any(_in_way(name, members) for name in members):
        raise _broken(path, f"{INDEX} lists two members that cannot both be written")
    if sum(one["size"] for one in members.values()) > most:
        raise _broken(path, f"would take more than {most:,} bytes")
    root = index.get("root")
    if not isinstance(root, str) or not _NAME.fullmatch(root) or "/" in root or len(root) > 200 or STUDY not in members:
        raise _broken(path, f"{INDEX} names no store or no study")


def _in_way(name: str, members: Collection[str]) -> bool:
    """Tell whether a member lies below another one, or a part of its name is longer than that of a file."""
    return any(str(above) in members for above in Path(name).parents) or any(len(one) > 200 for one in Path(name).parts)


def _told(data: bytes | Path) -> File:
    """Describe a member as the index lists it."""
    if isinstance(data, Path):
        return {"size": data.stat().st_size, "sha256": sha256_file(data)}
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _opened(data: bytes | Path) -> IO[bytes]:
    return opened_file(data) if isinstance(data, Path) else io.BytesIO(data)


def _plain(name: str, one: object) -> bool:
    """Tell whether an entry of the index is a plain name below the bundle with a size and a sha256."""
    if not _NAME.fullmatch(name) or len(name) > 500 or name.split("/")[0] not in ("study", "store"):
        return False
    return (
        isinstance(one, dict)
        and type(one.get("size")) is int
        and one["size"] >= 0
        and isinstance(one.get("sha256"), str)
    )


def _members(plan: Plan, answer: Answer, weights: bool) -> Iterator[tuple[str, bytes | Path]]:
    """Yield (name, content) of everything but the index."""
    yield STUDY, plan.study.source.encode()
    yield from _scripts(plan)
    folder = f"store/studies/{plan.directory.name}"
    yield f"{folder}/where.json", _text(plan.where.as_json())
    for name in ("verdict.json", "report.html", "report.md"):
        yield f"{folder}/{name}", read_whole(plan.directory / name)
    for name in ("ledger.jsonl",):
        if (plan.directory / name).exists():
            yield f"{folder}/{name}", _lines(_clean(plan, read_lines(plan.directory / name)))
    if failed := plan.failures():
        yield f"{folder}/failed.json", _text(_clean(plan, failed))
    rows = history.record(plan)
    yield "store/decisions.jsonl", _lines(_clean(plan, list(_decisions(plan, rows))))
    for corpus in plan.corpora.values():
        manifest = _clean(plan, corpus.manifest)
        yield f"store/data/{corpus.key}/manifest.json", _text(manifest | {"digest": digest_of_manifest(manifest)})
        if corpus.groups is not None:
            name = f"groups/{key_of([corpus.key, corpus.groups.by])}.json"
            yield f"store/data/{name}", _own(plan.store.data / name)
    yield from _results(plan, rows, weights)


def _scripts(plan: Plan) -> Iterator[tuple[str, bytes | Path]]:
    """Yield the scripts that stages count, as the study names them: their bytes are in the artifact, so in the key."""
    folder = plan.study.path.parent.absolute()
    every = {stage["code"] for arm in plan.study.with_baseline.values() for stage in arm.settings["stage"].values()}
    for script in sorted(filter(None, every)):
        try:
            name = f"study/{Path(script).relative_to(folder)}"
        except ValueError:
            name = ".."
        if not _NAME.fullmatch(name):
            fault = (
                "is counted by a stage and lies outside of the study's folder, or has a name that no bundle can keep"
            )
            raise CheckFailed(Fault(script, fault, "move it beside the study file"))
        if not Path(script).resolve().is_relative_to(folder.resolve()):
            raise _other_file(Path(script), "is a link that leads out of the study's folder")
        yield name, read_whole(Path(script))


def _decisions(plan: Plan, rows: list[Asked]) -> Iterator[Mapping[str, object]]:
    """Yield the decisions that bear on the study's words, each followed by its events, and no others."""
    mine = rows[history.own(plan, rows)]
    for row in rows:
        if row is mine or history.shares(row, mine):
            yield {key: value for key, value in row.items() if key != "firsts"}
            yield from row["firsts"].values()


def _results(plan: Plan, rows: list[Asked], weights: bool) -> Iterator[tuple[str, bytes | Path]]:
    """Yield what every training and stage left; of other studies' results on the same contrasts the records alone."""
    trained = {run.train_key: run for run in plan.runs.values()}
    scored = {key for run in plan.runs.values() for key in run.score_keys.values()}
    mine = rows[history.own(plan, rows)]
    pairs = [entry for row in rows if row is mine or history.shares(row, mine) for entry in row.get("contrasts", ())]
    others = {key for entry in pairs for pair in entry["pairs"] for key in pair[1:]} - scored
    also = {key for entry in pairs for pair in entry.get("trained", ()) for key in pair} - trained.keys()
    for key in sorted({*trained, *also}):
        if (done := plan.store.trained(key)) is not None:
            yield f"store/train/{key}/done.json", _text(sealed(_clean(plan, done)))
            if key in trained:
                yield from _files(
                    plan.store.train(key),
                    f"store/train/{key}",
                    ["metrics.jsonl", source.DETAILS, *(done["weights"] if weights else ())],
                )
    for key in sorted(scored | others):
        if (result := plan.store.scored(key)) is not None:
            yield f"store/score/{key}/result.json", _text(sealed(_clean(plan, result)))
            if key in scored:
                yield from _files(plan.store.score(key), f"store/score/{key}", [SCORES, source.DETAILS])


def _files(folder: Path, name: str, files: list[str]) -> Iterator[tuple[str, bytes | Path]]:
    for file in files:
        if not _NAME.fullmatch(file):
            raise _other_file(folder / file, "is no name of a file in its folder")
        if os.path.lexists(folder / file):
            yield f"{name}/{file}", _own(folder / file)


def _own(path: Path) -> Path:
    """Return a file of the store or the study that goes into the bundle as it is. CheckFailed for a link, or what is no file.

    Store and study may be a stranger's, and a bundle is passed on: behind a link may lie whatever else this user can read.
    """
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1 or path.parent.resolve() != path.parent.absolute():
        raise _other_file(path, "is a link, lies behind one, or is no file: what it leads to would be passed on")
    return path


def _other_file(path: Path, fault: str) -> CheckFailed:
    return CheckFailed(Fault(str(path), fault, "put the file itself there, or remove it"))


def _run(run: Run) -> Bundled:
    return {"arm": run.arm, "seed": run.seed, "train": run.train_key, "score": run.score_keys}


def _counts(corpus: Corpus) -> dict[str, int]:
    """Return what of a corpus the verdict counts, so that it need not be there."""
    valid = corpus.valid
    return dict(zip(COUNTED, (corpus.n_train, len(valid), valid.n_targets, valid.n_scored_bytes), strict=True))


def _adopted(plan: Plan) -> dict[str, list[str]]:
    """Return weights that were trained elsewhere: the file as the study's folder sees it -> the sha256 of what it held."""
    folder, kept = plan.study.path.parent.absolute(), {}
    for run in plan.runs.values():
        for file in run.settings["train"]["weights"] or ():
            path = Path(file)
            kept[str(path.relative_to(folder)) if path.is_relative_to(folder) else file] = [run.weights]
    return kept


def _clean(plan: Plan, value: T) -> T:
    """Return `value` without paths of the machine."""
    return shareable(value, folder=plan.study.path.parent, root=plan.store.root)


def _text(value: object) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def _lines(rows: Iterable[Mapping[str, object]]) -> bytes:
    """Write rows with a chain of their own: some are left out, and paths in them are shorter."""
    lines, before = [], ""
    for row in rows:
        row = chain.linked(row, before)
        before = str(row[chain.FIELD])
        lines.append(json.dumps(row, allow_nan=False) + "\n")
    return "".join(lines).encode()


def _broken(path: Path, fault: str, cure: str = _AGAIN) -> CheckFailed:
    return CheckFailed(Fault(str(path), fault, cure))
