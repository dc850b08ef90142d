"""The report: complete, self-contained, escaped, deterministic, and sensible when parts are missing."""

from __future__ import annotations

import copy
import io
import json
import math
import re
import runpy
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import markupsafe
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tests import staged

from ablab import report
from ablab.core.fault import CheckFailed
from ablab.core.forms import misfit
from ablab.records.answer import Answer
from ablab.report import depth, markdown, prose, tables, words
from ablab.report import html as page
from ablab.report.figures import focus, forest
from ablab.report.terminal import terminal
from ablab.report.view import View, grid_of

GOLDEN = Path(__file__).parents[1] / "golden"
VOID = {"meta", "link", "br", "hr", "img", "input"}
EVIL = '<script>alert("x")</script>|=cmd [a](javascript:b) `*_'
MINUS = "\u2212"


@pytest.fixture
def verdict() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / "verdict_example.json").read_text(encoding="utf-8"))
    return found


class Balance(HTMLParser):
    """Collects tags, attributes and text; fails where tags do not nest."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(k, v or "") for k, v in attrs]
        self.ids += [v or "" for k, v in attrs if k == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)


def parsed(text: str) -> Balance:
    found = Balance()
    found.feed(text)
    found.close()
    assert found.open == [], f"left open: {found.open}"
    assert len(set(found.ids)) == len(found.ids), "an id stands twice"
    return found


def said(text: str) -> str:
    """The page's visible text on one line."""
    return " ".join(" ".join(parsed(text).text).split())


def columns(text: str) -> None:
    """Every row of every Markdown table has its header's number of cells."""
    width = 0
    for line in text.splitlines():
        if not line.startswith("|"):
            width = 0
            continue
        cells = len(re.findall(r"(?<!\\)\|", line))
        width = width or cells
        assert cells == width, line


