"""Weights trained elsewhere: read without running anything, held to the model name by name, and judged like any others."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import tiny
from tests.study.written import edited, faults, read
from tests.training.test_train import run
from typer.testing import CliRunner

from ablab import report
from ablab.check import facts as check
from ablab.check import miniature
from ablab.check.facts import readable
from ablab.cli.main import app
from ablab.core.fault import CheckFailed
from ablab.core.files import sha256_file
from ablab.core.forms import misfit
from ablab.core.rng import stream
from ablab.judging import judge, recipe
from ablab.launch.work import do
from ablab.model.decoder import build, skeleton
from ablab.records.run import Trained
from ablab.runs import planning
from ablab.runs.plan import Plan
from ablab.runs.store import Store
from ablab.scoring.stage import run_stage
from ablab.study import load, preset
from ablab.study.model import model as canonical
from ablab.training.adopt import adopt, golf
from ablab.training.adopt.found import read as read_file
from ablab.training.train import Sitting

HOW: dict[str, Any] = {"where": tiny.WHERE, "seed": 0, "sitting": Sitting(say=lambda _: None)}
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "golf_names.json").read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training of ours."""
    out = tmp_path_factory.mktemp("trained")
    run(out)
    return out


def asked(file: Path, **changed: Any) -> dict[str, Any]:
    """The tiny settings with weights from a file."""
    return tiny.settings(weights=[str(file)], **changed)


def adopted(file: Path, out: Path, **changed: Any) -> dict[str, Any]:
    return adopt(asked(file, **changed), tiny.corpus(), out=out, **HOW)


def refused(file: Path, out: Path, **changed: Any) -> str:
    """What is said against a file, its path taken off."""
    with pytest.raises(CheckFailed) as raised:
        adopted(file, out, **changed)
    assert not (out / "done.json").exists() and not (out / "weights.safetensors").exists()
    text = str(raised.value)
    assert text.startswith(f"{file}: ")
    return text.removeprefix(f"{file}: ")


def test_our_own_weights_are_taken_as_they_are_and_score_the_same(trained: Path, tmp_path: Path) -> None:
    done = adopted(trained / "weights.safetensors", tmp_path / "out")
    theirs = json.loads((trained / "done.json").read_text())
    rows = {"metrics"}  # the end of the chain over a training's rows, of which weights from files have none
    assert done.keys() - {"adopted"} == theirs.keys() - rows and not misfit(done, Trained)
    assert done == json.loads((tmp_path / "out" / "done.json").read_text())
    digest = sha256_file(trained / "weights.safetensors")
    assert (done["status"], done["steps"], done["tokens"], done["seconds"]) == ("done", 0, 0, 0.0)
    assert done["token_hash"] == f"adopted:{digest}" and done["adopted"]["sha256"] == digest
    before, now = load_file(trained / "weights.safetensors"), load_file(tmp_path / "out" / "weights.safetensors")
    assert before.keys() == now.keys() and all(torch.equal(before[name], now[name]) for name in before)
    stage = {"pre_quant": tiny_stage()}
    scores = []
    for made in (trained, tmp_path / "out"):
        settings = {**tiny.settings(), "stage": stage}
        found = run_stage(
            settings, "pre_quant", weights=made / "weights.safetensors", corpus=tiny.corpus(),
            folders={"pre_quant": tmp_path / made.name / "scores"}, seed=0, where=tiny.WHERE,
        )  # fmt: skip
        scores.append(found["metrics"])
    assert scores[0] == scores[1]


def tiny_stage() -> dict[str, Any]:
    from ablab.records.settings import StageSettings
    from ablab.study.take import section

    made = section("stage", {"evaluate": "disjoint"}, "stage", [], StageSettings)
    return {**made, "windows": made.get("windows") or {}}


def test_a_finished_adoption_is_not_made_again(trained: Path, tmp_path: Path) -> None:
    first = adopted(trained / "weights.safetensors", tmp_path)
    stamp = (tmp_path / "weights.safetensors").stat().st_mtime_ns
    assert adopted(trained / "weights.safetensors", tmp_path) == first
    assert (tmp_path / "weights.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(CheckFailed, match="is of a run with other settings"):
        adopt(asked(trained / "weights.safetensors"), tiny.corpus(), out=tmp_path, **{**HOW, "seed": 1})


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: w,
        lambda w: {"model": w, "step": 7},
        lambda w: {"state_dict": w},
        lambda w: {f"module._orig_mod.{name}": t for name, t in w.items()},
        lambda w: {name: t.double() for name, t in w.items()},
    ],
    ids=["plain", "model", "state_dict", "wrapped", "double"],
)
@pytest.mark.parametrize("old_format", [False, True], ids=["zip", "old"])
def test_torch_files_are_read_plain_nested_and_wrapped(
    trained: Path, tmp_path: Path, wrap: Any, old_format: bool
) -> None:
    weights, file = load_file(trained / "weights.safetensors"), tmp_path / "final.pt"
    torch.save(wrap(weights), file, _use_new_zipfile_serialization=not old_format)
    done = adopted(file, tmp_path / "out")
    now = load_file(tmp_path / "out" / "weights.safetensors")
    assert all(torch.equal(weights[name], now[name]) and now[name].dtype == torch.float32 for name in weights)
    assert "its tokenizer is not known" in done["adopted"]["notes"][-1] and done["adopted"]["names"] == "own"
    if "step" in wrap(weights):
        assert done["adopted"]["notes"][0] == "its 'model' was taken, step left"


