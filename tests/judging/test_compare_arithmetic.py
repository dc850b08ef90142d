"""What a claim's text alone shows to be wrong: the slips of two public pages without logs, and pages without a slip.

The numbers are those of openai/parameter-golf's pull requests 1718 and 1970, README.md and submission.json; the words are ours.
"""

from __future__ import annotations

import json

import pytest

from ablab.judging.compare.arithmetic import Known, faults

EPOCHS = """| Config | TTT val_bpb | TTT eval time |
|---|---|---|
| TTT_EPOCHS=3 (record baseline) | 1.07886574 | 336 s |
| TTT_EPOCHS=4 (probe) | 1.07877614 | 390 s |
| **\u0394** | **\u22120.00008959** | +54 s |

Eval-only on the saved final_model.pt; this is 6% of my 3-seed standard deviation (\u03c3 = 0.000143).

A smaller projection is a small but reproducible pre-quant improvement: it lands in the band 1.0856\u20131.0860 on d=32
versus 1.0850\u20131.0852 on d=48.
"""
TABLE = """Ablation of 10 configurations with CaseOps SP8192, single seed unless noted.

| # | Experiment | Change | Pre-quant | Post-quant | Post-TTT | Artifact | Delta vs baseline |
|---|---|---|---|---|---|---|---|
| 1 | gates_caseops | baseline (EMBED_BITS=8) | 1.0712 | 1.0781 | **1.0674** | 16.93 MB \u274c | \u2014 |
| 2 | optimized_v1 | WARMDOWN=0.85, clip sigmas | 1.0712 | 1.0806 | **1.0703** | 17.26 MB \u274c | +0.003 worse |
| 3 | rope24 | ROPE_DIMS=24 | 1.0715 | 1.0815 | **1.0706** | 16.39 MB \u274c | +0.003 worse |
| 4 | rope32 | ROPE_DIMS=32 | 1.0705 | 1.0806 | **1.0698** | 16.39 MB \u274c | +0.002 worse |
| 5 | v2_baseline | EMBED_BITS=6 | 1.0718 | 1.0941 | **1.0819** | 15.15 MB \u2705 | +0.015 worse |
| 6 | v2_slope03 | LEAKY_SLOPE=0.3 | 1.0729 | 1.0942 | **1.0822** | 15.15 MB \u2705 | +0.000 neutral |
| 7 | v2_slope00 | LEAKY_SLOPE=0.0 | 1.0737 | 1.0958 | **1.0837** | 15.16 MB \u2705 | +0.002 worse |
| 8 | **v2_gate32** | **GATE_WIDTH=32** | **1.0700** | **1.0908** | **1.0788** | **15.89 MB \u2705** | **-0.003 better** |
"""
BYTES = {"gates_caseops": 16934743, "optimized_v1": 17256881, "rope24": 16394907, "rope32": 16392886,
         "v2_baseline": 15885705, "v2_slope03": 15889757, "v2_slope00": 15892782, "v2_gate32": 15891157}  # fmt: skip
SUBMISSION = json.dumps({"experiments": {name: {"artifact_bytes": size} for name, size in BYTES.items()}})
FOUR = "".join(TABLE.replace("10 conf", "4 conf").replace("single seed", "3 seeds").splitlines(keepends=True)[:8])
FOUR = FOUR.replace("ROPE_DIMS", "int6, ROPE_DIMS")
SEEDS = """Three configs

| seed | val_bpb |
|---|---|
| 1 | 1.081 |
| 2 | 1.082 |
| 3 | 1.083 |
| mean | 1.082 |
| std | 0.001 |
"""
CHAIN = """| run | val_bpb | delta from previous |
|---|---|---|
| a | 1.0900 | - |
| b | 1.0880 | -0.0020 |
| c | 1.0850 | -0.0030 |
"""


def said(*pages: str, known: Known | None = None) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for flag in faults(pages, known or Known()):
        found.setdefault(flag["kind"], []).append(flag["said"])
    return found


def test_the_slips_of_a_page_on_evaluation_levers() -> None:
    found = said(EPOCHS)
    assert found.pop("claim_ratio") == ["6% of the sd: 0.00008959 / 0.000143 = 0.63, not 0.06"]
    assert found.pop("claim_sign") == [
        "1.0856 to 1.0860 against 1.0850 to 1.0852 is 0.0004 to 0.0010 higher, where an improvement is stated"
    ]
    [note] = found.pop("claim_one_checkpoint")
    assert note.startswith("one checkpoint was evaluated twice") and not found


def test_the_slips_of_a_table_of_configurations() -> None:
    found = said(TABLE, SUBMISSION)
    assert found.pop("claim_rows") == ["10 configurations are stated, and the table of results has 8 rows"]
    [units] = found.pop("claim_mebibytes")
    assert "15.15 MB is 15,885,705 bytes, 15.89 MB" in units and units.endswith("others of the same page are in MB")
    [switch] = found.pop("claim_reference")
    assert switch.endswith("switches: of rows 2, 3, 4, 5 against row 1; of rows 6, 7, 8 against row 5")
    assert [one.partition(":")[0] for one in found.pop("claim_confounded")] == [
        "row 3 (ROPE_DIMS=24)", "row 4 (ROPE_DIMS=32)",
    ]  # fmt: skip
    assert found.pop("claim_one_seed")[0].startswith(
        "one seed a row: the sd of a difference of two runs is about 0.0009"
    )
    assert not found
    assert "claim_mebibytes" not in said(TABLE), "without the bytes nothing says which unit it is"


def test_a_ratio_is_held_to_the_spread_that_is_known() -> None:
    for text in ("TTT_EPOCHS 4: -0.00009 bpb = 0.06 sigma", '{"delta_bpb": -8.96e-5, "sigma_multiple": 0.06}'):
        assert list(said(text, known=Known(sd=0.00014293))) == ["claim_ratio"] and not said(text)
    assert not said("-0.00009 bpb = 0.63 sigma", known=Known(sd=0.00014293))
    assert not said("a gain of -0.0012 bpb (2.0 sd); std 0.0006")
    assert said("a gain of -0.0012 bpb (4.0 sd); std 0.0006") == {"claim_ratio": ["0.0012 / 0.0006 = 2, not 4"]}


def test_a_normal_tail_is_no_test_of_a_spread_that_was_estimated() -> None:
    [flag] = said("z=-3.00, p=0.00136 for >=0.005 nats", known=Known(n=3))["claim_z_test"]
    assert flag.endswith("with the sd of 3 runs Student's t has 0.048")
    assert not said("z=-3.00, p=0.048", known=Known(n=3))


@pytest.mark.parametrize(
    "page",
    [
        FOUR,
        SEEDS,
        CHAIN,
        "An improvement: 1.0850-1.0852 against 1.0856-1.0860.",
        "Worse by seed: 1.0856-1.0860 against 1.0850-1.0852, an improvement elsewhere.",
        "Four configurations:\n\n| a | val_bpb |\n|---|---|\n" + "| x | 1.0811 |\n" * 5,
        '{"delta": 1, "sigma": "x", "std": null, "bytes": [1, {"size": 2}]}',
        "{", "", "| |\n|-|\n| |\n", "| delta |\n|---|\n| 0.001 |\n| 0.002 |\n| 0.003 |\n",
    ],
)  # fmt: skip
def test_a_page_without_a_slip_has_none(page: str) -> None:
    kinds = set(said(page, known=Known(0.001, (15_000_000,), 3)))
    assert not kinds, kinds
