"""One run of a program that is not ours: a clean tree, a folder of its own, and what it said; then its score."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from ablab.check.program import executable
from ablab.core import places
from ablab.core.fault import CheckFailed, Fault, Interrupted, InUse
from ablab.core.files import read_json, sha256_file, write_json
from ablab.core.sealed import sealed
from ablab.judging import program as judged
from ablab.judging.logs.found import Score
from ablab.launch import supervise
from ablab.records.result import Result
from ablab.records.run import Ran, Trained
from ablab.runs import tree
from ablab.runs.plan import Run
from ablab.runs.store import Store
from ablab.runtime import capacity, machine, source
from ablab.runtime.lock import locked
from ablab.study import runner
from ablab.study.runner import MARK

Say = Callable[[str], None]
LOOK, TELL = 0.05, 5.0  # seconds between two looks at a program, and between two words about it
LAST = 12  # lines of a program that failed


class Failed(Exception):
    """A program ended and left no score; its last lines, and then in one line what was wrong."""


def do(run: Run, *, store: Store, stop: Callable[[], bool], say: Say) -> str:
    """Bring `run` to its end; returns `done` or `diverged`.

    Raises Interrupted where `stop()` turned true, Failed for a program that fails or says no score, CheckFailed for one that
    runs past its time or cannot be started.
    """
    folder = store.train(run.train_key)
    if store.trained(run.train_key) is None:
        with locked(folder) as held:
            if store.trained(run.train_key) is None:
                done = _ran(run, folder, store, stop, say)
                held.check()
                write_json(folder / "done.json", sealed(done))
    [(stage, key)] = run.score_keys.items()
    result = store.scored(key)
    if result is None:
        with locked(store.score(key)) as held:
            again = [_again(run, folder / f"repeat-{i + 1}", store, stop, say) for i in range(run.repeats)]
            result = _scored(run, stage, key, folder, again)
            held.check()
            source.keep(store.score(key), result["source"])
            write_json(store.score(key) / "result.json", sealed(result))
    return "diverged" if result["diverged"] else "done"


def _again(run: Run, folder: Path, store: Store, stop: Callable[[], bool], say: Say) -> float | None:
    """Return the score of one more run under the same seed; None where it diverged."""
    if not (folder / "done.json").is_file():
        write_json(folder / "done.json", sealed(_ran(run, folder, store, stop, say)))
    return _read(run, folder).value


def _ran(run: Run, folder: Path, store: Store, stop: Callable[[], bool], say: Say) -> Trained:
    """Run the program to its end; goes on in the folder that it began where runner.resume says how."""
    assert run.program is not None
    asked, out, copy = run.settings["runner"], folder / "out", folder / "tree"
    _end_left_over(folder)
    tree.drop(copy)
    begun = _begun(folder) if asked["resume"] and out.is_dir() and any(out.iterdir()) else None
    seconds, resumed = begun or (0.0, -1)
    if begun is None:
        shutil.rmtree(out, ignore_errors=True)
        for name in (judged.STDOUT, judged.STDERR):
            (folder / name).unlink(missing_ok=True)
    places.folder(out)
    with _leased(asked["gpus"], store) as gpus:
        here = tree.make(run.program, copy, store)
        argv = runner.argv(asked, run.seed, str(out), resumed=begun is not None)
        own = runner.variables(asked, run.seed, str(out))
        environment = _environment(own, gpus, folder)
        executable(argv[0], here, environment)
        write_json(folder / "begun.json", {"seconds": seconds, "resumed": resumed + 1})
        if begun is not None:
            say(f"goes on where it was: {asked['resume']}")
        began = time.monotonic()
        try:
            status = _watched(run, argv, here, environment, folder, stop, say)
        finally:
            seconds += time.monotonic() - began
            write_json(folder / "begun.json", {"seconds": seconds, "resumed": resumed + 1})
            tree.drop(copy)
        tree.unchanged(run.program, store)
    if status != 0:
        if (
            begun is not None
        ):  # there may be nothing to go on from, or it fails on just that: once more from the beginning
            (folder / "begun.json").unlink(missing_ok=True)
            say(f"{asked['resume']} ended with {_status(status)}: begins anew")
            return _ran(run, folder, store, stop, say)
        raise Failed(_last_words(folder, f"the program ended with {_status(status)}"))
    _read(run, folder)
    stands = run.program
    ran: Ran = {
        "argv": argv, "env": own, "commit": stands.commit, "tree": stands.tree, "diff": stands.diff, "patch": stands.patch,
        "reads": [list(one) for one in stands.reads], "stdout": sha256_file(folder / judged.STDOUT), "resumed": resumed + 1,
        "gpus": gpus,
    }  # fmt: skip
    kind = machine.kind("cuda" if gpus else "cpu").rpartition(", torch ")[
        0
    ]  # of the program's own torch nothing is known
    return {
        "status": "done", "token_hash": "", "tokens": 0, "seconds": seconds, "tokens_per_second": None, "trajectory": [],
        "spikes": 0, "steps": 0, "weights": {}, "untrained": {}, "seed": run.seed, "machine": kind, "source": {},
        "program": ran,
    }  # fmt: skip


def _begun(folder: Path) -> tuple[float, int] | None:
    """Return (seconds that it ran, how often it went on) of a begun run; None where there is none to go on with."""
    try:
        record = read_json(folder / "begun.json", "seconds", "resumed", form=dict[str, float])
    except CheckFailed:
        return None
    return record["seconds"], int(record["resumed"])


def _watched(
    run: Run,
    argv: list[str],
    here: Path,
    environment: Mapping[str, str],
    folder: Path,
    stop: Callable[[], bool],
    say: Say,
) -> int:
    """Start the program and wait for it; its exit status. All that it has started ends with it."""
    timeout, began, told, said = run.settings["runner"]["timeout"], time.monotonic(), time.monotonic(), ""
    ends = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    with (
        os.fdopen(places.opened(folder / judged.STDOUT, ends), "ab") as out,
        os.fdopen(places.opened(folder / judged.STDERR, ends), "ab") as err,
    ):
        program, report = _started(argv, here, environment, out, err)
    try:
        if (failed := _told(report, "failed")) is not None:
            fault = f"{argv[0]!r} cannot be started ({os.strerror(failed)})"
            raise CheckFailed(Fault("runner.command", fault, "give a program that this machine can run"))
        while program.poll() is None:
            if stop():
                raise Interrupted
            now = time.monotonic()
            if timeout is not None and now - began > timeout:
                _end(program, folder)
                last = _last_words(folder, f"ran past its time, runner.timeout = {timeout:g} s")
                raise CheckFailed(Fault(f"{run.arm}, seed {run.seed}", last, "give it more time"))
            if now - told > TELL:
                told, line = now, _tail(folder / judged.STDOUT, 1)
                if line and line != [said]:
                    said = line[0]
                    say(f"stage {run.metric.removeprefix('-')}: {said}")
            time.sleep(LOOK)
        status = _told(report, "ended")
        return program.returncode if status is None else status  # without it somebody has killed what watched it
    finally:
        _end(program, folder)
        report.close()


def _started(
    argv: list[str], here: Path, environment: Mapping[str, str], out: BinaryIO, err: BinaryIO
) -> tuple[subprocess.Popen[bytes], BinaryIO]:
    """Start the program below a process that ends all it starts; returns that process and what it reports."""
    heard, report = os.pipe()
    watch = [sys.executable, "-I", "-S", supervise.__file__, str(report), str(os.getpid()), *argv]
    try:
        program = subprocess.Popen(
            watch, cwd=here, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True,
            pass_fds=(report,),
        )  # fmt: skip
    finally:
        os.close(report)
    return program, os.fdopen(heard, "rb")


def _told(report: BinaryIO, what: str) -> int | None:
    """Return the number behind the word in the next line of a report; None where it begins with another, or there is none."""
    word, _, number = report.readline().decode().partition(" ")
    return int(number) if word == what else None


def _end(program: subprocess.Popen[bytes], folder: Path) -> None:
    """End a program and all that it has started, wherever that went: asked first, then killed."""
    if program.poll() is None:
        program.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait(2 * supervise.GRACE)
    if program.poll() != 0:  # what watched it did not come to its end
        program.kill()
        program.wait()
        _end_left_over(folder)


def _end_left_over(folder: Path) -> None:
    """Kill what a run that was killed has left running: it would write into the folder of its successor."""
    mark = f"{MARK}={folder}".encode()
    for one in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in one.read_bytes().split(b"\0"):
                os.kill(int(one.parent.name), signal.SIGKILL)


def _environment(own: Mapping[str, str], gpus: list[str], folder: Path) -> dict[str, str]:
    """Return ablab's own environment without what ablab has put there for itself, and what the study adds."""
    inherited = {
        name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"
    }  # `import model` of a script
    shown = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
    return {"PYTHONUNBUFFERED": "1", **inherited, **shown, **own, MARK: str(folder)}


