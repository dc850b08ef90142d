"""Logs of parameter-golf scripts: scores in nats and bits per byte under some 565 labels, some 18 dialects of one grammar.

Read are lines whose label stands directly before `val_loss` or `val_bpb` and a number: the source of a script, which many
logs hold, has braces there. Running scores of an evaluation (`ttt_chunk [3/9] bpb=..`) are no results and have another word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ablab.judging.logs.building import LOST, PRINTED, Building, count, is_setting, number, numbered
from ablab.judging.logs.stages import VAL
from ablab.judging.logs.text import Text
from ablab.records.log import LoggedRun

NAME = "golf"
MARK = re.compile(
    rb"(?:val[_ ]?(?:loss|bpb)|Val[_ ]?(?:[Ll]oss|BPB|bpb)|VAL_(?:LOSS|BPB)|BPB(?: \([^)\n]{1,30}\))?|\bvl)"
    rb"\s{0,3}[:=]\s{0,3}(?:\d|" + LOST.encode() + rb")"
)
# What launchers put before a line: ranks, times, levels of a logger.
_PREFIX = re.compile(
    r"(?:\[[^\]\n]{1,60}\]:?\s?|\(\w[^)\n]{0,60}\)\s|\d{9,13}(?:\.\d+)?[:\s]\s?|(?:rank|default|worker)\s?\d{1,4}[:|\s]\s?|"
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?[\s|:,-]{0,4}|\d\d:\d\d:\d\d(?:[.,]\d+)?[\s|-]{1,4}|"
    r"\d{1,3}:\s|(?:INFO|DEBUG|WARNING)[:\s|-]{1,4}|\|\s)"
)
_NATS, _BPB, _ODD = r"(?:val[_ ]?loss|vl)", r"(?:val[_ ]?bpb|bpb)", PRINTED
_SCORE = re.compile(
    rf"(?P<label>[^{{}}\"'`<>#]{{0,120}}?)[\s:|,-]*(?<![A-Za-z0-9_])(?:"
    rf"{_NATS}\s*[:=]\s*(?P<nats>{_ODD})(?:[\s,|;]+{_BPB}\s*[:=]\s*(?P<bpb>{_ODD}))?|"
    rf"(?:(?P<word>\w{{1,40}})_)?val[_ ]?bpb\s*[:=]\s*(?P<bpb_first>{_ODD})(?:[\s,|;]+{_NATS}\s*[:=]\s*(?P<nats_last>{_ODD}))?)"
    rf"(?![\w.]*[{{(])(?P<rest>.*)",
    re.IGNORECASE,
)
_WORDED = re.compile(
    rf"\s*(?P<label>[A-Za-z][\w ()./+-]{{0,60}}?\s)BPB(?P<more>\s*\([^()]{{1,30}}\))?\s*[:=]\s*(?P<bpb>{PRINTED})(?![\w.])"
)
_STEP = re.compile(
    r"(?:.*?[\s:(])?(?:step|iter|iteration|s)?[:\s]*(\d{1,9})\s*/\s*(\d{1,9})\b.*|step[:\s=]+(\d{1,9})", re.IGNORECASE
)
_TRAIN = re.compile(rf"(?:step[:\s]*)?(\d{{1,9}})/(\d{{1,9}})\s+(?:train_)?loss\s*[:=](?:\s*({PRINTED}))?")
_TIME = re.compile(r"train_time\s*[:=]\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h)?\b")
_SETTING = re.compile(r"(\s{1,8})([A-Za-z_]\w{0,60}):\s?(.*)")
_FACT = re.compile(r"(?<![\w.])([A-Za-z_]\w{1,40}):\s?([^\s:,]{1,40})(?=\s|$)")
_COUNTS = (
    ("shards", re.compile(r"(?:.*\s)?train_shards:\s?(\d+)")),
    ("val_tokens", re.compile(r"(?:val_loader:.*tokens|val_tokens):\s?([\d,]+)")),
    ("code_bytes", re.compile(r"code[ _]size(?: \(compressed\)| \(raw\))?\s*[:=]\s*([\d,_]+)", re.IGNORECASE)),
    ("bytes", re.compile(r"(?:total )?submission size.{0,40}?[:=]\s*([\d,_]+)(?: bytes|\s|$)", re.IGNORECASE)),
)  # fmt: skip
_RAW_CODE = re.compile(r"code[ _]size \(uncompressed\)\s*[:=]\s*([\d,_]+)", re.IGNORECASE)
_FACTS = ("train_batch_tokens:", "model_params:", "tie_embeddings:", "num_heads:", "attention_mode:", "world_size:")
_SEED = re.compile(r"\s*seed\s*[:=]\s*(\d{1,18})\s*", re.IGNORECASE)
_SEED_INSIDE = re.compile(r"[^\"'`{}()#]*?(?<![A-Za-z_])seed[:=]\s?(\d{1,18})(?![\w.])[^\"'`{}()#]*", re.IGNORECASE)
_STOPPED = re.compile(r"step:\s?(\d{1,9})/")
_NEAR = re.compile(  # `val_loss = 0` alone is a program's
    r"(?:val[_ ]?(?:loss|bpb)|\bvl)(?:=|\s*:)\s*[-+.\dni]|\S\s{1,9}val_(?:loss|bpb)\s{1,9}=\s*\d", re.IGNORECASE
)
_HEADS = ("Hyper", "hyper", "HYPER")
# A line with none of these words, of `val_` and of `loss:` says nothing that is read: most lines, and all of a program.
_WORDS = (
    "seed",
    "Seed",
    "SEED",
    "size",
    "stopping_early",
    "peak memory",
    "train_shards",
    "hyper",
    "Hyper",
    "warmup_step",
    "val_bpb:enabled",
    *_FACTS,
)
_SECONDS = {"s": 1, "m": 60, "h": 3600}  # without a unit or in ms: thousandths
_BLOCK = re.compile(r"hyper-?parameters:?", re.IGNORECASE)
_RULE = re.compile(r"[=\-*_]{8,}")  # what stands between a list and the source that follows it
_QUIET = 400  # lines: other ranks write between two lines of the list, a machine of eight some 300


def read(text: Text) -> list[LoggedRun]:
    """Read every run that a log holds, in its order; [] where no line of it is a score."""
    runs = parsed(text)
    for run in runs:
        batch = count({**run.facts, **(run.settings or {})}.get("train_batch_tokens"))
        if batch is not None and "steps" in run.counts:
            run.counts["tokens"] = batch * run.counts["steps"]
    return numbered([run.run(text, NAME) for run in runs])


def parsed(text: Text) -> list[Building]:
    """Parse the runs with a score, as they are built."""
    runs = [run for run in _runs(text) if run.told]
    for run in runs:
        run.seconds = _seconds(run.clock)
    return runs


def _runs(text: Text) -> Iterator[Building]:
    run, block, indent = Building(1), 0, ""  # block: how many lines more may be settings, all equally far in
    for place, line in text.lines():
        if block == 0 and not (
            "val_" in line or "loss:" in line or "BPB" in line or "vl:" in line or any(word in line for word in _WORDS)
        ):
            continue
        line, block = bare(line), max(0, block - 1)
        heads = line.startswith(_HEADS) and _BLOCK.fullmatch(line.strip()) is not None
        if (heads and run.settings) or (run.scored and (heads or _begins(run, line))):
            yield run
            run = Building(place)
        if heads:
            block, indent = _QUIET, ""
        elif block and (match := _SETTING.fullmatch(line)) and match[1] == (indent := indent or match[1]):
            run.setting(match[2], match[3].strip())
            _counts(run, line.strip())
            block = _QUIET
        elif block and _RULE.match(line):
            block = 0
        elif _may_score(line) and _NEAR.search(line) and (match := _SCORE.match(line)) is not None:
            block = 0
            _scored(text, run, place, match)
        elif "BPB" in line and (match := _WORDED.match(line)) is not None and not _STEP.fullmatch(match["label"]):
            run.scored = True
            run.score(text, " ".join((match["label"] + (match["more"] or "")).split()), place, None, match["bpb"])
        elif "loss:" in line:
            _trained(run, place, line)
        else:
            _told(run, line)
    yield run


def bare(line: str) -> str:
    """Strip a line of what launchers put before it."""
    for _ in range(6):
        match = _PREFIX.match(line)
        if not match:
            break
        line = line[match.end() :]
    return line


def _begins(run: Building, line: str) -> bool:
    """Tell whether this line is one that a run prints before its first result."""
    if line.startswith(("val_bpb:enabled", "warmup_step:1/", "warmup_step: 1/", "step:0/", "0/")):
        return True
    match = _TRAIN.match(line) if "loss:" in line else None
    return bool(match and int(match[1]) <= 1 and run.counts.get("steps", 0) > 1)


def _scored(text: Text, run: Building, line: int, match: re.Match[str]) -> None:
    if " = " in match["label"]:
        return  # a program's
    label, nats, bpb = (
        match["label"].strip(" :|,-*\t"),
        match["nats"] or match["nats_last"],
        match["bpb"] or match["bpb_first"],
    )
    if match["word"]:  # `best_val_bpb`
        label = f"{label} {match['word']}".strip()
    elif (step := _STEP.fullmatch(label)) is not None:
        at = int(step[1] or step[3])
        run.counts["steps"] = max(at, run.counts.get("steps", 0))
        run.planned = int(step[2]) if step[2] else run.planned
        run.scored = run.scored or at > 0
        _clock(run, match["rest"])
        label = VAL
    elif not label:
        label = "val_loss" if nats is not None else "val_bpb"  # as printed: no other word stands there
    run.scored = run.scored or label != VAL
    run.score(text, label, line, nats, bpb)


def _trained(run: Building, place: int, line: str) -> None:
    if (match := _TRAIN.match(line)) is not None:
        run.counts["steps"] = max(int(match[1]), run.counts.get("steps", 0))
        run.planned = int(match[2])
        run.trained(place, match[3])
        _clock(run, line)


def _told(run: Building, line: str) -> None:
    if _says_seed(line) and (match := _SEED.fullmatch(line)):
        run.seed = int(match[1])
    elif _says_seed(line) and run.seed is None and (match := _SEED_INSIDE.fullmatch(line)):
        run.seed = int(match[1])  # among other settings in a line
    elif line.startswith("peak memory"):
        run.ended = run.scored or None  # printed once, when the training is over
    elif line.startswith("stopping_early"):
        run.ended = True
        _clock(run, line)
        if (match := _STOPPED.search(line)) is not None:
            run.counts["steps"] = int(match[1])
    elif _counts(run, line) and line.startswith(_FACTS):
        run.facts |= {name: value for name, value in _FACT.findall(line) if is_setting(name, value)}


def _may_score(line: str) -> bool:
    """Tell whether a line is worth a search: most are steps of training."""
    return "val" in line or "vl" in line or "Val" in line or "VAL" in line


def _says_seed(line: str) -> bool:
    return "seed" in line or "Seed" in line or "SEED" in line


def _counts(run: Building, line: str) -> bool:
    """Take a count that the line tells; True where the line may tell more."""
    if (raw := _RAW_CODE.match(line)) and (size := count(raw[1])) is not None:
        run.counts.setdefault("code_bytes", size)
        return False
    for name, pattern in _COUNTS:
        if (match := pattern.match(line)) and (size := count(match[1])) is not None:
            run.counts[name] = size
            return False
    return True


def _clock(run: Building, line: str) -> None:
    if "train_time" in line:
        run.clock = line


def _seconds(line: str) -> float | None:
    """Read a clock: a time without a unit is in ms."""
    match = _TIME.search(line)
    amount = number(match[1]) if match else None
    if match is None or amount is None:
        return None
    return amount * _SECONDS[match[2]] if match[2] in _SECONDS else amount / 1000