class Trap:
    """What a pickle could do."""

    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('ran')",)


def test_a_pickle_that_could_run_code_is_refused_unrun(tmp_path: Path) -> None:
    wanted = "is a pickle that holds more than tensors, and reading it could run code"
    wanted += "; save the state_dict alone, or as safetensors"
    (tmp_path / "bare.pt").write_bytes(pickle.dumps({"embed.weight": Trap()}, protocol=2))
    assert refused(tmp_path / "bare.pt", tmp_path / "out") == wanted
    torch.save({"embed.weight": Trap()}, tmp_path / "zipped.pt")
    assert refused(tmp_path / "zipped.pt", tmp_path / "out") == wanted


def test_what_is_no_state_dict_is_refused(trained: Path, tmp_path: Path) -> None:
    cure = "save the state_dict alone, or as safetensors"
    for value, said in (
        ([1, 2], "holds list and no state_dict"),
        ({}, "holds nothing and no state_dict"),
        ({"embed.weight": torch.zeros(1), "step": 3}, "holds more than tensors: step (int)"),
    ):
        torch.save(value, tmp_path / "odd.pt")
        assert refused(tmp_path / "odd.pt", tmp_path / "out") == f"{said}; {cure}"


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
@pytest.mark.parametrize("left", [0, 4, 100, 0.5, 0.99])
def test_a_truncated_file_is_refused(trained: Path, tmp_path: Path, kind: str, left: float) -> None:
    whole, file = trained / "weights.safetensors", tmp_path / f"cut.{kind}"
    if kind == "pt":
        torch.save(load_file(whole), file)
    data = (whole if kind == "safetensors" else file).read_bytes()
    file.write_bytes(data[: int(left if left > 1 or left == 0 else left * len(data))])
    said = refused(file, tmp_path / "out")
    assert said.startswith("cannot be read (") and said.endswith("; check that the file is whole")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.pt", tmp_path / "out") == (
        "cannot be read (No such file or directory); check train.weights"
    )


def test_another_shape_is_refused_with_what_differs(trained: Path, tmp_path: Path) -> None:
    weights = load_file(trained / "weights.safetensors")
    said = refused(trained / "weights.safetensors", tmp_path / "out", model=tiny.model(n_kv_heads=4))
    assert said == (
        "holds weights of another model: "
        "layers.0.attn.projection.k_proj.weight is (16, 32), the model's is (32, 32), "
        "layers.0.attn.projection.v_proj.weight is (16, 32), the model's is (32, 32), "
        "layers.1.attn.projection.k_proj.weight is (16, 32), the model's is (32, 32), "
        "layers.1.attn.projection.v_proj.weight is (16, 32), the model's is (32, 32); "
        "use the settings they were trained with"
    )
    weights["rotary.inv_freq"] = weights.pop("final_norm.weight")
    torch.save(weights, tmp_path / "named.pt")
    assert refused(tmp_path / "named.pt", tmp_path / "out") == (
        "holds weights of another model: lacks final_norm.weight; has rotary.inv_freq, which the model has not; "
        "use the settings they were trained with"
    )
    many = {f"other.{i}": torch.zeros(1) for i in range(9)} | load_file(trained / "weights.safetensors")
    torch.save(many, tmp_path / "many.pt")
    assert "other.3, which the model has not and 5 more;" in refused(tmp_path / "many.pt", tmp_path / "out")