def renamed(verdict: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    text = json.dumps(verdict).replace(json.dumps(old), json.dumps(new))
    found: dict[str, Any] = json.loads(text)
    return found


def shown(verdict: dict[str, Any], **options: Any) -> str:
    file = io.StringIO()
    terminal(verdict, Console(file=file, **{"width": 100, **options}))
    return file.getvalue()


# what must be there


def test_the_example_is_what_its_recipe_makes(verdict: dict[str, Any]) -> None:
    made = runpy.run_path(str(GOLDEN / "make_verdict_example.py"))["verdict"]
    assert json.loads(json.dumps(made)) == verdict


def test_write_makes_two_whole_files(tmp_path: Path, verdict: dict[str, Any]) -> None:
    report.write(verdict, tmp_path / "study")
    assert sorted(p.name for p in (tmp_path / "study").iterdir()) == ["report.html", "report.md"]
    assert (tmp_path / "study" / "report.html").read_text(encoding="utf-8") == page.page(verdict)
    assert (tmp_path / "study" / "report.md").read_text(encoding="utf-8") == markdown.page(verdict)


def test_html_is_balanced_and_loads_nothing(verdict: dict[str, Any]) -> None:
    text = page.page(verdict)
    found = parsed(text)
    assert not found.tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert not [a for a in found.attributes if a[0] in ("src", "srcset", "data", "xlink:href") or a[0].startswith("on")]
    assert all(v.startswith("#") and v[1:] in found.ids for k, v in found.attributes if k == "href")
    assert "://" not in text
    assert "@import" not in text
    assert all(target.startswith("#clip-") for target in re.findall(r"url\(([^)]*)\)", text))
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in found.attributes
    assert len(text.encode()) < 400_000


def test_every_figure_has_a_text_alternative(verdict: dict[str, Any]) -> None:
    drawings = re.findall(r"<svg[^>]*>", page.page(verdict))
    assert len(drawings) > 12
    assert all('role="img" aria-label="' in tag or 'aria-hidden="true"' in tag for tag in drawings)


def test_first_screen_answers(verdict: dict[str, Any]) -> None:
    text = said(page.page(verdict))
    order = [
        text.index(part)
        for part in (verdict["question"], verdict["sentence"], "a tie within \u00b10.0050", "Differences")
    ]
    assert order == sorted(order)
    for part in (
        "model.global.position: nope \u2192 grape_a (slope_scale=1)",
        f"{MINUS}0.0131 [{MINUS}0.0161, {MINUS}0.0101]",
        "look 2 of 3",
        "0.00018",
        "+12 fresh",
        "24 runs, 481M tokens, 6.27 h",
        "3.71 MB",
        "3.67M",
        "20,390",
        f"expected {MINUS}0.0100: outside the interval",
        "MiMo and GPT-OSS keep a position signal on global layers",
        "level 3.2186",
    ):
        assert part in text, part
    for word in ("better", "worse", "inconclusive", "baseline"):
        assert f'class="chip w-{word}"' in page.page(verdict)


def test_all_arms_runs_and_sections_appear(verdict: dict[str, Any]) -> None:
    for text in (said(page.page(verdict)), markdown.page(verdict)):
        for arm in verdict["arms"]:
            assert arm["name"] in text
        for run in verdict["runs"]:
            assert run["key"][:8] in text
            assert run["key"] not in text
            assert run["token_hash"] is None or run["token_hash"][:8] in text
        for part in (
            "the machine was taken back; given up after 3 tries",
            "24 runs: 23 done, 1 failed",
            "0.3431 bits/byte",
            "Probe uninformative at this scale",
            "What would change the verdict",
            "Methods, to paste",
            "bytes per token",
            "duplicates left out",
            "leak check",
            "runs saved",
            "gap to pre_quant",
            "start 3, at_most 8",
            "executor",
        ):
            assert part in text, part


def test_markdown_tables_are_whole(verdict: dict[str, Any]) -> None:
    columns(markdown.page(verdict))
    columns(markdown.page(renamed(verdict, "grape_a", EVIL)))


# trust


def test_hostile_names_and_notes_stay_text(verdict: dict[str, Any]) -> None:
    clean_tags = parsed(page.page(verdict)).tags
    hostile = renamed(verdict, "grape_a", EVIL)
    hostile["arms"][2]["notes"] = [EVIL, "\x1b[31mred\x07", "\u202egnp"]
    hostile["arms"][2]["because"] = "=1+1"
    hostile["question"] = "=HYPERLINK(1) " + EVIL
    hostile["runs"][0]["fault"] = "</table>" + EVIL
    text = page.page(hostile)
    assert parsed(text).tags == clean_tags
    assert EVIL in said(text)
    for out in (text, markdown.page(hostile), shown(hostile)):
        assert "\x1b" not in out
        assert "\x07" not in out
        assert "\u202e" not in out
    written = markdown.page(hostile)
    columns(written)
    outside = re.sub(r"(`+).*?\1", "", written.replace("<br>", ""))
    assert "<script" not in outside
    assert not re.search(r"(?<!\\)\]\(", outside)
    assert "| =" not in written
    assert "# \\=HYPERLINK" in written


@settings(max_examples=15, deadline=None)
@given(st.text(min_size=1, max_size=40))
def test_any_name_is_only_text(name: str) -> None:
    verdict = json.loads((GOLDEN / "verdict_example.json").read_text(encoding="utf-8"))
    verdict["needle"], verdict["bands"] = {}, {}
    verdict["arms"][1]["name"] = "x" + name
    verdict["arms"][1]["notes"] = [name]
    tags = parsed(page.page(verdict)).tags
    assert "script" not in tags
    assert str(markupsafe.escape(words.clean("x" + name))) in page.page(verdict)
    columns(markdown.page(verdict))
    assert max(map(len, shown(verdict).splitlines()[:6])) <= 200


def test_terminal_takes_no_markup_from_names(verdict: dict[str, Any]) -> None:
    text = shown(renamed(verdict, "grape_a", "[red]x[/red] [/]"))
    assert "[red]x[/red] [/]" in text


def test_same_input_same_bytes_and_untouched_input(verdict: dict[str, Any]) -> None:
    before = copy.deepcopy(verdict)
    first = (page.page(verdict), markdown.page(verdict), shown(verdict))
    again = json.loads(json.dumps(verdict))
    assert (page.page(again), markdown.page(again), shown(again)) == first
    assert verdict == before


# what may be missing, and what may not


def everything(verdict: dict[str, Any]) -> str:
    text = page.page(verdict)
    parsed(text)
    written = markdown.page(verdict)
    columns(written)
    both = said(text) + written + shown(verdict)
    figures = "".join(re.findall(r"<svg.*?</svg>", text))
    assert not re.search(r"\b(nan|NaN|inf|Infinity|None)\b", both + figures)
    return both


@pytest.mark.parametrize("key", sorted(json.loads((GOLDEN / "verdict_example.json").read_text(encoding="utf-8"))))
def test_a_part_that_is_missing_is_refused_and_one_that_is_null_too_unless_it_may_be(
    verdict: dict[str, Any], key: str
) -> None:
    with pytest.raises(CheckFailed, match=rf"verdict.json: does not hold {key}; do `ablab report`"):
        View({k: v for k, v in verdict.items() if k != key})
    if misfit(verdict | {key: None}, Answer):
        with pytest.raises(CheckFailed, match=rf"verdict.json: holds None for {key}, .*; do `ablab report`"):
            View(verdict | {key: None})
    else:
        everything(verdict | {key: None})


@pytest.mark.parametrize(
    "key", sorted(json.loads((GOLDEN / "verdict_example.json").read_text(encoding="utf-8"))["arms"][0])
)
def test_a_part_of_an_arm_that_is_missing_is_refused(verdict: dict[str, Any], key: str) -> None:
    del verdict["arms"][1][key]
    with pytest.raises(CheckFailed, match=rf"verdict.json: does not hold arms\[1\].{key}; do `ablab report`"):
        View(verdict)


def test_shapes_that_nothing_writes_are_refused(verdict: dict[str, Any]) -> None:
    arm, band = verdict["arms"][1], verdict["bands"]["pre_quant"]["grape_a"]
    odd = (
        {"inversions": {"post_quant": "shown"}},
        {"inversions": ["x"]},
        {"notes": "x"},
        {"steps": None},
        {"price": 3},
    )
    for change in odd:
        with pytest.raises(CheckFailed, match=f"arms.1..{next(iter(change))}"):
            View(verdict | {"arms": [verdict["arms"][0], arm | change]})
    for edges in (band["edges"][:-1], band["edges"][1:], band["edges"][::-1]):
        with pytest.raises(CheckFailed, match=r"verdict.json: bands: holds .* between the edges"):
            View(verdict | {"bands": {"pre_quant": {"grape_a": band | {"edges": edges}}}}).bands()
    with pytest.raises(CheckFailed, match="arms: holds the word 'best', which says nothing of an arm"):
        View(verdict | {"arms": [verdict["arms"][0], arm | {"word": "best"}]})
    verdict["runs"][0]["trajectory"][0] = [1.0]
    with pytest.raises(CheckFailed, match="runs: holds a point of a trajectory that is not of tokens and a value"):
        everything(verdict)
    with pytest.raises(CheckFailed, match="needle: holds a map that is not of 3 lengths and 2 depths"):
        grid_of([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]], 3, 2)


