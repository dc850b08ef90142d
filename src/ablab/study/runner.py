"""[runner]: a study whose arms are runs of a program that is not ours. The other sections then ask nothing and are refused."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from ablab.core import duration
from ablab.core.fault import Fault
from ablab.core.setting import describe
from ablab.records.settings import LogSettings, RunnerSettings, Settings, StageSettings
from ablab.study import placeholders
from ablab.study.keys import DIFFED, SECTIONS
from ablab.study.placeholders import OUT, SEED
from ablab.study.read import word
from ablab.study.take import section, show, table, take

STAGE = "end"  # the one stage: what the program had come to when it ended
PER_ARM = ("args", "env", "patch", "command", "directory", "reads")  # keys that an arm may change
MARK = "ABLAB_RUN"  # the variable that tells a run's processes from all others, however they were started
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_METRIC = re.compile(r"[A-Za-z][A-Za-z0-9_./]{0,63}\Z")
_ARGUMENT = re.compile(r"[^\s=-][^\s=]{0,127}\Z")


def settings(tree: Mapping[str, object]) -> tuple[Settings, list[Fault]]:
    """Read the canonical settings of a tree with [runner], and every fault in it."""
    faults = [idle(key) for key in DIFFED if key in tree and key != "runner"]
    out = section("runner", tree.get("runner"), "runner", faults, RunnerSettings)
    out["args"] = _args(out["args"] or {}, faults)
    out["env"] = _env(out["env"] or {}, faults, gpus=out["gpus"])
    out["log"] = _log(out["log"], faults)
    out["timeout"] = _timeout(out["timeout"], faults)
    for key in ("command", "directory", "patch", "resume"):
        if out[key] is not None and not str(out[key]).strip():
            faults.append(Fault(f"runner.{key}", "is empty", "write it, or remove the key"))
    if not all(name.strip() for name in out["reads"] or ()):
        faults.append(Fault("runner.reads", "holds an empty name", "remove it"))
    _words(out, faults)
    _braces(out, faults)
    return {**_nothing(), "runner": out}, faults


def _nothing() -> Settings:
    """Return what such a study asks of ablab's own trainer and scorer: nothing, and one stage to hold the score."""
    stage: StageSettings = {
        "after": None, "compress": {}, "codec": {}, "code": None, "windows": None, "evaluate": {},
    }  # fmt: skip
    return {
        "budget": {"tokens": None, "seconds": None, "batch_tokens": 0},
        "data": {
            "source": [], "valid_source": None, "valid_text_bytes": None, "text_field": "", "text_separator": "",
            "tokenizer": {}, "valid_fraction": 0.0, "valid_bytes": 0, "groups": None, "order": "chunks", "weights": None,
            "span": 0,
        },
        "model": {
            "layers": "", "loops": [], "loop_from": None, "kinds": {}, "d_model": 0, "n_heads": 0, "n_kv_heads": 0,
            "head_dim": 0, "seq_len": 0, "tied": False, "qk_norm": False, "softcap": 0.0, "bias": False, "norm": "rms",
            "norm_eps": 0.0, "init": "normal", "init_std": 0.0, "embed_std": None, "out_std": None, "embedding": [],
            "skips": {},
        },
        "train": {
            "optimizer": {}, "schedule": {}, "loss": {}, "qat": {}, "weights": None, "clip": 0.0, "ema": 0.0,
            "ema_warmup": None, "salt": "", "validate_every": 0, "validate_bytes": None,
        },
        "stage": {STAGE: stage},
    }  # fmt: skip


def idle(key: str) -> Fault:
    """Return the fault for a section that acts on nothing beside [runner]."""
    return Fault(word(key), "acts on nothing: the arms are runs of a program ([runner])", f"remove [{word(key)}]")


def unchangeable(diff: Mapping[str, object], reference: Mapping[str, object], place: str) -> list[Fault]:
    """Return faults for what an arm's diff may not change of [runner]."""
    asked = diff.get("runner")
    if not isinstance(asked, dict):
        return []
    if "runner" not in reference:
        return [Fault(f"{place}: runner", "the baseline is trained by ablab and has no [runner]", "remove it")]
    fixed = [key for key in asked if key in SECTIONS["runner"] and key not in PER_ARM]
    cure = f"write it in [runner]; an arm may change {', '.join(PER_ARM)}"
    return [Fault(f"{place}: runner.{key}", "is the same for every arm", cure) for key in fixed]


