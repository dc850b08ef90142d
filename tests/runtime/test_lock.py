"""Claims: one holder at a time, dead ones known at once here and by the server's clock elsewhere, none followed unawares."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ablab.core.fault import CheckFailed, InUse
from ablab.runtime import lock
from ablab.runtime.lock import Held, holder, in_turn, locked

HANG = 120  # seconds: a guard, not a time that anything is expected to take
HOLD = """
import sys
from pathlib import Path
from ablab.runtime.lock import locked

with locked(Path(sys.argv[1])) as held:
    print("held", flush=True)
    sys.stdin.readline()
    try:
        held.check()
        print("mine", flush=True)
    except Exception as error:
        print(error, flush=True)
"""


def elsewhere(folder: Path, **environment: str) -> subprocess.Popen[str]:
    """A process that holds `folder` until a line comes, and then says whether it still does."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def rewrite(folder: Path, **said: Any) -> None:
    """Have the claim in `folder` say something else of its holder."""
    (path,) = folder.glob("claim.*")
    path.write_text(json.dumps({**json.loads(path.read_text()), **said}))


def age(folder: Path, seconds: float) -> None:
    """Make the claim in `folder` so old, by the clock that keeps its files."""
    (path,) = folder.glob("claim.*")
    os.utime(path, (time.time() - seconds,) * 2)


def test_one_holds_and_is_named_and_numbers_grow(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        with locked(tmp_path) as held:
            assert held.number == number and names(tmp_path) == [f"claim.{number:06d}"], "what is over is swept"
            held.check()
            assert holder(tmp_path).startswith(f"pid {os.getpid()} on ")
            with pytest.raises(InUse, match=f"is in use by pid {os.getpid()} on .* since 2.*; wait for it, or stop it"):
                locked(tmp_path).__enter__()
        assert holder(tmp_path) == "" and names(tmp_path) == [f"free.{number:06d}"]


def test_who_was_killed_here_holds_nothing(tmp_path: Path) -> None:
    process = elsewhere(tmp_path)
    assert f"pid {process.pid} on" in holder(tmp_path)
    process.kill()  # and not waited for: a zombie holds nothing either
    while (tmp_path / "claim.000001").exists() and holder(tmp_path):
        time.sleep(0.01)
    with locked(tmp_path) as held:
        assert held.number == 2
    process.communicate(timeout=HANG)


def test_another_process_with_the_number_of_a_dead_one_is_not_it(tmp_path: Path) -> None:
    with locked(tmp_path):
        rewrite(tmp_path, began="1")
        assert holder(tmp_path) == ""


@pytest.mark.parametrize("hours", [-1, 0, 1])
def test_a_holder_elsewhere_is_dead_after_its_lease_by_the_servers_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """This machine's own clock is not asked, and may be an hour away."""
    process = elsewhere(tmp_path)
    process.kill()
    process.communicate(timeout=HANG)
    rewrite(tmp_path, machine="another", host="node7", lease=60.0)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + hours * 3600)
    monkeypatch.setattr(lock, "_now", lambda folder: now())
    assert "on node7 since" in holder(tmp_path)
    age_of = now() - 59
    os.utime(tmp_path / "claim.000001", (age_of, age_of))
    with pytest.raises(InUse, match="on node7"):
        locked(tmp_path).__enter__()
    os.utime(tmp_path / "claim.000001", (now() - 61, now() - 61))
    with locked(tmp_path) as held:
        assert held.number == 2


def test_the_servers_clock_is_read_off_a_file_that_does_not_stay(tmp_path: Path) -> None:
    before = (tmp_path / "before").stat().st_mtime if (tmp_path / "before").touch() is None else 0.0
    assert lock._now(tmp_path) >= before and names(tmp_path) == ["before"]


def test_a_holder_is_heard_of(tmp_path: Path) -> None:
    """However old its claim was made: it is touched again."""
    process = elsewhere(tmp_path, ABLAB_LEASE="0.2")
    rewrite(tmp_path, machine="another", lease=60.0)
    age(tmp_path, 3600)
    end = time.monotonic() + HANG
    while not holder(tmp_path):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert process.communicate("\n", timeout=HANG)[0] == "mine\n"


