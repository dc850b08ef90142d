"""[model]: the layer string, the layer kinds and their slots, and sizes that fit together."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from ablab.core.fault import Fault, did_you_mean
from ablab.core.lever import Choice, value_of
from ablab.model import mlps
from ablab.model.shape import Shape
from ablab.records.settings import KindSettings, ModelSettings
from ablab.study import layers as layer_string
from ablab.study.keys import IN_MODEL, OF_MODEL, SECTIONS
from ablab.study.merge import kind_table
from ablab.study.read import word
from ablab.study.take import lever, section, show, table, take

TRIAL_VOCAB = 257  # the tokenizer may not exist yet; no lever's settings depend on it


def model(raw: object, faults: list[Fault]) -> ModelSettings:
    """Read the canonical model; None where there is a fault. Appends every fault."""
    given = dict(table(raw, "model", faults))
    if given.pop("preset", None) is not None:  # the baseline's own is written out before this
        text = "a preset is what the baseline starts from"
        faults.append(Fault("model.preset", text, "name it in [model], and change its keys here"))
    kinds = {key: value for key, value in given.items() if isinstance(value, dict) and key not in SECTIONS["model"]}
    slots = {key: given[key] for key in IN_MODEL if key in given}
    plain = {key: value for key, value in given.items() if key not in kinds and key not in slots}
    out = section("model", plain, "model", faults, ModelSettings, skip=(*IN_MODEL, *OF_MODEL))
    _sizes(out, faults)
    tables = _letters(kinds, faults)
    layers, out["loops"] = _layers(out["layers"], tables, faults)
    out["layers"] = cast(str, layers)  # None where a fault was found
    out["loop_from"] = out["loop_from"] or None  # 0 is the default, written out: what an arm without loops must say
    if out["loop_from"] is not None and not out["loops"] and out["layers"]:
        text = f"{out['loop_from']:g} acts on nothing: layers has no loop"
        faults.append(Fault("model.loop_from", text, 'write a loop, as in "LL[LG]^3L", or remove it'))
    for name, value in slots.items():  # checked once even where every kind has its own
        lever(name, value, f"model.{name}", faults)
    shape = _shape(out)
    out["kinds"] = {}
    for letter, name in tables.items():
        kind = _kind(name, given, slots, out, letter, shape, faults)
        if letter in (out["layers"] or ""):
            out["kinds"][letter] = kind
    of_model = {
        slot: lever(slot, given.get(slot, default), f"model.{slot}", faults, shape)
        for slot, default in OF_MODEL.items()
    }
    _firsts(out, faults)
    return cast(ModelSettings, {**out, **of_model})


def _firsts(out: ModelSettings, faults: list[Fault]) -> None:
    """Refuse a value residual without a first layer whose values the others can take."""
    layers = out["layers"] or ""
    used = [kind["value"] for kind in out["kinds"].values() if kind["value"]]
    if len(layers) == 1 and any(choice["name"] != "own" for choice in used):
        faults.append(Fault("model.value", "there is no layer behind the first", "use value = own, or more layers"))


def _sizes(out: ModelSettings, faults: list[Fault]) -> None:
    d_model, heads = out["d_model"], out["n_heads"]
    if out["n_kv_heads"] is None:
        out["n_kv_heads"] = heads
    if heads and out["n_kv_heads"] and heads % out["n_kv_heads"]:
        kv = out["n_kv_heads"]
        text = f"{heads} query heads cannot be shared out over {kv} key/value heads"
        faults.append(Fault("model.n_kv_heads", text, f"give a divisor of {heads}"))
    if out["head_dim"] is None and d_model and heads:
        if d_model % heads:
            text = f"d_model {d_model} cannot be shared out over {heads} heads"
            faults.append(Fault("model.n_heads", text, "give a divisor of d_model, or head_dim"))
        else:
            out["head_dim"] = d_model // heads


def _letters(kinds: Mapping[str, object], faults: list[Fault]) -> dict[str, str]:
    """Map letters to table names; faults for initials that are no letter or that two tables share."""
    tables: dict[str, str] = {}
    for name in kinds:
        letter = name[:1].upper()
        if not (letter.isascii() and letter.isalpha()) or word(name) != name:
            text = f"{word(name)!r} cannot name a layer kind"
            faults.append(Fault(f"model.{word(name)}", text, "begin with a letter; use letters, digits, - and _"))
        elif letter in tables:
            text = f"the layer kinds '{tables[letter]}' and '{name}' have one initial, {letter}"
            faults.append(Fault(f"model.{name}", text, "rename one"))
        else:
            tables[letter] = name
    return tables


def _layers(text: str | None, tables: dict[str, str], faults: list[Fault]) -> tuple[str | None, list[list[int]]]:
    """Read the layers by letter, and the loops over them."""
    if text is None:
        return None, []
    try:
        expanded, loops = layer_string.expand(text)
    except ValueError as error:
        fault, _, cure = str(error).partition("; ")
        faults.append(Fault("model.layers", fault, cure))
        return None, []
    missing = [letter for letter in dict.fromkeys(expanded) if letter not in tables]
    for letter in missing:
        known = ", ".join(f"{key} ({name})" for key, name in sorted(tables.items())) or "none"
        text = f"no layer kind begins with {letter}"
        faults.append(Fault("model.layers", text, f"add a table [model.{letter.lower()}...]; known: {known}"))
    return (None, []) if missing else (expanded, [list(loop) for loop in loops])


def _shape(out: ModelSettings) -> Shape | None:
    sizes = (out["d_model"], out["n_heads"], out["n_kv_heads"], out["head_dim"], out["seq_len"])
    if out["layers"] is None or None in (*sizes, out["init_std"]) or out["n_heads"] % out["n_kv_heads"]:
        return None
    return Shape(
        *sizes,
        TRIAL_VOCAB,
        n_layers=len(out["layers"]),
        n_passes=len(out["layers"]) + sum((end - first) * (times - 1) for first, end, times in out["loops"]),
        init_std=out["init_std"],
        out_init_std=out["out_std"],
        bias=bool(out["bias"]),
        norm_eps=out["norm_eps"] or 1e-5,
    )


def _kind(
    name: str,
    given: dict[str, object],
    slots: dict[str, object],
    out: ModelSettings,
    letter: str,
    shape: Shape | None,
    faults: list[Fault],
) -> KindSettings:
    place, own = f"model.{name}", table(given[name], f"model.{name}", faults)
    for key in own:
        if key not in SECTIONS["kind"]:
            faults.append(Fault(place, *_unknown(name, key)))
    if "like" in own:
        _like(name, given, faults)
    full = kind_table(given, name)
    size = take(SECTIONS["kind"]["window"], full["window"], f"{place}.window", faults) if "window" in full else None
    window = size if isinstance(size, int) and size else None  # 0 sees everything, as no window does
    if window and out["seq_len"] and window > out["seq_len"]:
        text = f"window {window} is longer than seq_len {out['seq_len']}"
        faults.append(Fault(f"{place}.window", text, "give at most seq_len, or remove it for full attention"))
    kind: dict[str, Choice | list[Choice] | None] = {}
    if shape is not None:
        first = max(0, (out["layers"] or "").find(letter))
        shape = replace(shape, window=window, layer=first)
    for slot, default in IN_MODEL.items():
        here = f"{place}.{slot}" if slot in full or slot not in slots else f"model.{slot}"
        value = full.get(slot, slots.get(slot, default))
        if slot == "router":
            kind[slot] = _router(kind["mlp"], slot in own, value, here, faults, shape)
        else:
            kind[slot] = lever(slot, value, here, faults, shape)
    return cast(KindSettings, {"table": name, "window": window, **kind})


def _router(
    mlp: Choice | list[Choice] | None, own: bool, value: object, place: str, faults: list[Fault], shape: Shape | None
) -> Choice | list[Choice] | None:
    """Take the router of a kind whose mlp is routed; none elsewhere, where naming one for this kind is a fault."""
    if not isinstance(mlp, dict):  # an mlp is no list
        return None
    if not mlps.slot.load(value_of(mlp, "name", str)).routed:
        if own:
            text = f"the mlp of this layer kind is {mlp['name']}, which routes nothing"
            faults.append(Fault(place, text, 'remove it, or use mlp = "moe"'))
        return None
    shape = None if shape is None else replace(shape, n_experts=value_of(mlp, "n_experts", int))
    return lever("router", value, place, faults, shape)


def _unknown(name: str, key: str) -> tuple[str, str]:
    known = list(SECTIONS["kind"])
    if (near := _near(name)) and key == "name":  # [model.postion] name = "rope"
        return f"the layer kind '{name}' has no key 'name'", f"did you mean model.{near[0]}?"
    return f"the layer kind '{name}' has no key {word(key)!r}", did_you_mean(key, known)


def _near(name: str) -> list[str]:
    """Name the slot that a layer kind's name may have been meant for."""
    return difflib.get_close_matches(name, list(IN_MODEL), n=1)