def test_another_tokenizer_is_refused(trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "foreign.safetensors"
    save_file(load_file(trained / "weights.safetensors"), file, {"tokenizer": "0123456789abcdef"})
    assert refused(file, tmp_path / "out") == (
        "made with the tokenizer 0123456789ab, this corpus has none; score them on text of their own tokenizer"
    )


def test_numbers_that_are_not_finite_and_packed_ones_are_refused(trained: Path, tmp_path: Path) -> None:
    weights = load_file(trained / "weights.safetensors")
    name = "layers.1.mlp.up_proj.weight"
    weights[name][3, 4], weights[name][0, 0] = math.nan, math.inf
    save_file(weights, tmp_path / "nan.safetensors")
    assert refused(tmp_path / "nan.safetensors", tmp_path / "out") == (
        f"{name} holds 2 numbers that are not finite; give weights of a run that did not diverge"
    )
    torch.save({**weights, name: torch.zeros(128, 32, dtype=torch.int8)}, tmp_path / "packed.pt")
    said = f"{name} is int8: packed or rounded weights; give the trained ones"
    assert refused(tmp_path / "packed.pt", tmp_path / "out") == said


def test_numbers_that_the_models_type_does_not_hold_are_refused(trained: Path, tmp_path: Path) -> None:
    weights = load_file(trained / "weights.safetensors")
    name = "layers.1.mlp.up_proj.weight"
    weights[name] = weights[name].double()
    weights[name][3, 4] = 1e300
    torch.save(weights, tmp_path / "far.pt")
    assert refused(tmp_path / "far.pt", tmp_path / "out") == (
        f"{name} holds 1 number beyond the largest of float32; give weights of a run that did not diverge"
    )


def test_a_bit_that_flipped_in_a_torch_file_is_found(trained: Path, tmp_path: Path) -> None:
    weights, file = load_file(trained / "weights.safetensors"), tmp_path / "final.pt"
    torch.save(weights, file)
    whole, draws = file.read_bytes(), stream(0, "flips")
    refusals = 0
    for place, bit in zip(draws.integers(len(whole), size=40), draws.integers(8, size=40)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(bit)
        file.write_bytes(flipped)
        try:
            now = read_file(file).tensors
        except CheckFailed as error:
            refusals += "is damaged: final/" in str(error)
        else:  # in what no reader looks at
            assert now.keys() == weights.keys() and all(torch.equal(weights[n], now[n]) for n in now)
    assert refusals > 30
    middle = bytearray(whole)
    middle[len(whole) // 2] ^= 1
    file.write_bytes(middle)
    said = refused(file, tmp_path / "out")
    assert said.startswith("is damaged: final/data/") and said.endswith(
        " differs from the checksum that the file carries; copy the file again, or save the weights anew, with checksums"
    )


@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_no_plain_numbers_are_refused_by_name(tmp_path: Path) -> None:
    dense = "give the numbers themselves, densely"
    for tensor, said in (
        (torch.ones(2, 2).to(torch.float8_e4m3fn), "float8_e4m3fn: packed or rounded weights; give the trained ones"),
        (torch.eye(2).to_sparse(), f"sparse; {dense}"),
        (torch.eye(2).to_sparse_csr(), f"sparse; {dense}"),
        (torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), f"nested; {dense}"),
        (torch.ones(2, device="meta"), f"on no device (meta); {dense}"),
        (torch.ones(2, dtype=torch.complex64), "complex64, which no model here has; give weights of real numbers"),
    ):
        torch.save({"embed.weight": tensor}, tmp_path / "odd.pt")
        assert refused(tmp_path / "odd.pt", tmp_path / "out") == f"embed.weight is {said}"


def test_a_text_file_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "log.pt").write_text("epoch,loss\n1,2.5\n")
    said = (
        "is a text file and no weights: it begins with 'epoch,loss 1,2.5'; give safetensors, or what torch.save wrote"
    )
    assert refused(tmp_path / "log.pt", tmp_path / "out") == said


# parameter-golf's final_model.pt


def golf_model(**sizes: Any) -> dict[str, Any]:
    """The preset at other sizes."""
    found: list[Any] = []
    made = canonical({**preset.model("golf_11x512"), **sizes}, found)
    assert not found
    return made


def golf_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Their parameters by the formula of the golden file."""
    made = {}
    for name, shape in shapes.items():
        n = torch.from_numpy(np.asarray(stream(0, "golden", name).standard_normal(shape)))
        if name == "logit_temp":
            made[name] = torch.ones(())
        elif name == "bigram.embed.weight":
            made[name] = 0.2 * n
        elif name in ("bigram.scale", "smear_lambda"):
            made[name] = 0.5 * n
        elif name == "tok_emb.weight":
            made[name] = 0.05 * n
        elif name.endswith("q_gain"):
            made[name] = 5 + 0.5 * n
        elif name.endswith("skip_gates"):
            made[name] = n
        elif name.endswith("resid_mix"):
            made[name] = torch.tensor([[1.0], [0.0]], dtype=torch.float64) + 0.3 * n
        elif name.endswith(("attn_scale", "mlp_scale", "skip_weights")):
            made[name] = 1 + 0.3 * n
        else:
            made[name] = n / math.sqrt(shape[-1])
    return made


SMALL = {"d_model": 64, "n_heads": 4, "n_kv_heads": 2, "seq_len": 32}


def golf_small(later: bool = False) -> dict[str, torch.Tensor]:
    """Their parameters at the golden file's sizes: names of the whole one, every size of 512, 256, 2048, ... scaled."""
    smaller = {8192: 48, 2048: 256, 512: 64, 256: 32}
    shapes = {
        name: tuple(4 if name.endswith("q_gain") else smaller.get(size, size) for size in shape)
        for name, shape in GOLDEN["names"].items()
    }
    if later:
        shapes |= {
            name: tuple({8: 4}.get(size, size) for size in shape) for name, shape in GOLDEN["later"]["names"].items()
        }
        shapes |= {"bigram.embed.weight": (64, 8), "bigram.proj.weight": (64, 8)}
    return golf_weights(shapes)


PAIRS = {
    "embedding": [{"name": "bigram_hash", "size": 64, "dim": 8}, "norm", "smear_gate"],
    "gate": ["xsa", "attn_out_gate"],
}


def test_the_later_stack_gives_its_own_logits_too() -> None:
    """Pair table, gated heads and smear of #1716, in lists whose order is the study's own."""
    sizes = {
        "embedding": [{"name": "bigram_hash", "size": 16384, "dim": 32}, "norm", "smear_gate"],
        "gate": PAIRS["gate"],
    }
    whole = skeleton(golf_model(**sizes), vocab_size=8192)
    named = {**GOLDEN["names"], **GOLDEN["later"]["names"]}
    theirs = {name: torch.ones((), device="cpu") if not shape else torch.empty(shape) for name, shape in named.items()}
    shapes = {name: t.shape for name, t in golf.own(theirs, whole).items()}
    assert shapes == {name: t.shape for name, t in whole.state_dict().items()}
    model = golf_model(**SMALL, **PAIRS, norm_eps=torch.finfo(torch.float64).eps)
    decoder = build(model, vocab_size=48, seed=0, dtype=torch.float64, executor="reference")
    decoder.load_state_dict(golf.own(golf_small(later=True), decoder))
    ids = torch.from_numpy(stream(0, "golden", "ids").integers(0, 48, (1, 32)))
    with torch.no_grad():
        found = decoder.logits(decoder(ids, torch.zeros_like(ids)))[0, GOLDEN["positions"]]
    wanted = torch.tensor(GOLDEN["later"]["logits"], dtype=torch.float64)
    assert float((found - wanted).abs().max()) < 1e-8 * float(wanted.abs().max())
    with pytest.raises(ValueError, match=r"multiplies logits by a temperature \(logit_temp is 1.25\)"):
        golf.own({**golf_small(later=True), "logit_temp": torch.tensor(1.25)}, decoder)


def test_every_golf_name_has_its_place_in_the_preset() -> None:
    decoder = skeleton(golf_model(), vocab_size=8192)
    theirs = {name: torch.empty(shape, device="meta") for name, shape in GOLDEN["names"].items()}
    assert golf.fits(theirs) and sum(t.numel() for t in theirs.values()) == 35_944_536
    ours = golf.own(theirs, decoder)
    assert {name: t.shape for name, t in ours.items()} == {name: t.shape for name, t in decoder.state_dict().items()}
    assert golf.notes(golf_model())[1:] == [], "the preset has their norm's epsilon"
    said = "parameter-golf trains with norm_eps = 1.1920929e-07, this study has 1e-05"
    assert golf.notes(golf_model(norm_eps=1e-5))[1] == said


@pytest.mark.parametrize("looped", [False, True], ids=["straight", "looped"])
@pytest.mark.parametrize("kind", ["float64", "float32"])
def test_golf_weights_give_their_own_logits(kind: str, looped: bool) -> None:
    """The epsilon is that of the type, as torch has it: the preset's own in fp32. 2e-9 apart in fp64: their angles are fp32."""
    dtype = getattr(torch, kind)
    model = golf_model(**SMALL) if kind == "float32" else golf_model(**SMALL, norm_eps=torch.finfo(dtype).eps)
    decoder = build(model, vocab_size=48, seed=0, dtype=dtype, executor="reference")
    decoder.load_state_dict({name: t.to(dtype) for name, t in golf.own(golf_small(), decoder).items()})
    decoder.looping = looped
    ids = torch.from_numpy(stream(0, "golden", "ids").integers(0, 48, (1, 32)))
    with torch.no_grad():
        found = decoder.logits(decoder(ids, torch.zeros_like(ids)))[0, GOLDEN["positions"]]
    wanted = torch.tensor(GOLDEN["logits"][f"{kind} {'looped' if looped else 'straight'}"], dtype=dtype)
    apart = float((found - wanted).abs().max())
    assert apart < (1e-8 if kind == "float64" else 1e-5) * float(wanted.abs().max()), apart


def test_rope_turned_the_other_way_or_another_epsilon_would_be_seen() -> None:
    ids = torch.from_numpy(stream(0, "golden", "ids").integers(0, 48, (1, 32)))
    wanted = torch.tensor(GOLDEN["logits"]["float32 looped"])
    for fault in ("turn", "eps"):
        model = golf_model(**SMALL, **({"norm_eps": 1e-5} if fault == "eps" else {}))
        decoder = build(model, vocab_size=48, seed=0, executor="reference")
        mapped = golf.own(golf_small(), decoder)
        if fault == "turn":
            mapped |= unturned(golf_small())
        decoder.load_state_dict({name: t.float() for name, t in mapped.items()})
        with torch.no_grad():
            found = decoder.logits(decoder(ids, torch.zeros_like(ids)))[0, GOLDEN["positions"]]
        assert float((found - wanted).abs().max()) > 1e-4 * float(wanted.abs().max()), fault


def unturned(theirs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Queries under our names, their rows as they were."""
    return {f"layers.{i}.attn.projection.q_proj.weight": theirs[f"blocks.{i}.attn.c_q.weight"] for i in range(11)}


def test_a_final_model_is_adopted_and_another_scheme_of_positions_is_not(tmp_path: Path) -> None:
    theirs = {
        name: t.bfloat16() if t.dim() > 1 and "blocks" not in name else t.float() for name, t in golf_small().items()
    }
    theirs["tok_emb.weight"] = theirs["tok_emb.weight"][: tiny.VOCAB]
    torch.save(theirs, tmp_path / "final_model.pt")
    settings = tiny.settings(model=golf_model(**SMALL), weights=[str(tmp_path / "final_model.pt")])
    done = adopt(settings, tiny.corpus(), out=tmp_path / "out", **HOW)
    assert done["adopted"]["names"] == "golf" and done["adopted"]["tokenizer"] is None
    assert "across documents" in done["adopted"]["notes"][1]
    now = load_file(tmp_path / "out" / "weights.safetensors")
    assert torch.equal(now["layers.3.residual.parts.0.first_D"], theirs["blocks.3.resid_mix"][1])
    turning = tiny.settings(model=golf_model(**SMALL, position="grape_m"), weights=settings["train"]["weights"])
    with pytest.raises(CheckFailed) as raised:
        adopt(turning, tiny.corpus(), out=tmp_path / "other", **HOW)
    said = 'holds weights of parameter-golf, which turn by fixed frequencies; set position = "rope"'
    assert str(raised.value) == f"{tmp_path / 'final_model.pt'}: {said}"
    wide = tiny.settings(model=golf_model(**{**SMALL, "n_heads": 8}), weights=settings["train"]["weights"])
    with pytest.raises(CheckFailed, match=r"holds weights of another model: layers\.0\.attn\.projection"):
        adopt(wide, tiny.corpus(), out=tmp_path / "other", **HOW)
    torch.save({**theirs, "blocks.3.resid_mix": torch.tensor(1.0)}, tmp_path / "final_model.pt")
    with pytest.raises(
        CheckFailed, match=r"blocks\.3\.resid_mix is a single number, where parameter-golf has 2 rows; give"
    ):
        adopt(settings, tiny.corpus(), out=tmp_path / "other", **HOW)


# The study file


def said(folder: Path, *pairs: tuple[str, str], more: str = "") -> list[str]:
    return [fault.removeprefix("study.toml: ") for fault in faults(folder, edited(*pairs, more=more))]


ELSEWHERE = ('optimizer = { name = "adamw", lr = 2e-3 }', 'weights = ["a.pt"]')
ONE = ("matters = 0.005", "matters = 0.005\nseeds = 1")
IDLE = "acts on nothing: the weights were trained elsewhere (train.weights); remove it"


def test_fewer_files_than_seeds_are_refused(tmp_path: Path) -> None:
    wanted = "names 1 file, decision.seeds asks for up to 8; give 8 files, one for each seed, or set decision.seeds = 1"
    assert said(tmp_path, ELSEWHERE) == [f"train.weights: {wanted}", f"arm.rope: train.weights: {wanted}"]
    assert said(tmp_path, ELSEWHERE, ONE) == []
    two = (ONE[0], "matters = 0.005\nseeds = { start = 1, at_most = 1, probe = 1, keep = 1 }")
    assert said(tmp_path, ELSEWHERE, two)[0].startswith("train.weights: names 1 file, decision.seeds asks for up to 2;")
    arm = '\n[arm.old]\ntrain.weights = ["x.pt", "y.pt"]\n'
    assert said(tmp_path, more=arm) == [
        "arm.old: train.weights: names 2 files, decision.seeds asks for up to 8; "
        "give 8 files, one for each seed, or set decision.seeds = 2"
    ]


def test_a_file_twice_or_none_is_refused(tmp_path: Path) -> None:
    again = (ELSEWHERE[0], 'weights = ["a.pt", "a.pt"]')
    wanted = "train.weights[1]: names a.pt again: two seeds would be one run twice; give each seed its own"
    assert wanted in said(tmp_path, again)
    dotted = (ELSEWHERE[0], 'weights = ["a.pt", "./a.pt", "x/../a.pt"]')
    for at, name in ((1, "./a.pt"), (2, "x/../a.pt")):
        wanted = f"train.weights[{at}]: names a.pt again, as {name}: two seeds would be one run twice; give each seed its own"
        assert wanted in said(tmp_path, dotted)
    assert "train.weights[0]: names nothing; give a file" in said(tmp_path, (ELSEWHERE[0], 'weights = [""]'), ONE)
    (tmp_path / "a.pt").symlink_to("a.pt")  # that it leads nowhere is for `check` to say, which reads it
    assert said(tmp_path, ELSEWHERE, ONE) == []


def test_what_acts_on_nothing_is_refused_where_it_is_said(tmp_path: Path) -> None:
    both = (ELSEWHERE[0], f'{ELSEWHERE[0]}\nweights = ["a.pt"]\nclip = 0.5')
    assert said(tmp_path, both, ONE)[:2] == [f"train.optimizer: {IDLE}", f"train.clip: {IDLE}"]
    span = ('source = "python"', 'source = "python"\nspan = 512')
    assert said(tmp_path, ELSEWHERE, ONE, span)[0] == f"data.span: {IDLE}"
    for change in (
        "train.ema = 0.9",
        'train.qat = "fake_quant"',
        "budget.tokens = 1_000_000",
        'model.init = "orthogonal"',
    ):
        [found] = said(tmp_path, ELSEWHERE, ONE, more=f"\n[arm.idle]\n{change}\n")
        assert found == f"arm.idle: {change.split(' =')[0]}: {IDLE}"
    limits = said(tmp_path, ELSEWHERE, ONE, more="\n[limits]\nseconds = 60\n")
    assert limits == [
        "limits.seconds: limits the time of training, which is not known of weights trained elsewhere (train.weights); "
        "remove it"
    ]


def test_an_arm_may_have_weights_from_elsewhere_and_another_train(tmp_path: Path) -> None:
    """What the baseline says of training goes with it where an arm brings weights, and [] trains again."""
    study = read(tmp_path, edited(ONE, more='\n[arm.old]\ntrain.weights = ["a.pt"]\n'))
    old = study.arms["old"]
    assert old.settings["train"]["weights"] == [str(tmp_path / "a.pt")] and old.data_is_lever
    assert [(c.path, c.before, c.after) for c in old.changes] == [("train.weights", None, ["a.pt"])], (
        "no machine's folder"
    )
    assert study.baseline.settings["train"]["weights"] is None and not study.shares_weights("old")
    again = '\n[arm.here]\ntrain.weights = []\ntrain.optimizer.lr = 1e-3\ntogether = "trained here"\n'
    here = read(tmp_path, edited(ELSEWHERE, ONE, more=again)).arms["here"]
    assert here.settings["train"]["weights"] is None and here.settings["train"]["optimizer"]["lr"] == 1e-3


def test_the_folder_is_no_part_of_the_meaning(tmp_path: Path) -> None:
    keys = set()
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        keys.add(read(tmp_path / name, edited(ELSEWHERE, ONE)).key)
    other = (ELSEWHERE[0], 'weights = ["b.pt"]')
    assert len(keys) == 1 and read(tmp_path, edited(other, ONE)).key not in keys


STUDY = """
[study]
name = "adopted"
question = "Which weights?"
[decision]
matters = 0.01
seeds = {seeds}
[budget]
tokens = 20_000
batch_tokens = 256
[data]
source = "mock"
valid_bytes = 16_000
valid_fraction = 0.03
[model]
layers = "GG"
d_model = 32
n_heads = 4
seq_len = 64
global = {{}}
[train]
{train}
[stage]
pre_quant = {{ evaluate = "disjoint" }}
{arms}
"""


def plan_of(folder: Path, train: str, arms: str = "", budget: str = "tokens = 10_000", **words: Any) -> Plan:
    """A study planned on the folder's store."""
    text = STUDY.format(seeds=words.get("seeds", 2), train=train, arms=arms).replace("tokens = 20_000", budget)
    (folder / "study.toml").write_text(text)
    return planning.make(load(folder / "study.toml"), Store(folder / "runs"), say=lambda _: None)


def everything(plan: Plan) -> Any:
    """Do every run in this process; the verdict."""
    for run_ in plan.runs.values():
        do(run_, store=plan.store, where=plan.where, mirrors=(), stop=lambda: False, say=lambda _: None)
    return judge.conclude(plan)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, float]]:
    """A folder with the weights of a short training at seeds 0 and 1, and what they score."""
    folder = tmp_path_factory.mktemp("made")
    plan = plan_of(folder, "validate_every = 5_000", '[arm.again]\ntrain.salt = "x"\n')
    for seed in (0, 1):
        own = plan.runs["baseline", seed]
        do(own, store=plan.store, where=plan.where, mirrors=(), stop=lambda: False, say=lambda _: None)
        (folder / f"{seed}.safetensors").write_bytes(
            (plan.store.train(own.train_key) / "weights.safetensors").read_bytes()
        )
    keys = {seed: plan.runs["baseline", seed].score_keys["pre_quant"] for seed in (0, 1)}
    scores = {seed: plan.store.scored(key) for seed, key in keys.items()}
    return folder, {seed: found["metrics"]["nats_per_token"] for seed, found in scores.items() if found}