def rule(raw: object, faults: list[Fault]) -> tuple[dict[str, object], str | None]:
    """Read [decision] of such a study as the other reader takes it, and the metric: `-NAME` where higher is better."""
    given, known = dict(table(raw, "decision", [])), SECTIONS["runner.decision"]
    if given.pop("stage", None) is not None:
        faults.append(Fault("decision.stage", "acts on nothing: a run of a program has one score", "remove it"))
    for rung in ("needle", "trajectory"):
        if isinstance(tie := given.get("tie"), list) and rung in tie:
            fault = f"{show(rung)} breaks no tie: a run of a program has a score and nothing beside it"
            faults.append(Fault("decision.tie", fault, 'use "prefer X" or "lowest"'))
            given["tie"] = [one for one in tie if one != rung]
    metric = take(known["metric"], given.pop("metric", known["metric"].default), "decision.metric", faults)
    lower = take(known["lower"], given.pop("lower", known["lower"].default), "decision.lower", faults)
    if isinstance(metric, str) and not _METRIC.match(metric):
        cure = "use letters, digits, _, . and /, at most 64, a letter first"
        faults.append(Fault("decision.metric", f"{show(metric)} cannot name a score", cure))
    given["stage"] = STAGE
    return given, (f"-{metric}" if lower is False else metric) if isinstance(metric, str) else None


def limited(bounds: Mapping[str, float]) -> list[Fault]:
    """Return faults for limits on what nobody measures of a program."""
    text = "is not measured of a program ([runner])"
    return [Fault(f"limits.{key}", text, "remove it; limits.seconds is") for key in bounds if key != "seconds"]


def argv(asked: RunnerSettings, seed: object = SEED, out: str = OUT, *, resumed: bool = False) -> list[str]:
    """Return the words that are run; without a seed and a folder those of every run, as the file has them."""

    def said(text: str, quoted: bool = False) -> str:
        return text if seed == SEED else placeholders.fill(text, seed, shlex.quote(out) if quoted else out)

    own, more = [said(one) for one in _flags(asked["args"])], asked["resume"] if resumed else None
    if asked["shell"]:
        words = [
            said(asked["command"], out != OUT),
            *map(shlex.quote, own),
            *([said(more, out != OUT)] if more else []),
        ]
        return ["/bin/sh", "-c", " ".join(words)]
    return [*map(said, shlex.split(asked["command"])), *own, *map(said, shlex.split(more or ""))]


def variables(asked: RunnerSettings, seed: object = SEED, out: str = OUT) -> dict[str, str]:
    """Return the variables that are added to the environment; without a seed and a folder as the file has them."""
    filled = {name: placeholders.fill(text, seed, out) for name, text in asked["env"].items()}
    return dict(asked["env"]) if seed == SEED else filled


def _flags(args: Mapping[str, str | int | float | bool]) -> list[str]:
    return [word for name, value in args.items() for word in flags(name, value)]


def flags(name: str, value: object) -> list[str]:
    """Write `--name=value`; of a switch that is on its name alone, of one that is off or is not there nothing."""
    return [] if value is False or value is None else [f"--{name}" if value is True else f"--{name}={value}"]


def _args(given: Mapping[str, object], faults: list[Fault]) -> dict[str, str | int | float | bool]:
    args: dict[str, str | int | float | bool] = {}
    for name, value in given.items():
        place = f"runner.args.{word(name)}"
        if not _ARGUMENT.match(name):
            faults.append(Fault(place, "cannot name an argument", "write it without dashes before it: n_embd"))
        elif isinstance(value, str | int | float):
            args[name] = value
        else:
            fault = f"{show(value)} is {describe(type(value))}"
            faults.append(Fault(place, fault, "give a string, a number, or true for a switch"))
    return args


def _env(given: Mapping[str, object], faults: list[Fault], *, gpus: object) -> dict[str, str]:
    env: dict[str, str] = {}
    its_own = {MARK: "rename it: ablab tells a run's processes by it"}
    if gpus:
        its_own["CUDA_VISIBLE_DEVICES"] = "remove it, or set runner.gpus = 0 and share the GPUs out yourself"
    for name, value in given.items():
        if name in its_own:
            faults.append(Fault(f"runner.env.{name}", "is set by ablab itself, for every run", its_own[name]))
            continue
        if not _VARIABLE.match(name):
            faults.append(Fault(f"runner.env.{word(name)}", "cannot name a variable", "use letters, digits and _"))
        elif not isinstance(value, str):
            faults.append(Fault(f"runner.env.{name}", f"{show(value)} is no string", f'write "{value}"'))
        else:
            env[name] = value
    return env