@pytest.mark.parametrize(
    "key", ["delta", "low", "high", "p", "mean", "price", "on", "look", "trajectory", "cost_against"]
)
def test_any_number_of_an_arm_may_be_missing(verdict: dict[str, Any], key: str) -> None:
    for arm in verdict["arms"]:
        arm[key] = None
    everything(verdict)


def test_a_study_of_which_nothing_exists_has_a_page() -> None:
    assert "No run has been started yet." in everything(staged.empty())
    with pytest.raises(CheckFailed, match="does not hold looks"):
        View({})


def test_numbers_that_are_not_finite_are_dashes(verdict: dict[str, Any]) -> None:
    for key in ("delta", "low", "mde", "s", "correlation"):
        verdict["arms"][1][key] = math.nan
    verdict["arms"][2]["high"] = math.inf
    verdict["runs"][0]["metrics"]["pre_quant"] = math.nan
    verdict["runs"][0]["trajectory"][5][1] = math.inf
    everything(verdict)


def test_a_report_made_mid_run(verdict: dict[str, Any]) -> None:
    verdict |= {
        "winner": None,
        "decided_by": "not finished",
        "sentence": "No winner (not finished), 9 runs to the next look.",
    }
    verdict |= {"needle": {}, "bands": {}, "runs": verdict["runs"][:9]}
    blank = ("delta", "low", "high", "p", "s", "m", "look", "mde", "mean", "correlation", "seeds_saved", "trajectory")
    for arm in verdict["arms"][1:]:
        arm |= dict.fromkeys(blank)
        arm |= {"word": "inconclusive", "seeds": 0, "stages": {}, "gaps": {}, "notes": ["waiting"], "more_seeds": 3}
        arm["cost"] |= dict.fromkeys(("tokens_per_second", "step_ms", "train_seconds", "bytes"))
    text = everything(verdict)
    assert "Not finished. Runs so far: 9 done; waiting: grape_a, grape_m_everywhere, no_position" in text
    assert 'class="chip w-waiting"' in page.page(verdict)
    assert forest(View(verdict)) is None
    verdict["runs"] = []
    assert "No run has been started yet." in everything(verdict)


def test_one_seed_shows_a_number_without_interval(verdict: dict[str, Any]) -> None:
    arm = verdict["arms"][1]
    arm |= {"word": "inconclusive", "seeds": 1, "low": None, "high": None, "p": None, "more_seeds": 2, "fresh": False}
    assert "no interval" in everything(verdict)
    assert "hollow" in str(forest(View(verdict)))


# what must not be missed


def test_warnings_stand_before_the_answer_inversions_first(verdict: dict[str, Any]) -> None:
    verdict["exploratory"] = True
    verdict["arms"][1]["inversions"] = [
        {
            "first": "pre_quant",
            "stage": "post_quant",
            "kind": "shown",
            "delta_first": -0.01,
            "delta": 0.01,
            "over": "seeds",
        }
    ]
    verdict["arms"][2] |= {
        "word": "invalid",
        "low": None,
        "high": None,
        "p": None,
        "notes": ["token hashes differ at seed 1"],
    }
    verdict["arms"][3] |= {
        "word": "unstable",
        "low": None,
        "high": None,
        "p": None,
        "notes": ["seed 2 diverged at step 40"],
    }
    for text in (said(page.page(verdict)), markdown.page(verdict).replace("**", ""), shown(verdict)):
        folded = " ".join(text.split()).lower()
        order = [
            folded.index(w)
            for w in ("inversion", "exploratory", "hashes differ", "diverged", verdict["sentence"].lower())
        ]
        if "exploratory" in folded[: folded.index("inversion")]:  # the stamp beside the name stands first of all
            order[1] = folded.index("exploratory", order[0])
        assert order == sorted(order)
    assert 'class="stamp"' in page.page(verdict)