FILES = 'weights = ["0.safetensors", "1.safetensors"]'


def test_a_study_of_existing_weights_is_judged_without_a_training(made: tuple[Path, dict[int, float]]) -> None:
    folder, scores = made
    arms = "[arm.capped]\nmodel.softcap = 2.0\n[arm.few]\nstage.pre_quant.evaluate.documents = 4\n"
    plan = plan_of(folder, FILES, arms)
    assert plan.runs["few", 1].train_key == plan.runs["baseline", 1].train_key != plan.runs["baseline", 0].train_key
    assert plan.study.shares_weights("capped") and plan.study.shares_weights("few")
    readable(plan)
    found = everything(plan)
    by_seed = {run_["seed"]: run_ for run_ in found["runs"] if run_["arm"] == "baseline"}
    assert {seed: run_["metrics"]["pre_quant"] for seed, run_ in by_seed.items()} == scores
    assert all(run_["token_hash"].startswith("adopted:") and run_["tokens"] == 0 for run_ in found["runs"])
    words = {row["name"]: row["word"] for row in found["arms"]}
    assert words["capped"] in ("worse", "better", "equivalent", "inconclusive")
    assert all(row["cost"]["train_seconds"] is None for row in found["arms"])
    text = "weights trained elsewhere, so their tokens and their time are not known and no budget was spent"
    assert f"{text}: 0.safetensors, 1.safetensors (baseline, capped, few)" in found["notes"]
    assert not any("epochs" in note or "tokenizer is not known" in note for note in found["notes"])