def _like(name: str, given: dict[str, object], faults: list[Fault]) -> None:
    place, seen, now = f"model.{name}.like", [name], _liked(given[name])
    if not isinstance(now, str):
        faults.append(Fault(place, f"{show(now)} names no layer kind", 'write like = "other"'))
        return
    while isinstance(now, str):
        if now in seen:
            faults.append(Fault(place, f"goes in a circle: {' -> '.join([*seen, now])}", "let one of them stand alone"))
            return
        if not isinstance(given.get(now), dict) or now in SECTIONS["model"]:
            known = [k for k, v in given.items() if isinstance(v, dict) and k not in SECTIONS["model"] and k != name]
            faults.append(Fault(place, f"no layer kind is called {word(now)!r}", did_you_mean(now, known)))
            return
        seen.append(now)
        now = _liked(given[now])


def _liked(kind: object) -> object:
    return kind.get("like") if isinstance(kind, dict) else None


def unused(raw: object, used: set[str], routed: bool) -> list[Fault]:
    """Return faults for layer kinds whose letter no `layers` uses, and a router of nothing: a setting works or is refused."""
    given = raw if isinstance(raw, dict) else {}
    kinds = [k for k, v in given.items() if isinstance(v, dict) and k not in SECTIONS["model"] and k]
    out = []
    for name in kinds:
        if name[0].upper() not in used:
            near = _near(name)
            cure = (
                f"did you mean model.{near[0]}?" if near else f"write {name[0].upper()} in layers, or remove the table"
            )
            out.append(Fault(f"model.{word(name)}", f"no layer is of the kind {word(name)!r}", cure))
    if "router" in given and not routed:
        out.append(Fault("model.router", "no layer kind routes anything", 'remove it, or use mlp = "moe"'))
    out += [
        Fault(f"model.{slot}", "every layer kind names its own, so this one is never used", "remove it")
        for slot in IN_MODEL
        if slot in given and kinds and all(slot in kind_table(given, name) for name in kinds)
    ]
    return out