def test_what_diverged_is_said_training_or_the_stage_after_it(verdict: dict[str, Any]) -> None:
    arm, stage = verdict["arms"][3], verdict["stage"]
    arm |= {"word": "unstable", "low": None, "high": None, "p": None, "notes": ["seed 2"], "unstable": {}}
    for found in (page.page(verdict), markdown.page(verdict)):
        assert "training diverged more often than the baseline's: " in said(found).replace("&#39;", "'")
    on = next(
        other["name"] for other in verdict["arms"] if other["name"] not in (arm["name"], verdict["arms"][0]["name"])
    )
    changed = {**verdict, "arms": [*verdict["arms"][:3], {**arm, "on": on}, *verdict["arms"][4:]]}
    assert f"training diverged more often than {on}'s: " in said(page.page(changed)).replace("&#39;", "'")
    arm["unstable"] = {stage: "diverged at seed 2 (the loss of chunk 7 is not finite)"}
    ours = [run for run in verdict["runs"] if run["arm"] == arm["name"]]
    for run in ours:
        run["status"] = "done"
    late = (
        f"the scores of stage {stage}, after training, diverged more often than the baseline's: {arm['name']} (seed 2)"
    )
    assert late in [text for _, _, text in prose.warnings(View(verdict))]
    ours[0]["status"] = "diverged"
    both = f"training, and at other seeds {late}"
    assert both in [text for _, _, text in prose.warnings(View(verdict))]


def test_identical_scores_are_a_tie_that_no_margin_reopens(verdict: dict[str, Any]) -> None:
    arm = verdict["arms"][1]
    arm |= {"word": "equivalent", "delta": 0.0, "low": 0.0, "high": -0.0}
    [(_, _, text)] = [row for row in prose.what_would_change(View(verdict), words.Markdown()) if arm["name"] in row[0]]
    assert "Settled as a tie." in text and "reopen" not in text
    arm["high"] = 0.001
    [(_, _, text)] = [row for row in prose.what_would_change(View(verdict), words.Markdown()) if arm["name"] in row[0]]
    assert "would reopen it." in text


def test_probe_is_labelled_only_where_it_says_nothing(verdict: dict[str, Any]) -> None:
    verdict["notes"] = []
    assert "at its floor" in page.page(verdict)
    verdict["needle"]["grape_a"]["above_floor"] = True
    assert "uninformative" not in page.page(verdict).lower()
    for probe in verdict["needle"].values():
        probe["below_ceiling"] = False
    assert "at its ceiling" in page.page(verdict)


def test_more_than_one_decision_is_said(verdict: dict[str, Any]) -> None:
    second = copy.deepcopy(verdict["decisions"][0])
    second["decision"]["matters"], second["ended"] = 0.0017, 16
    verdict["decisions"].append(second)
    text = everything(verdict)
    assert "2 decisions were judged on these runs" in text
    assert "0.0017" in text


def test_many_arms_stay_small_and_apart(verdict: dict[str, Any]) -> None:
    for i in range(16):
        arm = copy.deepcopy(verdict["arms"][2]) | {"name": f"arm_{i}"}
        verdict["arms"].append(arm)
        runs = [copy.deepcopy(r) | {"arm": f"arm_{i}"} for r in verdict["runs"] if r["arm"] == "grape_m_everywhere"]
        verdict["runs"] += runs
    text = page.page(verdict)
    assert len(text.encode()) < 1_500_000
    swatches = re.findall(r'<svg viewBox="0 0 28 14".*?</svg>', text)[:20]
    assert len(set(swatches)) == len(swatches) == 20


def test_a_far_arm_does_not_flatten_the_others(verdict: dict[str, Any]) -> None:
    assert focus([0.005, 0.016, 0.136], 0.01) == 0.016
    assert focus([0.396, 0.528], 0.02) == 0.528
    assert focus([], 0.01) == 0.01
    assert focus([0.0, 0.0, 0.52], 0.1) == 0.52  # arms that differ in nothing have no say
    drawing = str(forest(View(verdict)))
    assert "off this scale" in drawing
    assert f"[+{0.0932}, +{0.1364}]" in drawing
    numbers = [float(v) for v in re.findall(r'[xy][12]?="(-?[\d.]+)"', drawing)]
    assert min(numbers) >= 0
    assert max(numbers) <= 460


# the terminal


def test_terminal_table_fits_and_answers(verdict: dict[str, Any]) -> None:
    text = shown(verdict)
    rows = text.splitlines()
    assert max(map(len, rows[:6])) <= 100
    assert rows[-1] == verdict["sentence"]
    assert text.isascii()
    assert re.search(
        r"grape_m_everywhere \| inconclusive \|\s+-0.0016 \| \[-0.0052, \+0.0019\] \|\s+7 \|\s+0.40 \|\s+\+12 fresh",
        text,
    )
    assert "grape_a: model.global.position: nope -> grape_a (slope_scale=1)" in text
    assert "grape_m_everywhere: +12 fresh seeds cost about 24 runs, 481M tokens, 6.27 h" in text