def _log(given: object, faults: list[Fault]) -> LogSettings:
    """Return the table, from a reader's name or from a table that names one of reader, regex and json."""
    if given is None:
        return {"reader": None, "stage": None, "regex": None, "last": True, "field": None, "file": None}
    asked = {"reader": given} if isinstance(given, str) else given
    raw = section("log", asked, "runner.log", faults, dict[str, object])
    ways = [way for way in ("reader", "regex", "json") if raw[way] is not None]
    if len(ways) != 1:
        told = "names nothing to read" if not ways else f"names {' and '.join(ways)}"
        faults.append(
            Fault("runner.log", told, 'give one: "nanogpt", { regex = "..." } or { json = "...", field = "..." }')
        )
    kept = {"stage": "reader", "last": "regex", "field": "json"}
    said = table(asked, "runner.log", [])
    faults += [
        Fault(f"runner.log.{key}", f"acts on nothing without {way}", "remove it")
        for key, way in kept.items()
        if key in said and ways and way not in ways
    ]
    if raw["json"] is not None and not raw["field"]:
        faults.append(Fault("runner.log", "has json and no field", 'add field = "val_loss"'))
    if raw["json"] is not None and raw["file"] is not None:
        faults.append(Fault("runner.log.file", "acts on nothing beside json, which names the file", "remove it"))
    log: LogSettings = {
        "reader": _text(raw["reader"]), "stage": _text(raw["stage"]), "regex": _text(raw["regex"]),
        "last": raw["last"] is not False, "field": _text(raw["field"]), "file": _text(raw["json"]) or _text(raw["file"]),
    }  # fmt: skip
    if log["file"] is not None and not _below_out(log["file"]):
        fault = f"{show(log['file'])} does not lie below {OUT}, the only folder that is kept of a run"
        faults.append(Fault("runner.log", fault, f'have the program write there: "{OUT}/log.txt"'))
    if log["regex"] is not None:
        _regex(log["regex"], faults)
    return log


def _below_out(file: str) -> bool:
    """Tell whether a file lies below {out} whatever lies there: `{out}//etc` and `{out}/../x` do not."""
    first, *rest = file.split("/")
    return first == OUT and bool(rest) and not {"", ".."}.intersection(rest) and "\0" not in file


def _regex(text: str, faults: list[Fault]) -> None:
    """Refuse what is no regular expression, and one whose number nobody could tell from its other groups."""
    try:
        groups = re.compile(text).groups
    except re.error as error:
        faults.append(Fault("runner.log.regex", f"{show(text)} is no regular expression ({error})", "mend it"))
        return
    if groups != 1:
        fault = f"{show(text)} has {groups} groups; the number is that of the only one"
        faults.append(
            Fault("runner.log.regex", fault, r'write "val loss ([\d.]+)", and (?:...) for what is not the number')
        )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _timeout(given: object, faults: list[Fault]) -> float | None:
    if not isinstance(given, str):
        return None
    seconds = duration.seconds(given)
    if not seconds:
        faults.append(Fault("runner.timeout", f"{show(given)} is no span of time", duration.FORM))
    return seconds or None


def _words(out: RunnerSettings, faults: list[Fault]) -> None:
    """Refuse a command that cannot be split into words, and one that is not given its seed."""
    if out["command"] is None:
        return
    for key, text in (("command", out["command"]), ("resume", out["resume"] or "")):
        try:
            shlex.split(text)
        except ValueError as error:
            faults.append(Fault(f"runner.{key}", f"cannot be split into words ({error})", "close the quotation"))
    told = [out["command"], *out["args"], *map(str, out["args"].values()), *out["env"].values()]
    if not any(placeholders.says(text, SEED) for text in told):
        fault = f"never says {SEED}: every seed would be the same run"
        faults.append(
            Fault("runner.command", fault, f"write --seed={SEED}, or as the program takes it, runner.env.SEED")
        )


def _braces(out: RunnerSettings, faults: list[Fault]) -> None:
    """Refuse braces that stand for nothing: a seed that is mistyped would reach the program as it stands."""
    texts = [("runner.command", out["command"]), ("runner.resume", out["resume"]), ("runner.log", out["log"]["file"])]
    texts += [(f"runner.env.{name}", text) for name, text in out["env"].items()]
    for name, value in out["args"].items():
        texts += [(f"runner.args.{word(name)}", name), (f"runner.args.{word(name)}", str(value))]
    for place, text in texts:
        faults += placeholders.faults(place, text or "")
    for what in (SEED, OUT):  # in an expression braces count repetitions, and nothing is filled in
        if what in (out["log"]["regex"] or "") or what in (out["log"]["field"] or ""):
            place = "runner.log.regex" if out["log"]["regex"] else "runner.log.field"
            faults.append(Fault(place, f"{what} is not filled in here", r"write what matches it: \d+, \S+"))
