"""What is known of one Megatron flag, and short ways to write it down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict, Unpack

Kind = Literal["int", "float", "str", "on", "off", "window", "skip", "words", "floats", "files"]
Code = Literal["both", "fork", "upstream"]
Role = Literal["model", "train", "lost", "refused", "runs"]
Value = bool | int | float | str | tuple[int, int] | list[int] | list[float] | list[str] | None


class More(TypedDict, total=False):
    """What few flags have."""

    code: Code
    dest: str
    words: tuple[str, ...]
    fork_words: tuple[str, ...]
    upstream_words: tuple[str, ...]


@dataclass(frozen=True)
class MegatronFlag:
    """One flag. `dest` is where its value goes (several flags may share one), `role` what ablab makes of it.

    role: "model" and "train" are carried into a study; "runs" says how or where the work is done, not what is computed;
    "lost" is something that ablab has no lever for and that the rest means the same without; "refused" is something
    without which the rest would mean another thing, so that no study is written.
    """

    name: str
    kind: Kind
    default: Value
    role: Role
    meaning: str
    code: Code = "both"
    dest: str = ""
    words: tuple[str, ...] = ()  # the allowed values
    fork_words: tuple[str, ...] = ()  # values that only the fork allows
    upstream_words: tuple[str, ...] = ()

    @property
    def to(self) -> str:
        """The name of its value: `--seq-length` is `seq_length` unless another is given."""
        return self.dest or self.name[2:].replace("-", "_")


def model(name: str, kind: Kind, default: Value, meaning: str, **more: Unpack[More]) -> MegatronFlag:
    """Make a flag about the model."""
    return MegatronFlag(f"--{name}", kind, default, "model", meaning, **more)


def train(name: str, kind: Kind, default: Value, meaning: str, **more: Unpack[More]) -> MegatronFlag:
    """Make a flag about training."""
    return MegatronFlag(f"--{name}", kind, default, "train", meaning, **more)


def lost(name: str, kind: Kind, default: Value, meaning: str, **more: Unpack[More]) -> MegatronFlag:
    """Make a flag that is said to be left out."""
    return MegatronFlag(f"--{name}", kind, default, "lost", meaning, **more)


def refused(name: str, kind: Kind, default: Value, meaning: str, **more: Unpack[More]) -> MegatronFlag:
    """Make a flag without which the rest would mean another thing."""
    return MegatronFlag(f"--{name}", kind, default, "refused", meaning, **more)


def runs(names: str, kind: Kind, code: Code = "both") -> list[MegatronFlag]:
    """Make flags that say how the work is done, several names at once."""
    return [
        MegatronFlag(f"--{name}", kind, kind == "off" or None, "runs", "how it runs", code) for name in names.split()
    ]