def test_terminal_in_colour_and_narrow(verdict: dict[str, Any]) -> None:
    text = shown(verdict, force_terminal=True, width=100, color_system="standard")
    assert "\x1b[" in text
    bare = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert max(map(len, bare.splitlines())) <= 100
    assert "inconclusive" in bare


def test_a_narrow_terminal_has_the_interval_below_and_no_dash_beside_a_level(verdict: dict[str, Any]) -> None:
    rows = shown(verdict, width=60).splitlines()
    at = next(i for i, row in enumerate(rows) if row.startswith("baseline"))
    assert re.search(r"\|  +level 3.2186$", rows[at]) and rows[at + 1].startswith("grape_a ")
    assert rows[at + 2].split("|")[2].strip() == "[-0.0161, -0.0101]"


def test_methods_claim_no_training_of_weights_from_files(verdict: dict[str, Any]) -> None:
    assert "Every model was trained on" in prose.methods(View(verdict)) and "elsewhere" not in prose.methods(
        View(verdict)
    )
    tokens = " and 20.1M tokens)"
    assert tokens in prose.limits(View(verdict))[1]
    for run in verdict["runs"]:
        run["token_hash"] = "adopted:00"
    said = prose.methods(View(verdict))
    assert "Weights were trained elsewhere and read from files." in said and "was trained on" not in said
    assert "tokens)" not in prose.limits(View(verdict))[1]
    verdict["looks"], verdict["arms"][1]["shares_weights"] = [1], True
    said = prose.methods(View(verdict))
    assert "with a t interval over documents at family-wise" in said and "paired by seed" not in said


def test_a_change_of_sides_is_written_with_the_digits_that_show_it(verdict: dict[str, Any]) -> None:
    arm = next(arm for arm in verdict["arms"] if arm["name"] != "baseline")
    arm["stages"] = {
        name: {**arm["stages"]["pre_quant"], "delta": d} for name, d in (("pre_quant", -0.0000412), ("late", 0.03))
    }
    arm["inversions"] = [
        {
            "first": "pre_quant",
            "stage": "late",
            "kind": "likely",
            "delta_first": -0.0000412,
            "delta": 0.03,
            "over": "seeds",
        }
    ]
    (said,) = prose.inversions(View(verdict | {"stages": ["pre_quant", "late"]}))
    assert "pre_quant (-0.00004)" in said and "late (+0.03" in said


def test_a_change_of_lever_leaves_out_what_both_sides_have_alike() -> None:
    before = {"name": "brotli", "quality": 11, "shuffle": True}
    after = {"name": "lzma", "level": 9, "shuffle": True}
    change = {"path": "codec", "before": before, "after": after}
    assert tables.change_text(change, words.Style()) == "codec: brotli (quality=11) -> lzma (level=9)"
    same = change | {"after": before | {"quality": 5}}
    assert tables.change_text(same, words.Style()) == "codec: brotli (quality=11) -> brotli (quality=5)"


def test_a_long_name_of_a_factorial_is_cut_between_its_factors(verdict: dict[str, Any]) -> None:
    lines = shown(renamed(verdict, "grape_a", "window=32,windows.main=32"), width=80).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("window=32, "))
    assert lines[at + 1].startswith("windows.main=32 ")


def test_terminal_that_cannot_write_unicode(verdict: dict[str, Any]) -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    terminal(renamed(verdict, "grape_a", "\u03b1-arm"), Console(file=file))
    file.flush()
    assert b"?-arm" in raw.getvalue()


def test_importing_the_report_is_cheap() -> None:
    code = "import sys, ablab.report; print(sorted({'torch', 'jinja2', 'rich', 'scipy', 'numpy'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": "src"}
    )
    assert done.stdout.strip() == "[]"


# how numbers are written


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (words.p_value, 0.00268802, "0.0027"),
        (words.p_value, 0.0000161, "< 0.0001"),
        (words.p_value, 0.4025, "0.40"),
        (words.p_value, 1.0, "1"),
        (words.p_value, None, words.DASH),
        (words.count, 200_000_000, "200M"),
        (words.count, 12_345, "12,345"),
        (words.count, 999_999_999, "1B"),
        (words.seconds, 0.0069, "6.9 ms"),
        (words.seconds, 938.2, "15.6 min"),
        (words.seconds, 22_584.0, "6.27 h"),
        (words.seconds, 900_000.0, "10.4 days"),
        (words.size, 16_000_000, "16.00 MB"),
        (words.size, math.nan, words.DASH),
        (words.whole, True, words.DASH),
        (words.value_text, {"name": "rope", "theta": 500000.0}, "rope (theta=500000)"),
        (words.value_text, [{"name": "grape_m"}, "grape_a"], "[grape_m, grape_a]"),
        (words.value_text, None, "none"),
        (words.value_text, {"name": "sliding", "stride": 64, "seq_len": None}, "sliding (stride=64)"),
        (words.clean, "a\n\tb\x1b[0m", "a b\ufffd[0m"),
        (words.decimals_for, 0.005, 4),
        (words.decimals_for, 0.0017, 4),
        (words.decimals_for, None, 4),
        (words.decimals_for, 1.0, 2),
    ],
)
def test_formats(write: Any, value: Any, text: Any) -> None:
    assert write(value) == text


