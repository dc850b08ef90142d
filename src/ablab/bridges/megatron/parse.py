"""A Megatron command line to values: flags as they were given, every fault at once."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ablab.bridges.megatron import grammar
from ablab.bridges.megatron.flag import MegatronFlag, Value
from ablab.bridges.megatron.flags import FLAGS
from ablab.core.fault import Fault, InvalidStudy, did_you_mean


@dataclass(frozen=True)
class Given:
    """What a command line says. `values`: by destination, last one wins. `flags`: the given flags, in their order."""

    values: dict[str, Value]
    flags: tuple[MegatronFlag, ...]
    repeated: tuple[str, ...] = ()
    texts: dict[str, str] = field(default_factory=dict)  # a flag's name -> its words as given

    def __contains__(self, dest: str) -> bool:
        return dest in self.values

    def __getitem__(self, dest: str) -> Any:
        """Return the value given, or Megatron's default; its type is what the flag's kind says, which no annotation can."""
        return self.values[dest] if dest in self.values else DEFAULTS[dest]


DEFAULTS: dict[str, Value] = {flag.to: flag.default for flag in reversed(FLAGS.values())}


def words(text: str) -> list[str]:
    """Split a shell line or a file of flags into words: quotes, comments and backslashes at line ends are understood.

    What stands before the flags (`torchrun ... pretrain_gpt.py`) is left out. InvalidStudy where a quote is open.
    """
    try:
        parts = shlex.split(text.replace("\\\r\n", " ").replace("\\\n", " "), comments=True)
    except ValueError as error:
        raise InvalidStudy(Fault("flags", f"not a shell line: {str(error).lower()}", "close the quote")) from error
    script = [i for i, word in enumerate(parts) if word.endswith(".py") and not word.startswith("-")]
    return parts[script[0] + 1 :] if script else parts


def parse(argv: Sequence[str]) -> Given:
    """Parse the flags of `argv`. InvalidStudy with every unknown flag (and what was meant), missing and impossible value."""
    faults: list[Fault] = []
    values: dict[str, Value] = {}
    flags: dict[str, MegatronFlag] = {}
    texts: dict[str, str] = {}
    repeated: list[str] = []
    at = 0
    while at < len(argv):
        name, glued, value = argv[at].partition("=")
        flag, at = FLAGS.get(name), at + 1
        if flag is None:
            faults.append(_unknown(argv[at - 1], name))
            while at < len(argv) and not argv[at].startswith("--"):
                at += 1
            continue
        if glued:
            raw = [value]
        else:
            raw, at = _follow(flag, argv, at)
        try:
            got = _value(flag, raw, bool(glued))
        except ValueError as error:
            text, _, cure = str(error).partition("; ")
            faults.append(Fault(name, text, cure))
            if flag.kind == "window" and not raw and at < len(argv) and argv[at][1:2].isdigit():
                at += 1  # the -1,0 that the fault is about
            continue
        if flag.to in values and values[flag.to] != got:
            repeated.append(name)
        values[flag.to], texts[name] = got, " ".join(raw)
        flags.pop(name, None)
        flags[name] = flag
    if faults:
        raise InvalidStudy({str(fault): fault for fault in faults}.values())
    return Given(values, tuple(flags.values()), tuple(repeated), texts)


def _follow(flag: MegatronFlag, argv: Sequence[str], at: int) -> tuple[list[str], int]:
    """Return the words that belong to a flag: none, one, or all up to the next flag."""
    if flag.kind in ("on", "off"):
        return [], at
    end = at
    many = flag.kind in ("words", "floats", "files", "skip")  # a list in several words has spaces: said so below
    while end < len(argv) and not _is_flag(argv[end]) and (many or end == at):
        end += 1
    return list(argv[at:end]), end


def _is_flag(word: str) -> bool:
    """Tell whether a word is a flag, as argparse sees it: it begins with - and is no plain number (so `-1,0` is one)."""
    return word.startswith("-") and len(word) > 1 and not word[1:].replace(".", "", 1).isdigit()


def _value(flag: MegatronFlag, raw: list[str], glued: bool) -> Value:
    if flag.kind in ("on", "off"):
        if glued:
            raise ValueError("takes no value; write the flag alone")
        return flag.kind == "on"
    if not raw and flag.kind != "files":
        hint = "; a value that begins with - needs an equals sign or parentheses, as in --window-size=(-1,0)"
        raise ValueError(f"has no value{hint if flag.kind == 'window' else '; give one'}")
    if flag.kind == "window":
        return grammar.window(raw[0])
    if flag.kind == "skip":
        return grammar.layers(" ".join(raw))
    if flag.kind in ("words", "files"):
        return [_word(flag, one) for one in raw]
    if flag.kind == "floats":
        return [_number(one, float) for one in raw]
    return _word(flag, raw[0]) if flag.kind == "str" else _number(raw[0], int if flag.kind == "int" else float)


def _number(text: str, kind: type[int] | type[float]) -> float:
    try:
        value = kind(text)
    except ValueError:
        wanted = "an integer" if kind is int else "a number"
        if "$" in text:
            raise ValueError(f"{text!r} is a variable of the shell; write its value") from None
        raise ValueError(f"{text!r} is not {wanted}; give {wanted}") from None
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError(f"{text!r} is not finite; give a finite number")
    return value


def _word(flag: MegatronFlag, text: str) -> str:
    known = (*flag.words, *flag.fork_words, *flag.upstream_words)
    if known and text not in known:
        raise ValueError(f"{text!r} is not one of its words; {did_you_mean(text, known)}")
    return text


def _unknown(word: str, name: str) -> Fault:
    if not word.startswith("-"):
        cure = "a list is one word without spaces: [1,1,1,0]*20" if set("[],") & set(word) else "flags begin with --"
        return Fault(word, "belongs to no flag", cure)
    import difflib

    near = difflib.get_close_matches(name, list(FLAGS), n=1, cutoff=0.6)
    return Fault(name, "ablab does not know this flag", f"did you mean {near[0]}?" if near else "remove it")
