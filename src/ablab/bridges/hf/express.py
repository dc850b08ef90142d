"""Which architecture of transformers is an arm's network, and its config.json.

Each is tried against all settings of the model; what is left unsaid is refused by name. No torch, no transformers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from json import dumps  # as TOML has them
from typing import cast

from ablab.bridges.noted import left, noted
from ablab.core.fault import CheckFailed, Fault
from ablab.core.lever import Choice, value_of, value_or_none
from ablab.records.settings import KindSettings, ModelSettings, Settings

Fields = dict[str, object]  # of a config.json
# What does not change which function a trained network is.
UNSAID = {
    "model.init": "is how weights start",
    "model.init_std": "is how weights start",
    "model.embed_std": "is how weights start",
    "model.out_std": "is how weights start",
    "model.loop_from": "acts on loops, which are refused",
    "budget": "is of the training",
    "data": "is of the training",
    "train": "is of the training",
    "stage": "comes after the training",
}
ALPHA, LIMIT = 1.702, 7.0  # of a gptoss_swiglu expert, which is an mlp at its default settings
AT_REST = {"temperature": "constant", "value": "own", "residual": "plain", "block": "sequential", "gate": "off"}


@dataclass(frozen=True)
class Architecture:
    """A decoder of transformers, by what an arm must be: `biases` are those of the layers' matrices and of q, k and v."""

    model_type: str
    name: str
    biases: tuple[tuple[bool, bool], ...] = ((False, False),)
    qk_norm: bool = False
    mlp: str = "swiglu"
    windows: bool = False  # layers may have one window, or none
    nopes: bool = False  # layers may lack the rotation
    turned: bool = True  # layers have one
    softmax: str = "vanilla"
    router: str | None = None  # of its mixtures
    dense: str = "none"  # which layers of one with mixtures are dense: none, first, any
    norm: tuple[str, ...] = ("rms", "bare")  # one without a weight has a weight of ones
    embedding: str = "plain"


ARCHITECTURES = (
    Architecture("qwen3", "Qwen3ForCausalLM", qk_norm=True, windows=True),
    Architecture("llama", "LlamaForCausalLM", ((False, False), (True, True))),
    Architecture("smollm3", "SmolLM3ForCausalLM", ((False, False), (True, True)), windows=True, nopes=True),
    Architecture("qwen2", "Qwen2ForCausalLM", ((False, True),), windows=True),
    Architecture("arcee", "ArceeForCausalLM", ((False, False), (True, True)), mlp="relu2"),
    Architecture(
        "gpt2", "GPT2LMHeadModel", ((True, True),), mlp="gelu", turned=False, norm=("layer",), embedding="learned"
    ),
    Architecture("qwen3_moe", "Qwen3MoeForCausalLM", qk_norm=True, router="softmax_topk", dense="any"),
    Architecture("dots1", "Dots1ForCausalLM", qk_norm=True, windows=True, router="deepseek_v3", dense="first"),
    Architecture(
        "gpt_oss",
        "GptOssForCausalLM",
        ((True, True),),
        mlp="gptoss_swiglu",
        windows=True,
        softmax="sink",
        router="softmax_topk",
    ),
)


@dataclass(frozen=True)
class Translated:
    """An arm's network in transformers: its architecture and the fields of its config.json."""

    of: Architecture
    config: Fields
    settings: Settings

    @property
    def model(self) -> ModelSettings:
        """The model's settings."""
        return self.settings["model"]


def express(settings: Settings, arm: str) -> Translated:
    """Return the architecture that computes what the arm's network computes.

    CheckFailed where there is none, with what the nearest one lacks, the first lever first.
    """
    tried = [_Trial(one, settings) for one in ARCHITECTURES]
    kinds = [kind for kind in settings["model"]["kinds"].values() if kind["mlp"]["name"] == "moe"]
    routers = {kind["router"]["name"] for kind in kinds if kind["router"] is not None}

    def distance(trial: _Trial) -> tuple[bool, int]:
        """Return how far off it is: first by its mixtures, then by how many levers do not fit."""
        wanted = set() if trial.of.router is None else {trial.of.router}
        return routers != wanted, len({fault.place.rpartition(".")[2] for fault in trial.faults})

    best = min(tried, key=distance)
    if not best.faults:
        return Translated(best.of, best.config, settings)
    unique = {str(fault): fault for fault in best.faults}.values()
    raise CheckFailed(Fault(f"arm {arm}: {fault.place}", fault.fault, fault.cure) for fault in unique)


