"""[model]: the layer string, the layer kinds and their slots, and sizes that fit together."""

from __future__ import annotations

import difflib
from typing import Any

from ablab.core.fault import Fault, did_you_mean
from ablab.model import mlps
from ablab.model.shape import Shape
from ablab.study import layers as layer_string
from ablab.study.keys import IN_MODEL, OF_MODEL, SECTIONS
from ablab.study.merge import kind_table
from ablab.study.read import word
from ablab.study.take import lever, section, show, table, take

TRIAL_VOCAB = 257  # the tokenizer may not exist yet; no lever's settings depend on it


def model(raw: Any, faults: list[Fault]) -> dict[str, Any]:
    """The canonical model; None stands where a fault was found. Appends every fault."""
    given = dict(table(raw, "model", faults))
    if given.pop("preset", None) is not None:  # the baseline's own is written out before this
        text = "a preset is what the baseline starts from"
        faults.append(Fault("model.preset", text, "name it in [model], and change its keys here"))
    kinds = {key: value for key, value in given.items() if isinstance(value, dict) and key not in SECTIONS["model"]}
    slots = {key: given[key] for key in IN_MODEL if key in given}
    plain = {key: value for key, value in given.items() if key not in kinds and key not in slots}
    out = section("model", plain, "model", faults, skip=(*IN_MODEL, *OF_MODEL))
    _sizes(out, faults)
    tables = _letters(kinds, faults)
    out["layers"], out["loops"] = _layers(out["layers"], tables, faults)
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
    for slot, default in OF_MODEL.items():
        out[slot] = lever(slot, given.get(slot, default), f"model.{slot}", faults, shape)
    _firsts(out, faults)
    return out


def _firsts(out: dict[str, Any], faults: list[Fault]) -> None:
    """A value residual needs a first layer whose values the others can take."""
    layers = out["layers"] or ""
    used = [kind["value"] for kind in out["kinds"].values() if kind["value"]]
    if len(layers) == 1 and any(choice["name"] != "own" for choice in used):
        faults.append(Fault("model.value", "there is no layer behind the first", "use value = own, or more layers"))


def _sizes(out: dict[str, Any], faults: list[Fault]) -> None:
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


def _letters(kinds: dict[str, Any], faults: list[Fault]) -> dict[str, str]:
    """Letter -> table name; faults for initials that are no letter or that two tables share."""
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
    """The layers by letter, and the loops over them."""
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


def _shape(out: dict[str, Any]) -> Shape | None:
    names = ("d_model", "n_heads", "n_kv_heads", "head_dim", "seq_len", "init_std")
    sizes = {name: out[name] for name in names}
    if out["layers"] is None or None in sizes.values() or out["n_heads"] % out["n_kv_heads"]:
        return None
    passes = len(out["layers"]) + sum((end - first) * (times - 1) for first, end, times in out["loops"])
    rest = {"out_init_std": out["out_std"], "bias": bool(out["bias"]), "norm_eps": out["norm_eps"] or 1e-5}
    return Shape(**sizes, **rest, vocab_size=TRIAL_VOCAB, n_layers=len(out["layers"]), n_passes=passes)


def _kind(
    name: str,
    given: dict[str, Any],
    slots: dict[str, Any],
    out: dict[str, Any],
    letter: str,
    shape: Shape | None,
    faults: list[Fault],
) -> dict[str, Any]:
    place, own = f"model.{name}", given[name]
    for key in own:
        if key not in SECTIONS["kind"]:
            faults.append(Fault(place, *_unknown(name, key)))
    if "like" in own:
        _like(name, given, faults)
    full = kind_table(given, name)
    size = take(SECTIONS["kind"]["window"], full["window"], f"{place}.window", faults) if "window" in full else None
    window = size or None  # 0 sees everything, as no window does
    if window and out["seq_len"] and window > out["seq_len"]:
        text = f"window {window} is longer than seq_len {out['seq_len']}"
        faults.append(Fault(f"{place}.window", text, "give at most seq_len, or remove it for full attention"))
    kind: dict[str, Any] = {"table": name, "window": window}
    if shape is not None:
        first = max(0, (out["layers"] or "").find(letter))
        shape = Shape(**{**vars(shape), "window": window, "layer": first})
    for slot, default in IN_MODEL.items():
        here = f"{place}.{slot}" if slot in full or slot not in slots else f"model.{slot}"
        if slot == "router":
            kind[slot] = _router(
                kind["mlp"], slot in own, full.get(slot, slots.get(slot, default)), here, faults, shape
            )
        else:
            kind[slot] = lever(slot, full.get(slot, slots.get(slot, default)), here, faults, shape)
    return kind


def _router(
    mlp: dict[str, Any] | None, own: bool, value: Any, place: str, faults: list[Fault], shape: Shape | None
) -> Any:
    """The router of a kind whose mlp is routed; none elsewhere, where naming one for this kind is a fault."""
    if mlp is None:
        return None
    if not mlps.slot.load(mlp["name"]).routed:
        if own:
            text = f"the mlp of this layer kind is {mlp['name']}, which routes nothing"
            faults.append(Fault(place, text, 'remove it, or use mlp = "moe"'))
        return None
    shape = None if shape is None else Shape(**{**vars(shape), "n_experts": mlp["n_experts"]})
    return lever("router", value, place, faults, shape)


def _unknown(name: str, key: str) -> tuple[str, str]:
    known = list(SECTIONS["kind"])
    if (near := _near(name)) and key == "name":  # [model.postion] name = "rope"
        return f"the layer kind '{name}' has no key 'name'", f"did you mean model.{near[0]}?"
    return f"the layer kind '{name}' has no key {word(key)!r}", did_you_mean(key, known)


def _near(name: str) -> list[str]:
    """The slot that a layer kind's name may have been meant for."""
    return difflib.get_close_matches(name, list(IN_MODEL), n=1)


def _like(name: str, given: dict[str, Any], faults: list[Fault]) -> None:
    place, seen, now = f"model.{name}.like", [name], given[name].get("like")
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
        now = given[now].get("like")


def unused(raw: Any, used: set[str], routed: bool) -> list[Fault]:
    """Faults for layer kinds whose letter no `layers` uses, and for a router of nothing: a setting works or is refused."""
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