def test_zero_has_no_minus() -> None:
    assert words.Style().delta(-0.00001, 4) == "0.0000"
    assert words.Style().delta(-0.01246, 4) == "-0.0125"
    assert words.Html().delta(-0.01246, 4) == f"{MINUS}0.0125"


def test_two_changes_together_are_credited_to_neither(verdict: dict[str, Any]) -> None:
    verdict["arms"][1]["together"] = "the bias needs the wider window"
    assert "together, neither credited alone: the bias needs the wider window" in everything(verdict)


def test_the_cost_table_shows_what_decoding_keeps(verdict: dict[str, Any]) -> None:
    kept = copy.deepcopy(verdict)
    for arm, of_row in zip(kept["arms"], (4_000_000, 1_000_000), strict=False):
        cache = {"cache_bytes_per_token": 4096, "cache_bytes_at_seq_len": of_row, "cache_precision": "bf16"}
        arm["cost"] |= cache
    page_text = markdown.page(kept)
    lines = page_text[page_text.index("## Cost") :].splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("| arm"))
    columns = [cell.strip() for cell in lines[head].split("|")]
    rows = [[cell.strip() for cell in line.split("|")] for line in lines[head + 2 : head + 4]]
    assert [row[columns.index("cache/token")] for row in rows] == ["4.10 kB"] * 2
    found = [row[columns.index("cache of a row")] for row in rows]
    assert found[0].startswith("4.00 MB") and found[1].startswith("1.00 MB") and "75.0%" in found[1]
    assert "of seq_len tokens, in bf16." in page_text
    assert "cache of a row" in page.page(kept)


# stages, artifacts, positions: of a study that acts after training, with the words of the real judge


@pytest.fixture
def staged_verdict() -> dict[str, Any]:
    found: dict[str, Any] = staged.verdict()
    return found


def test_inversions_between_any_two_stages_come_first_one_banner_per_arm(staged_verdict: dict[str, Any]) -> None:
    for text in (
        said(page.page(staged_verdict)),
        markdown.page(staged_verdict).replace("**", ""),
        shown(staged_verdict),
    ):
        folded = " ".join(text.split()).replace("\\", "").lower()
        first = folded.index("inversion")
        turned = (
            "long_rows changes sides between stages: better at pre_quant (-0.0123) and post_quant (-0.0128), worse at sliding "
            "(+0.0092) and ttt (+0.0098), nats/token: shown. the word speaks about sliding only."
        )
        assert folded.index(turned) > first
        assert first < folded.index("unstable stage") < folded.index(staged_verdict["sentence"].lower())
        assert folded.count("changes sides") == 1


def test_one_turn_names_both_stages_and_what_it_was_taken_over(staged_verdict: dict[str, Any]) -> None:
    arm = next(arm for arm in staged_verdict["arms"] if arm["name"] == "long_rows")
    arm["inversions"] = [arm["inversions"][2] | {"kind": "likely", "over": "documents"}]
    turned = "long_rows changes sides between post_quant (-0.0128) and sliding (+0.0092 nats/token): likely, for these weights."
    assert turned in said(page.page(staged_verdict))


def test_gaps_have_intervals_of_their_own_and_against_the_reference(staged_verdict: dict[str, Any]) -> None:
    text = said(page.page(staged_verdict))
    assert "Gaps between stages" in text
    steps = {arm["name"]: arm["steps"] for arm in staged_verdict["arms"]}
    for name in ("baseline", "hadamard"):
        step = steps[name]["post_quant"]
        low, high = (words.Html().delta(step[k], 4) for k in ("gap_low", "gap_high"))
        assert f"{words.Html().delta(step['gap'], 4)} [{low}, {high}]" in text
    for part in ("post_quant: gap to pre_quant", "sliding: gap to post_quant", "ttt: gap to post_quant"):
        assert part in text and part in markdown.page(staged_verdict)
    assert f"against the reference {words.Html().delta(steps['clip_wide']['post_quant']['delta'], 4)}" in text
    assert "speak for these weights" not in text


def test_arms_of_shared_weights_are_marked_by_what_they_speak_of(staged_verdict: dict[str, Any]) -> None:
    assert page.page(staged_verdict).count(">same weights</span>") == 3
    assert "hadamard: same weights" in shown(staged_verdict)
    one = staged.verdict(seeds=1, at_most=1)
    text = page.page(one)
    assert text.count(">for these weights</span>") == 3 and ">same weights</span>" not in text
    assert "over documents: they speak for these weights" in said(text)
    assert "for these weights" in markdown.page(one) and "embed_int7: for these weights" in shown(one)