class _Trial:
    """An arm held against one architecture: the config, and what does not fit."""

    def __init__(self, of: Architecture, settings: Settings) -> None:
        self.of, self.faults = of, list[Fault]()
        asked, table = noted(settings)
        model = asked["model"]
        self.config: Fields = {"architectures": [of.name], "model_type": of.model_type, "dtype": "float32"}
        self._network(model)
        for kind in model["kinds"].values():
            self._kind(model, kind)
        kinds = [model["kinds"][letter] for letter in model["layers"]]
        self._windows(kinds)
        self._rotations(kinds)
        self._mlps(model, kinds)
        if of.model_type == "gpt2":
            self.config = _gpt2(model, self.config)
        if not self.faults:
            cure = "use the arm in ablab"
            self.faults += left(settings, table, UNSAID, f"{of.name} of transformers has nothing for {{}}", cure)

    def refuse(self, place: str, what: str, cure: str) -> None:
        """Note what does not fit."""
        text = f"{self.of.name}, the nearest architecture of transformers, has {what}"
        self.faults.append(Fault(f"model.{place}", text, cure))

    def _network(self, model: ModelSettings) -> None:
        """Say the keys of the whole model."""
        of, heads = self.of, model["n_heads"]
        if model["norm"] not in of.norm:
            self.refuse("norm", f"no norm {dumps(model['norm'])}", f"use norm = {dumps(of.norm[0])}")
        if (normed := model["qk_norm"]) is not of.qk_norm:
            what = "norms on q and k" if of.qk_norm and not normed else "no norm on q and k"
            where = " after the rotation" if normed == "after" else ""
            self.refuse("qk_norm", what + where, f"use qk_norm = {dumps(of.qk_norm)}")
        if model["softcap"]:
            self.refuse("softcap", "no soft cap on its logits", "set it 0")
        if model["loops"]:
            self.refuse("layers", "no loops", "repeat with * instead of ^")
        if (name := _names(model["skips"])) != "none":
            self.refuse("skips", f"no {name} skips", 'use skips = "none"')
        if (name := _names(model["embedding"])) != of.embedding:
            self.refuse("embedding", f"no embedding {name}", f'use embedding = "{of.embedding}"')
        if model["d_model"] % heads:
            self.refuse("n_heads", "a d_model that n_heads divides", f"use a divisor of {model['d_model']}")
        self.config |= {
            "num_hidden_layers": len(model["layers"]),
            "hidden_size": model["d_model"],
            "num_attention_heads": heads,
            "num_key_value_heads": model["n_kv_heads"],
            "head_dim": model["head_dim"],
            "max_position_embeddings": model["seq_len"],
            "rms_norm_eps": model["norm_eps"],
            "tie_word_embeddings": model["tied"],
            "attention_dropout": 0.0,
        }
        if of.model_type == "gpt2" and (model["n_kv_heads"] != heads or model["head_dim"] * heads != model["d_model"]):
            self.refuse("n_kv_heads", "whole heads for keys and values, together d_model wide", "leave both out")

    def _kind(self, model: ModelSettings, kind: KindSettings) -> None:
        """Say what of a layer kind is one thing in this architecture."""
        of, place, slots = self.of, kind["table"], cast(dict[str, Choice], kind)
        for slot, only in AT_REST.items():
            if (name := _names(slots[slot])) != only:
                self.refuse(f"{place}.{slot}", f"no {slot} {name}", f'use {slot} = "{only}"')
        projection = kind["projection"]
        if (name := value_of(projection, "name", str)) != "gqa":
            self.refuse(f"{place}.projection", f"no projection {name}", 'use projection = "gqa"')
        else:
            own = value_or_none(projection, "bias", bool)
            found = (model["bias"], model["bias"] if own is None else own)
            if found not in of.biases:
                self.refuse(
                    f"{place}.projection",
                    f"other biases than model.bias = {dumps(found[0])} and projection.bias = {dumps(found[1])}",
                    f"use model.bias = {dumps(of.biases[0][0])} and projection.bias = {dumps(of.biases[0][1])}",
                )
        if (name := value_of(kind["softmax"], "name", str)) != of.softmax:
            self.refuse(f"{place}.softmax", f"no softmax {name}", f'use softmax = "{of.softmax}"')
        _ = kind["router"], value_or_none(kind["softmax"], "init_std", float)  # of mixtures; how sinks start
        self.config["attention_bias"] = of.biases[0][1] or model["bias"]
        if of.model_type in ("llama", "smollm3", "arcee"):
            self.config["mlp_bias"] = model["bias"]

    def _windows(self, kinds: list[KindSettings]) -> None:
        """Say which layers see a window: exactly that many tokens here and there."""
        windows = [kind["window"] for kind in kinds]
        one = list(dict.fromkeys(window for window in windows if window is not None))
        if one and not self.of.windows:
            self.refuse(f"{_at(kinds, windows, one[0])}.window", "no windows", "leave window out")
        if len(one) > 1:
            self.refuse(f"{_at(kinds, windows, one[1])}.window", "one window for all its layers", f"use {one[0]}")
        if self.of.windows:
            names = ["full_attention" if window is None else "sliding_attention" for window in windows]
            self.config |= {"layer_types": names, "sliding_window": one[0] if one else None}
            if self.of.model_type != "gpt_oss":
                self.config |= {"use_sliding_window": bool(one), "max_window_layers": len(kinds)}

    def _rotations(self, kinds: list[KindSettings]) -> None:
        """Say how queries and keys turn: all layers that do, alike."""
        found: Choice | None = None
        for kind in kinds:
            place, choice = f"{kind['table']}.position", kind["position"]
            name = _names(choice)
            if name == "nope":
                if self.of.turned and not self.of.nopes:
                    self.refuse(place, "no layer without a rotation", 'use position = "rope"')
                continue
            if not self.of.turned or name not in ("rope", "yarn") or isinstance(choice, list):
                use = "rope" if self.of.turned else "nope"
                self.refuse(place, f"no position {name}", f'use position = "{use}"')
            elif name == "rope" and (choice["fraction"] != 1.0 or choice["ntk"]):
                self.refuse(place, "neither a partial rotation nor one that is stretched by ntk",
                            "leave out fraction and ntk")  # fmt: skip
            elif name == "yarn" and not _within(choice, self.config):
                self.refuse(
                    place, "no ramp of yarn beyond the first or last plane", "use another original, fast or slow"
                )
            elif found is not None and dict(found) != dict(choice):
                self.refuse(place, "one rotation for all its layers", "turn all layers alike")
            else:
                found = choice
        if self.of.nopes:
            self.config["no_rope_layers"] = [int(_names(kind["position"]) != "nope") for kind in kinds]
        self.config["rope_parameters"] = _rope(found)

    def _mlps(self, model: ModelSettings, kinds: list[KindSettings]) -> None:
        """Say the mlps: all dense, or mixtures behind (or among) dense ones."""
        of, d = self.of, model["d_model"]
        mixed = [kind["mlp"]["name"] == "moe" for kind in kinds]
        at = next((i for i, is_mixed in enumerate(mixed) if is_mixed == (of.router is None)), None)
        if of.router is None and at is not None:
            return self.refuse(f"{kinds[at]['table']}.mlp", "no mixtures", f'use mlp = "{of.mlp}"')
        dense = [kind for kind, is_mixed in zip(kinds, mixed) if not is_mixed]
        for kind in dense:
            if (name := value_of(kind["mlp"], "name", str)) != of.mlp:
                self.refuse(f"{kind['table']}.mlp", f"no mlp {name}", f'use mlp = "{of.mlp}"')
        widths = {} if self.faults else {_width(kind["mlp"], d): kind["table"] for kind in dense}
        if len(widths) > 1:
            self.refuse(f"{list(widths.values())[1]}.mlp", "one width for all its dense mlps", "use one ratio")
        if len({kind["mlp"].get("approximate") for kind in dense}) > 1:
            self.refuse(f"{dense[0]['table']}.mlp", "one gelu for all its layers", "use one approximate")
        self.config |= {"hidden_act": "relu2" if of.mlp == "relu2" else "silu", "intermediate_size": 4 * d}
        if widths:
            self.config["intermediate_size"] = next(iter(widths))
        if of.router is None:
            return None
        first = mixed.index(True) if any(mixed) else len(mixed)
        if not any(mixed):
            self.refuse(f"{kinds[0]['table']}.mlp", "mixtures", 'use mlp = "moe"')
        elif of.dense == "none" and dense:
            self.refuse(f"{dense[0]['table']}.mlp", "a mixture in every layer", 'use mlp = "moe"')
        elif of.dense == "first" and not all(mixed[first:]):
            self.refuse(f"{kinds[mixed.index(False, first)]['table']}.mlp", "dense layers before its mixtures alone",
                        "let mixtures follow")  # fmt: skip
        routed = [kind for kind, is_mixed in zip(kinds, mixed) if is_mixed]
        made = [self._mixture(kind, d) for kind in routed]
        for kind, fields in zip(routed, made):
            if fields != made[0]:
                self.refuse(f"{kind['table']}.mlp", "one kind of mixture", "make the mixtures the same")
        self.config |= made[0] if made else {}
        if of.dense == "first":
            self.config["first_k_dense_replace"] = first
        elif of.dense == "any":
            self.config |= {"mlp_only_layers": [i for i, is_mixed in enumerate(mixed) if not is_mixed]}
        return None

    def _mixture(self, kind: KindSettings, d: int) -> Fields:
        """Say a mixture and its router."""
        of, mlp, router, place = self.of, kind["mlp"], kind["router"], kind["table"]
        assert router is not None  # a mixture has one
        _ = mlp["balance"], mlp["balance_weight"], mlp["z_loss"]  # of the training
        if mlp["activation"] != of.mlp:
            self.refuse(f"{place}.mlp", f"no experts with {mlp['activation']}", f'use activation = "{of.mlp}"')
        if router["name"] != of.router:
            self.refuse(f"{place}.router", f"no router {router['name']}", f'use router = "{of.router}"')
            return {}
        width, always = round(value_of(mlp, "ratio", float) * d), round(value_of(mlp, "shared", float) * d)
        n, top_k = value_of(mlp, "n_experts", int), value_of(router, "top_k", int)
        fields: Fields = {"num_experts_per_tok": top_k}
        if of.router == "deepseek_v3":
            if not always or always % width:
                text = "a shared expert of one or several times an expert's width"
                self.refuse(f"{place}.mlp", text, f"use shared = {dumps(mlp['ratio'])}")
            _ = router["bias_rate"]  # of the training
            fields |= {"n_routed_experts": n, "moe_intermediate_size": width, "n_shared_experts": always // width}
            return fields | self._deepseek(router, n, top_k, place)
        if always:
            self.refuse(f"{place}.mlp", "no shared expert", "set shared = 0")
        if of.model_type == "gpt_oss":
            if router["order"] != "post":
                self.refuse(f"{place}.router", "its softmax over the chosen experts", 'use order = "post"')
            fields |= {"swiglu_alpha": ALPHA, "swiglu_limit": LIMIT}
            return fields | {"num_local_experts": n, "intermediate_size": width}
        after = router["order"] == "post"
        return fields | {"num_experts": n, "moe_intermediate_size": width, "norm_topk_prob": after}

    def _deepseek(self, router: Choice, n: int, top_k: int, place: str) -> Fields:
        """Say a router of DeepSeek-V3, whose groups are scored by their two best."""
        groups, kept = value_of(router, "n_groups", int), value_of(router, "group_top_k", int)
        limits, two = kept < groups, router["group_score"] == "top2" or top_k == 2 * kept
        if n // groups < 2 or (limits and not two):
            self.refuse(f"{place}.router", "groups scored by their two best experts", 'use group_score = "top2"')
        normal = router["normalize"] == "always" or (router["normalize"] is True and top_k > 1)
        out: Fields = {"n_group": groups, "topk_group": kept, "norm_topk_prob": normal}
        return out | {"routed_scaling_factor": router["scale"]}


def _rope(choice: Choice | None) -> Fields:
    """Return rope_parameters of a rotation; of none, what transformers asks for all the same."""
    if choice is None or choice["name"] == "rope":
        return {"rope_type": "default", "rope_theta": 10000.0 if choice is None else choice["theta"]}
    factor = value_of(choice, "factor", float)
    return {
        "rope_type": "yarn",
        "rope_theta": choice["theta"],
        "factor": factor,
        "original_max_position_embeddings": choice["original"],
        "beta_fast": choice["fast"],
        "beta_slow": choice["slow"],
        "truncate": False,
        "attention_factor": 0.1 * math.log(factor) + 1,
    }


def _within(choice: Choice, config: Fields) -> bool:
    """Tell whether yarn's ramp lies within the planes: transformers moves one that does not, ablab cuts it off."""
    planes, theta = value_of(config, "head_dim", int) / 2, value_of(choice, "theta", float)
    low, high = (
        planes
        * math.log(value_of(choice, "original", int) / (2 * math.pi * value_of(choice, turns, float)))
        / math.log(theta)
        for turns in ("fast", "slow")
    )
    return low >= 0 and high <= 2 * planes - 1


def _gpt2(model: ModelSettings, config: Fields) -> Fields:
    """Return GPT-2's config.json, which has words of its own."""
    same = ("architectures", "model_type", "dtype", "tie_word_embeddings")
    approximate = next(iter(model["kinds"].values()))["mlp"].get("approximate")
    return {key: config[key] for key in same} | {
        "n_layer": config["num_hidden_layers"],
        "n_embd": config["hidden_size"],
        "n_head": config["num_attention_heads"],
        "n_positions": config["max_position_embeddings"],
        "n_inner": config.get("intermediate_size"),
        "layer_norm_epsilon": config["rms_norm_eps"],
        "activation_function": "gelu_new" if approximate == "tanh" else "gelu",
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    }


def _width(mlp: Choice, d: int) -> int:
    """Return the hidden width of a dense mlp."""
    multiple = value_or_none(mlp, "multiple", int) or 1
    return round(value_of(mlp, "ratio", float) * d / multiple) * multiple


def _names(value: Choice | list[Choice]) -> str:
    return "+".join(value_of(part, "name", str) for part in (value if isinstance(value, list) else [value]))


def _at(kinds: list[KindSettings], values: list[int | None], value: int) -> str:
    """Return the table of the first layer with that value."""
    return kinds[values.index(value)]["table"]