@contextlib.contextmanager
def _leased(count: int, store: Store) -> Iterator[list[str]]:
    """Lease so many GPUs of this machine that no other run of this store has. InUse where there are not enough now."""
    with contextlib.ExitStack() as stack:
        leased = list[str]()
        for name in capacity.gpus() if count else ():
            place = store.root / "gpus" / f"{socket.gethostname()}-{name.replace('/', '-')}"
            handle = places.opened(place, os.O_RDWR | os.O_CREAT)
            stack.callback(os.close, handle)
            if len(leased) < count:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    leased.append(name)
        if len(leased) < count:
            fault = f"{count} are asked for and {len(leased)} are free"
            raise InUse(Fault("GPUs", fault, "wait for the other runs"), "other runs")
        yield leased


def _read(run: Run, folder: Path) -> Score:
    """Read the score of a run that has ended. Failed where it says none."""
    try:
        return judged.read(run.settings["runner"], run.metric, folder, run.seed)
    except CheckFailed as error:
        raise Failed(_last_words(folder, f"the program ended well and left no score: {error}")) from error


def _scored(run: Run, stage: str, key: str, folder: Path, again: list[float | None]) -> Result:
    began, score = time.monotonic(), _read(run, folder)
    name = run.metric.removeprefix("-")
    return {
        "stage": stage, "key": key, "metrics": judged.metrics(run.metric, score.value), "bytes": 0, "violations": [],
        "bands": {}, "probe": None, "seconds": time.monotonic() - began, "scores": {"sha256": ""}, "artifact": {},
        "diverged": None if score.value is not None else f"{name} is {score.text} in line {score.line} of {score.file.name}",
        "read": {
            "file": score.file.relative_to(folder).as_posix(), "line": score.line, "text": score.text, "digits": score.digits,
            "echo": score.echo, "echo_digits": score.echo_digits, "repeats": again,
        },
        "source": source.of_stage(run.settings, stage), "machine": machine.kind(),
    }  # fmt: skip


def _last_words(folder: Path, what: str) -> str:
    """Return the last lines of a program, and in one line what was wrong and the last of them."""
    lines = _tail(folder / judged.STDERR, LAST) or _tail(folder / judged.STDOUT, LAST)
    last = f"; its last words: {lines[-1].strip()}" if lines else "; it said nothing"
    return "\n".join([*lines, f"{what}{last} (all of them: {folder / judged.STDERR}, {judged.STDOUT})"])


def _tail(file: Path, lines: int) -> list[str]:
    """Return the last lines that say anything, each cut at 500 characters."""
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, file.stat().st_size - 65_536))
            text = opened.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line[:500] for line in text.replace("\r", "\n").split("\n") if line.strip()][-lines:]


def _status(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    with contextlib.suppress(ValueError):
        return f"signal {signal.Signals(-code).name}"
    return f"signal {-code}"