def test_free_levers_are_marked_and_explained(staged_verdict: dict[str, Any]) -> None:
    text = page.page(staged_verdict)
    verdict_rows = text[text.index('id="verdict"') : text.index('id="forest"')]
    assert verdict_rows.count(">free</span>") == 2  # hadamard and embed_int7; clip_wide costs nothing and is worse
    beside = text[text.index("Beside the reference") : text.index("Time and memory of every stage")]
    assert beside.count(">free</span>") == 3 and "within 5%" in beside
    for part in ("\u2212505,188 B", "1.14\u00d7", "1.09\u00d7"):
        assert part in beside, part
    assert "free: no more bytes" in shown(staged_verdict)
    staged_verdict["arms"][1]["cost_against"]["free"] = None
    assert "unknown" in said(page.page(staged_verdict))


def test_limits_say_by_how_much_in_decimal_bytes(staged_verdict: dict[str, Any]) -> None:
    over = "bytes of the artifact 16,114,295 is 114,295 over the limit of 16,000,000"
    text = page.page(staged_verdict)
    for part in (f"cannot win: {over}", "8,070 B under 16,000,000", "114,295 B over 16,000,000", "12 s under 600"):
        assert part in said(text), part
        assert part in markdown.page(staged_verdict), part
    assert ">over the limit</span>" in text
    assert f"qat: cannot win: {over}" in shown(staged_verdict)
    assert re.search(r"qat +\| worse, over \|", shown(staged_verdict))


def test_a_stage_that_diverged_shows_no_number(staged_verdict: dict[str, Any]) -> None:
    text = page.page(staged_verdict)
    assert text.count('class="chip w-unstable"') == 1
    row = next(
        line for line in markdown.page(staged_verdict).splitlines() if line.startswith("| `qat`") and "level" in line
    )
    assert row.count("level") == 3 and "**unstable**<br>diverged at seeds 0, 1, 2" in row


def test_artifacts_show_parts_prediction_and_a_folded_table(staged_verdict: dict[str, Any]) -> None:
    text = page.page(staged_verdict)
    plain = said(text)
    for part in (
        "15,975,300 + 16,630",
        "15,989,020 to 15,995,134 over 3 seeds",
        "66 \u00d7 gptq int6",
        "<b>1.073</b>",
        "measured 1.073 of the predicted size",
        "2 of 3 tensors rotated",
    ):
        assert part in (text if part.startswith("<") else plain), part
    folded = text[text.index("<details>") : text.index("</details>")]
    assert "Hadamard rotation: post_quant, hadamard: 3 tensors" in folded
    assert (
        "kurtosis" in folded and "mse int5" in folded and "mse int8" in folded and "3.41<small>3.02</small>" in folded
    )
    assert "<details" not in page.page(staged_verdict | {"artifacts": {}})


def test_costs_of_stages_are_shown(staged_verdict: dict[str, Any]) -> None:
    text = said(page.page(staged_verdict))
    assert "31.5 s pack 12.4 s, check 6 s, evaluate 25.3 s peak 1.90 GB" in text
    assert "peak 2.08 GB" in text


def test_one_page_says_where_tokens_were_trained_and_scored(staged_verdict: dict[str, Any]) -> None:
    text = said(page.page(staged_verdict))
    inverted = (
        "sliding, ttt (long_rows): 99.7% of the scored tokens stand at positions 2,048 to 4,095; 99.7% at positions that were "
        "trained 0 times (nothing beyond 2,047 was)."
    )
    even = (
        "pre_quant, post_quant (every arm): 50.0% of the scored tokens stand at positions 1,024 to 2,047; each at a position "
        "trained at least a tenth as often as the most trained."
    )
    for part in (inverted, even, "times trained: every arm", "1.66M"):
        assert part in text and part in markdown.page(staged_verdict).replace("\\", ""), part
    refuted = said(page.page(staged.verdict(long_training=True)))
    assert "trained 0 times" not in refuted
    assert (
        "scored tokens stand at positions 2,048 to 4,095; each at a position trained at least a tenth as often as the most "
        "trained." in refuted
    )


def test_what_is_said_of_positions_holds_for_every_arm_at_every_stage_named() -> None:
    short, long = ([0.0, 64.0, 128.0], [1.0, 1.0]), ([0.0, 128.0, 256.0], [1.0, 9.0])
    bands = {"sliding": {"a": short, "b": short, "longer": long}, "twice": {"a": long, "b": long, "longer": long}}
    read = {
        s: {n: {"edges": e, "tokens": t, "nats_per_token": [1.0] * len(t), "seeds": [0]} for n, (e, t) in arms.items()}
        for s, arms in bands.items()
    }
    named = [staged.arm(name) for name in ("a", "b", "longer")]
    found = depth.groups(View(staged.empty() | {"arms": named, "bands": read}))
    assert [(group.stages, group.arms) for group in found] == [
        (("sliding",), ("a", "b")),
        (("sliding", "twice"), ("longer",)),
        (("twice",), ("a", "b")),
    ]


