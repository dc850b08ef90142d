"""docs/study.md from the code: every key, type and default, every lever's settings. `python -P -m ablab.study.reference`."""

from __future__ import annotations

import json
from pathlib import Path

from ablab.core.files import write_atomic
from ablab.core.setting import describe
from ablab.study import layers, preset, read, runner
from ablab.study.assemble import MOST_ARMS
from ablab.study.factorial import MOST_CELLS
from ablab.study.keys import DIFFED, REQUIRED, SCALED, SECTIONS, SLOTS, Key

PAGE = Path(__file__).resolve().parents[3] / "docs" / "study.md"

_INTRO = f"""# The study file

This page is written by `python -P -m ablab.study.reference`; change the code, not the page.

A study file is TOML 1.0, UTF-8, at most {read.MOST_BYTES // 1024} KiB, nested at most {read.DEEPEST} deep. Unknown keys,
wrong types and impossible sizes are refused, all at once, each with place, fault and cure; `ablab` then ends with exit code 3:

    study.toml: arm.rope: model.global.position: rope has no setting 'theata'; did you mean 'theta'? known: fraction, ntk, theta

An integer may be written `200_000_000` or `5e5`; true and false are no numbers; nan, inf, dates and times are refused.
A string is short for a lever without settings: `"rope"` is `{{ name = "rope" }}`. Settings of a lever that belong together
are a table: `bits = {{ default = 6, mlp = 5 }}`. What the table leaves out is the lever's default, and a value that is no
table is the table's first setting: `bits = 6` is `bits = {{ default = 6 }}`.
"""
_SECTIONS = {
    "study": "## [study]\n",
    "levers": "## [levers]\n\nThis code may do whatever you may, so it runs only once you have allowed it: read it, then "
    "`ablab levers --trust FILE`.\nAny edit asks again. Its sha256 is part of the key of everything that it takes part in.\n",
    "decision": "## [decision]\n\nWritten before any result. The report lists every decision that was ever judged on these "
    "runs, on the same contrasts\n(arm and reference by their settings, whatever seeds, salt or names) or on this baseline.\n",
    "seeds": '### decision.seeds\n\nA probe needs `keep`; `"2 sigma"` needs a probe.\n',
    "budget": "## [budget]\n\nThe same for every arm that does not change it. Give tokens or seconds.\n",
    "limits": "## [limits]\n\nAn arm beyond one cannot win, and the report says by how much.\n",
    "data": "## [data]\n",
    "model": "## [model]\n\nA table in [model] that is no slot is a layer kind; its initial is its letter in `layers`.\n",
    "kind": "### A layer kind: [model.NAME]\n\nThe specific beats the general: `model.local.position` holds for local layers, "
    "`model.position` for the\nlayer kinds that name none. Every kind must be used.\n",
    "train": "## [train]\n\nWith `weights` nothing is trained here: the rest of this section would act on nothing and is "
    "refused, and so is an arm that\nchanges the budget. The baseline still names one, for miniatures and for arms that train. "
    "Arms with the same files share\nweights, and the verdict on them speaks of these weights.\n",
    "stage": "## [stage.NAME]\n\nReported in the file's order. Without this section there is one stage, "
    '`pre_quant = { evaluate = "disjoint" }`.\nA stage has `after`, or `compress`, `codec` and `code` of its own, not '
    "both.\n",
    "runner": "## [runner]\n\nInstead of [data], [model], [train], [budget] and [stage]: the arms are runs of a program "
    f"that is not ours ([runner.md](runner.md)).\n"
    f"An arm may change {', '.join(f'`runner.{key}`' for key in runner.PER_ARM)}.\n",
    "log": "### runner.log\n\nOne of `reader`, `regex` and `json`.\n",
    "runner.decision": '### [decision] beside [runner]\n\n`stage` and the ties "needle" and "trajectory" are refused; '
    "the rest is as above.\n",
    "arm": f"## [arm.NAME]\n\nA diff in the baseline's own path, which may change {', '.join(f'{name}.*' for name in DIFFED)}; "
    "beside it stand:\n",
}
_LAYERS = f"""### The layer string

`layers = unit+`, `unit = (letter | "(" layers ")") ["*" number]`; spaces are ignored. `"(LLLG)*3"` is
`LLLGLLLGLLLG`, `"LG*2"` is `LGG`: a number repeats what stands right before it. A loop, `"[" layers "]^" number`, meets the
same layers, weights and all, several times: `"LL[LG]^3L"` has five layers and nine steps; `loop_from` says from which fraction
of training on. At most {layers.MOST} layers.

### Presets

`preset = "golf_11x512"` starts [model] from a whole model, over which the file's own keys are laid; arms and scales change it
as if it stood there. Known: {", ".join(f"`{name}`" for name in preset.names())}.
"""
_RULES = f"""
A lever of the same name (or a table without a name) merges its settings into the reference's, tables of settings setting by
setting; another name replaces it. Replacing a lever is one path, merging counts each changed setting; two paths need
`together = "why"`. A change that the reference has already is refused. At most {MOST_ARMS} arms; none may be called
`baseline`.

### Adding an arm later

Write another `[arm.NAME]` into the same file and run it again: only the new arm's runs are made, and what was judged before
keeps its words and numbers. Arms that come after results are a family of their own: their error probability is alpha once
more, and the page says "added after N results". Nothing else of `[decision]` or `[limits]` may change with it, and no arm may
go: either makes the words of arms with results exploratory, and the page says which field it was. An arm with a longer
`seq_len` moves the default of `data.span`, and with it every run; write `data.span` down first.

## [factorial.NAME]

Two factors or more that are crossed: each is a setting's path with a list of levels that includes the baseline's, at most
{MOST_CELLS} cells. Every combination is an arm named `factor=value,factor=value`, without the factors that stand at the
baseline's level, and is judged as any arm; a combination that is the baseline, or an arm, is not run twice.

    [factorial.window_by_length]
    model.local.window = [128, 1024]
    model.seq_len      = [2048, 4096]

Beside the arms stands what they do together. Every interaction of two (is what both do the sum of what each does?) has a
place in the family, so that a 2x2 is judged as four arms and not as three, and a word: `worse` is read "they interfere",
`better` "together more than the sum", `equivalent` "additive within matters". A main effect, a level averaged over the other
factors, has an interval of the same width, and a word only where no interaction of its factor is shown, all its cells are fit
and a difference that it is made of is shown. Of interactions of three there are numbers. A cell that diverges or fails takes
with it only what needs it, which is named. An interaction costs about four times the seeds of a main effect.

Levels may also be arms, or presets: `"baseline"`, `"arm:NAME"`, `"preset:NAME"`. A cell is then what both of its levels change,
refused where they change one setting, and the interaction answers whether a lever transfers to another base:

    [factorial.transfer]
    base  = ["baseline", "arm:vpmoe_like"]
    lever = ["baseline", "arm:sink"]

`decision.seeds.keep` and `probe` drop arms on the way, and are refused beside a factorial. `ablab unbundle STUDY ARM` writes,
for an arm that changes several settings, the arms that tell which of them matters: each alone, and all but one.

## [scale.NAME]

A named diff of the baseline, laid on before the arms: the same question at another size. It may change
{", ".join(SCALED)}, and hold `arm.*` and `factorial.*` of its own; `only = ["grape_a"]` picks arms and
factorials. Every scale is checked, whichever is asked for.
"""