def test_who_slept_beyond_its_lease_is_followed_and_told_so(tmp_path: Path) -> None:
    process = elsewhere(tmp_path, ABLAB_LEASE="0.2")
    process.send_signal(signal.SIGSTOP)
    end = time.monotonic() + HANG
    while holder(tmp_path):
        assert time.monotonic() < end
        time.sleep(0.01)
    with locked(tmp_path) as held:
        assert held.number == 2
        process.send_signal(signal.SIGCONT)
        said = process.communicate("\n", timeout=HANG)[0]
        assert f"was taken over by pid {os.getpid()} on " in said and "leave it to that one" in said
        held.check()
    assert names(tmp_path) == ["free.000002"], "it gives back nothing that is not its own"


def test_a_fault_of_the_block_is_that_it_was_followed(tmp_path: Path) -> None:
    with pytest.raises(InUse, match="was taken over"), locked(tmp_path):
        rewrite(tmp_path, began="1")
        with locked(tmp_path):
            raise OSError("swept")


def test_who_slept_before_it_made_its_claim_makes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others have come and gone, and their claims are swept: its number is free again, and too low."""
    for _ in range(3):
        with locked(tmp_path):
            pass
    seen = iter([(0, False)])
    highest = lock._highest
    monkeypatch.setattr(lock, "_highest", lambda folder: next(seen, None) or highest(folder))
    with pytest.raises(InUse):
        locked(tmp_path).__enter__()
    assert names(tmp_path) == ["free.000003"]


def test_many_at_once_and_one_at_a_time(tmp_path: Path) -> None:
    inside, most = list[int](), list[int]()

    def hold() -> None:
        for _ in range(10):
            with in_turn(tmp_path):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    lock_turn = lock.TURN
    lock.TURN = 0.001
    try:
        threads = [threading.Thread(target=hold) for _ in range(4)]
        for one in threads:
            one.start()
        for one in threads:
            one.join(HANG)
    finally:
        lock.TURN = lock_turn
    assert most == [1] * 40 and names(tmp_path) == ["free.000040"]


def test_whoever_waits_for_its_turn_says_for_whom(tmp_path: Path) -> None:
    said = list[str]()
    process = elsewhere(tmp_path)

    def say(text: str) -> None:
        said.append(text)
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()

    with in_turn(tmp_path, say) as held:
        assert held.number == 2
    assert len(said) == 1 and f"is in use by pid {process.pid} on" in said[0] and said[0].endswith("waits for it")
    process.communicate(timeout=HANG)


def test_a_claim_that_says_nothing_is_held_for_a_lease(tmp_path: Path) -> None:
    """A full disk, or a text of no one's: the file alone claims."""
    for text in ("", "x" * 9000, '{"pid": -1}'):
        (tmp_path / "claim.000001").write_text(text)
        assert holder(tmp_path) == "another process"
    age(tmp_path, lock.LEASE + 1)
    with locked(tmp_path):
        pass


def test_where_nothing_can_be_made_a_claim_counts_as_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with locked(tmp_path):
        age(tmp_path, 3600)

        def read_only(folder: Path) -> float:
            raise PermissionError

        monkeypatch.setattr(lock, "_now", read_only)
        assert holder(tmp_path).startswith("pid ")


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf"])
def test_a_lease_that_is_no_time_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("ABLAB_LEASE", text)
    with pytest.raises(CheckFailed, match=f"ABLAB_LEASE: '{text}' is no number of seconds; write seconds"):
        locked(tmp_path).__enter__()
    monkeypatch.delenv("ABLAB_LEASE")  # the cure
    with locked(tmp_path) as held:
        assert isinstance(held, Held)


def test_a_copy_of_the_process_gives_nothing_back(tmp_path: Path) -> None:
    code = f"""
import os
from pathlib import Path
from ablab.runtime.lock import locked
with locked(Path({str(tmp_path)!r})) as held:
    if not os.fork():
        raise SystemExit
    os.wait()
    held.check()
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=HANG)