def test_shares_of_scored_tokens_are_exact_where_bands_differ() -> None:
    trained = ([0.0, 100.0, 200.0, 300.0], [1000.0, 50.0, 0.0])
    group = depth.SamePositions(("s",), ("a",), ([0.0, 150.0, 250.0], [60.0, 40.0]), trained)
    never, rarely = depth.shares(group)
    assert (never, rarely) == (pytest.approx(0.2), pytest.approx(0.2 + 0.2))
    edges, scored, met = depth.joined(group.scored, trained)
    assert edges == [0.0, 100.0, 150.0, 200.0, 250.0, 300.0]
    assert scored == pytest.approx([40.0, 20.0, 20.0, 20.0, 0.0]) and met == pytest.approx(
        [1000.0, 25.0, 25.0, 0.0, 0.0]
    )


def test_every_stage_has_its_curve_also_where_windows_differ(staged_verdict: dict[str, Any]) -> None:
    text = page.page(staged_verdict)
    for stage in staged.STAGES:
        assert f"Nats per token by position at stage {stage} for" in text
        assert f"## Loss by position: {stage}" in markdown.page(staged_verdict).replace("\\", "")
    drawn = text[text.index("Difference to the reference by position at stage sliding") :]
    assert "long_rows" in drawn[: drawn.index("</svg>")]  # in the bands that both lengths have


def test_recall_and_context_gain_stand_beside_the_probe(staged_verdict: dict[str, Any]) -> None:
    text = page.page(staged_verdict)
    for part in ("Natural recall: baseline 1.21 at best", "Context gain:", "beside 128 tokens of it"):
        assert part in text, part
    for probe in staged_verdict["needle"].values():
        del probe["natural"]
    again = page.page(staged_verdict)
    assert "Context gain: baseline" in again and "Natural recall: baseline" not in again


def test_the_terminal_says_how_every_arm_stands_at_every_stage(staged_verdict: dict[str, Any]) -> None:
    text = shown(staged_verdict)
    assert "long_rows: pre_quant -0.0123, post_quant -0.0128, sliding +0.0092, ttt +0.0098" in text
    assert "qat: pre_quant +0.0232, post_quant +0.0161, sliding +0.0161, ttt unstable" in text


@pytest.mark.parametrize("key", ["positions", "artifacts", "bands"])
def test_tables_by_stage_and_arm_are_of_these(staged_verdict: dict[str, Any], key: str) -> None:
    everything(staged_verdict | {key: {}})
    for odd in (None, {"x": None}):
        with pytest.raises(CheckFailed, match=f"verdict.json: holds .* for {key}"):
            View(staged_verdict | {key: odd})


def what_it_takes(**row: Any) -> str:
    arms = [staged.arm("baseline", None, "baseline"), staged.arm("a", **row)]
    ((_, _, said),) = prose.what_would_change(View(staged.empty() | {"arms": arms}), words.Style())
    return said


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"notes": ["not promoted", "noise unknown"], "fresh": True, "more_seeds": 3},
            "The noise is unknown: its probe chose, and measured no spread. 3 fresh seeds would measure it",
        ),
        (
            {"notes": ["noise unknown"], "fresh": True, "more_seeds": 3},
            "The noise is unknown: one pair has no spread. 3 fresh seeds would measure it",
        ),
        ({"notes": ["probe not finished"], "more_seeds": 1}, "1 more seed would end its probe, which only chooses the"),
        (
            {"more_seeds": 5, "chance": 0.31},
            "5 more seeds are left in the plan; the chance that its last look settles it is 31%",
        ),
    ],
)
def test_no_number_of_seeds_is_said_to_settle_what_it_may_not(row: dict[str, Any], said: str) -> None:
    found = what_it_takes(word="inconclusive", delta=-0.1, **row)
    assert said in found and "power" not in found


def test_seeds_that_would_settle_an_arm_are_said_with_their_power() -> None:
    found = what_it_takes(word="inconclusive", delta=-0.1, more_seeds=2, chance=0.93)
    assert "About 2 more seeds would settle it with power 0.8. The chance that the last planned look" in found
    fresh = what_it_takes(word="inconclusive", delta=-0.1, more_seeds=9, fresh=True, chance=0.02)
    assert "About 9 fresh seeds in a new study (the error probability of this one is spent) would settle it" in fresh


def test_no_word_for_new_text_is_drawn_from_a_handful_of_documents() -> None:
    row = {"word": "better", "low": -0.3, "high": -0.2, "delta": -0.25, "low_text": -0.4, "high_text": -0.1}
    few = "no word over documents: one document is 57% of the text; 18 count as 2.8, 20 are needed"
    assert "It also holds for new text of this kind." in what_it_takes(**row, text_documents=44.0)
    found = what_it_takes(**row, text_documents=2.8, text_said=few)
    assert f"For new text of this kind: {few}." in found and "also holds" not in found