@pytest.mark.parametrize("budget", ["tokens = 10_000", "seconds = 0.2"])
def test_weights_from_elsewhere_are_a_lever_like_data(
    made: tuple[Path, dict[int, float]], budget: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.ticks(monkeypatch, 1 / 64)
    folder, scores = made
    plan = plan_of(folder, "validate_every = 5_000", f"[arm.old]\ntrain.{FILES}\n", budget)
    found = everything(plan)
    [row] = [row for row in found["arms"] if row["name"] == "old"]
    assert row["word"] != "invalid", (row["notes"], found["runs"])
    if "tokens" in budget:
        assert row["delta"] == 0.0, "they are the very weights that the baseline trains"
        return
    pairs = {r["seed"]: r["metrics"]["pre_quant"] for r in found["runs"] if r["arm"] == "old"}
    assert pairs == scores


def test_rounding_that_never_came_is_said(made: tuple[Path, dict[int, float]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a budget in seconds nobody knows beforehand where the last step begins."""
    tiny.ticks(monkeypatch, 1 / 64)
    folder, _ = made
    late = 'validate_every = 5_000\nqat = { name = "fake_quant", start = 0.9999 }'
    found = everything(plan_of(folder, late, "[arm.early]\ntrain.qat.start = 0.0\n", "seconds = 0.05", seeds=1))
    assert "warning: a run ended before train.qat.start: no step of it saw rounded weights" in found["notes"]


def test_one_set_of_weights_is_judged_over_documents_and_says_so(made: tuple[Path, dict[int, float]]) -> None:
    folder, _ = made
    plan = plan_of(folder, 'weights = ["0.safetensors"]', "[arm.capped]\nmodel.softcap = 2.0\n", seeds=1)
    found = everything(plan)
    [row] = [row for row in found["arms"] if row["name"] == "capped"]
    assert row["word"] == "worse" and row["low"] < row["delta"] < row["high"]
    assert any("for these weights" in note for note in row["notes"]), row
    (folder / "report").mkdir(exist_ok=True)
    report.write(found, folder / "report")
    page = (folder / "report" / "report.md").read_text()
    assert "for these weights" in page and "weights trained elsewhere" in page


def test_one_file_under_two_seeds_is_one_run_twice(made: tuple[Path, dict[int, float]]) -> None:
    folder, _ = made
    (folder / "copy.safetensors").write_bytes((folder / "0.safetensors").read_bytes())
    plan = plan_of(folder, 'weights = ["0.safetensors", "copy.safetensors"]', "[arm.capped]\nmodel.softcap = 2.0\n")
    [row] = [row for row in everything(plan)["arms"] if row["name"] == "capped"]
    assert row["word"] == "invalid" and "score every document exactly alike: the same run twice, or" in row["notes"][0]
    with pytest.raises(CheckFailed) as raised:  # a check says so before anything is evaluated
        readable(plan)
    assert str(raised.value) == (
        f"{folder / 'copy.safetensors'}: holds the very weights of {folder / '0.safetensors'}: "
        "seeds 0 and 1 of baseline would be one run twice; give each seed its own"
    )


def test_a_file_that_changes_or_is_missing_stops_the_study(made: tuple[Path, dict[int, float]]) -> None:
    folder, _ = made
    (folder / "moving.safetensors").write_bytes((folder / "0.safetensors").read_bytes())
    plan = plan_of(folder, 'weights = ["moving.safetensors"]', "[arm.capped]\nmodel.softcap = 2.0\n", seeds=1)
    (folder / "moving.safetensors").write_bytes((folder / "1.safetensors").read_bytes())
    one = plan.runs["baseline", 0]
    with pytest.raises(CheckFailed, match="changed after the runs were planned; start the study again"):
        do(one, store=plan.store, where=plan.where, mirrors=(), stop=lambda: False, say=lambda _: None)
    again = plan_of(folder, 'weights = ["moving.safetensors"]', "[arm.capped]\nmodel.softcap = 2.0\n", seeds=1)
    assert again.runs["baseline", 0].train_key != one.train_key, "keys follow the content"
    (folder / "moving.safetensors").unlink()
    with pytest.raises(CheckFailed, match="cannot be read"):
        plan_of(folder, 'weights = ["moving.safetensors"]', "[arm.capped]\nmodel.softcap = 2.0\n", seeds=1)


def test_a_report_needs_no_file_of_weights(made: tuple[Path, dict[int, float]], tmp_path: Path) -> None:
    """The store has what was made of them; a file that was replaced before it went is the one that results are of."""
    folder, _ = made
    for seed in (0, 1):
        shutil.copy(folder / f"{seed}.safetensors", tmp_path)
    arms = "[arm.capped]\nmodel.softcap = 2.0\n"
    plan = plan_of(tmp_path, FILES, arms)
    before = everything(plan)
    shutil.copy(folder / "1.safetensors", tmp_path / "0.safetensors")
    assert plan_of(tmp_path, FILES, arms).runs["baseline", 0].train_key != plan.runs["baseline", 0].train_key
    for seed in (0, 1):
        (tmp_path / f"{seed}.safetensors").unlink()
    with pytest.raises(CheckFailed, match="cannot be read"):  # what runs needs them
        plan_of(tmp_path, FILES, arms)
    said: list[str] = []
    again = planning.make(plan.study, plan.store, say=lambda _: None, recall=said.append)
    assert {spot: run.train_key for spot, run in again.runs.items()} == {s: r.train_key for s, r in plan.runs.items()}
    assert len(said) == 2 and all("weights cannot be read" in text for text in said)
    assert recipe.recipe(again, "capped", "pre_quant") == recipe.recipe(plan, "capped", "pre_quant")
    told = ["report", str(tmp_path / "study.toml"), "--out", str(tmp_path / "runs"), "--json"]
    done = CliRunner().invoke(app, told)
    assert done.exception is None and json.loads(done.stdout)["sentence"] == before["sentence"]
    assert {row["status"] for row in json.loads(done.stdout)["runs"]} == {"done"}


def test_a_check_trains_miniatures_and_asks_for_no_money(made: tuple[Path, dict[int, float]]) -> None:
    folder, _ = made
    found = check.facts(plan_of(folder, FILES, "[arm.capped]\nmodel.softcap = 2.0\n"), say=lambda _: None)
    price = found["price"]["at_most"]
    assert (price["runs"], price["tokens"]) == (0, 0.0) and price["seconds"] is not None
    assert min(row["seconds_per_run"] for row in found["arms"]) > 0, (
        "evaluations take time, whoever trained the weights"
    )
    assert [(row["tokens"], row["steps"], row["train_seconds"]) for row in found["arms"]] == [(0, 0, 0.0)] * 2
    assert all(len(row["miniature"]["losses"]) == 20 for row in found["arms"])


def test_a_check_reads_the_files(made: tuple[Path, dict[int, float]]) -> None:
    folder, _ = made
    plan = plan_of(folder, FILES, "[arm.wide]\nmodel.n_kv_heads = 2\n")
    with pytest.raises(CheckFailed, match=r"holds weights of another model: layers\.0\.attn\.projection\.k_proj"):
        readable(plan)


def test_what_only_training_hears_of_changes_nothing_in_weights_from_files(made: tuple[Path, dict[int, float]]) -> None:
    """A gain's initial value acts on trained arms; where weights exist the arm equals its reference and is refused."""
    folder, _ = made
    arm = "[arm.gain]\nmodel.temperature.init = 2.0\n"
    gained = '[model]\ntemperature = { name = "qk_gain", init = 1.5 }\n'
    for train in ("validate_every = 5_000", FILES):
        text = STUDY.format(seeds=2, train=train, arms=arm).replace("tokens = 20_000", "tokens = 10_000")
        (folder / "study.toml").write_text(text.replace("[model]\n", gained))
        plan = planning.make(load(folder / "study.toml"), Store(folder / "runs"), say=lambda _: None)
        if train == FILES:
            with pytest.raises(CheckFailed, match="arm 'gain' changes nothing"):
                miniature.check(plan, lambda _: None)
        else:
            assert miniature.check(plan, lambda _: None)
