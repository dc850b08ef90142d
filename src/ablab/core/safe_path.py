"""Where modules come from: never from the folder that a process stands in, which may hold a stranger's study."""

from __future__ import annotations

import os
import sys
import types
from multiprocessing.process import BaseProcess
from pathlib import Path

from ablab.core.fault import CheckFailed, Fault

VARIABLE = "PYTHONSAFEPATH"  # with it `python -c` and `python -m` leave their folder out of sys.path (Python 3.11)
_own_program = False  # whether this process is a command of ours, not a caller's script or notebook


def leave_folder() -> None:
    """Take the current folder out of sys.path, and out of that of every Python that this process starts from now on.

    Kept where ablab itself lies there: then it is the folder of the code that runs anyway. What Python imports before it
    runs a program by `python -m` is beyond reach of the program: there, `python -P -m` does the same from the start.
    """
    global _own_program
    _own_program = True
    os.environ[VARIABLE] = "1"
    own = str(Path(__file__).resolve().parents[2])
    try:
        here = os.path.realpath(Path.cwd())
    except OSError:  # the folder is gone: nothing can be imported from it
        here = ""
    if here != own:
        sys.path[:] = [entry for entry in sys.path if entry and os.path.realpath(entry) != here]


def start(process: BaseProcess) -> None:
    """Start a process of multiprocessing's `spawn` whose first imports (pickle, socket, ...) are the interpreter's own.

    multiprocessing gives a child the parent's sys.path only after the child has imported them, with the current folder
    ahead of all others. CheckFailed where Python was told not to look at its environment: the child would not either.
    """
    if sys.flags.ignore_environment and not sys.flags.safe_path:
        fault = "runs with -E: processes that it starts would import modules from the current folder"
        raise CheckFailed(Fault("python", fault, "start it with -P or -I, or without -E"))
    before, program = os.environ.get(VARIABLE), sys.modules["__main__"]
    os.environ[VARIABLE] = "1"
    if not _own_program:  # a child imports the program of its parent, and a caller's script would call us once more
        sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        process.start()
    finally:
        sys.modules["__main__"] = program
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