def reference() -> str:
    """Write the page, in markdown."""
    parts = [_INTRO]
    for name, heading in _SECTIONS.items():
        parts.append(f"{heading}\n{_keys(SECTIONS[name])}")
        parts += [_LAYERS] if name == "kind" else []
    parts.append(_RULES)
    parts.append("## Levers\n")
    for name in SLOTS:
        parts.append(_slot(name))
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _keys(keys: dict[str, Key]) -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, key in keys.items():
        kind = (
            f"a lever ([{key.slot}](#{key.slot}))"
            if key.slot
            else describe(key.type) + ' or a span: "1h30m"' * key.span
        )
        bounds = f", {key.bounds()}" if key.bounds() else ""
        default = "required" if key.default is REQUIRED else key.shown or f"`{_toml(key.default)}`"
        rows.append(f"| `{name}` | {kind}{bounds} | {default} | {key.doc} |")
    return "\n".join(rows)


def _slot(name: str) -> str:
    slot = SLOTS[name]
    parts = [f"### {name}", *(["A list composes several."] if slot.lists else [])]
    for lever in slot.names:
        source = slot.source(lever)
        parts.append(f"**`{lever}`**: {slot.summary(lever)}" + (f" *{source}*" if source else ""))
        if known := slot.listed(lever):
            rows = ["| setting | type | default | meaning |", "|---|---|---|---|"]
            for path, setting in known.items():
                default = setting.shown() if setting.default is None or setting.parts else f"`{_toml(setting.default)}`"
                rows.append(f"| `{path}` | {setting.kind()} | {default} | {_cell(setting.meaning.text)} |")
            parts.append("\n".join(rows))
    return "\n\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _toml(value: object) -> str:
    """Spell a default as a study file writes it; `none` has no spelling but leaving the key out."""
    return "none" if value is None else json.dumps(value)


if __name__ == "__main__":
    write_atomic(PAGE, reference())
