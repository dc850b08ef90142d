"""`ablab judge`: logs, tables and arms from the command to an answer; its exit codes, widths and Markdown."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from tests import logged

from ablab.cli import main as cli

WIDTHS = (60, 80, 120)
TABLE = """| name | val_bpb | delta |
|---|---|---|
| base | 1.0700 | - |
| a | 1.0710 | +0.0010 |
| base6 | 1.0850 | - |
| b | 1.0870 | +0.0020 |
| c | 1.0880 | +0.0030 |
"""


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two folders of three logs each, whose arms differ in one setting, and a table of three arms."""
    for name, wd, scores in (
        ("ours", "0.090", ("1.0790", "1.0794", "1.0787")),
        ("theirs", "0.095", ("1.0830", "1.0833", "1.0824")),
    ):
        (tmp_path / name).mkdir()
        for seed, score in enumerate(scores, 1):
            nats = f"{float(score + '03103') / 0.38713116:.8f}"
            text = logged.golf(seed, wd=wd).replace(
                "val_loss:2.79241542 val_bpb:1.08103103", f"val_loss:{nats} val_bpb:{score}3103"
            )
            (tmp_path / name / f"train_seed{seed}.log").write_text(text)
    rows = [
        f"{arm},{seed},{1.08 + mean + seed * seed / 5000:.5f}"
        for arm, mean in (("base", 0.0), ("wide", -0.004), ("deep", 0.006))
        for seed in (1, 2, 3)
    ]
    (tmp_path / "runs.csv").write_text("\n".join(["arm,seed,val_bpb", *rows]) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


Called = tuple[int, str, str]


def called(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> Called:
    monkeypatch.setattr(sys, "argv", ["ablab", "judge", *words])
    code: object = 0
    try:
        cli.main()
    except SystemExit as ended:
        code = ended.code
    out, err = capsys.readouterr()
    return int(str(code or 0)), out, err


def answers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> list[dict[str, Any]]:
    code, out, err = called(capsys, monkeypatch, *words, "--json")
    assert (code, err) in ((0, ""), (4, ""))
    found: list[dict[str, Any]] = json.loads(out, parse_constant=pytest.fail)["comparisons"]
    return found


def test_two_folders(logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    [answer] = answers(
        capsys, monkeypatch, "ours", "--against", "theirs", "--preset", "golf-strict", "--preset", "track3"
    )
    assert answer["word"] == "better" and answer["levers"]["said"] == "one lever: muon_wd 0.095 -> 0.090"
    assert (answer["x"]["name"], answer["y"]["name"], answer["x"]["n"]) == ("ours", "theirs", 3)
    assert [rule["rule"] for rule in answer["rules"]] == ["golf-strict", "track3"] and answer["rules"][0]["record"]
    assert answer["x"]["runs"][0]["label"] == "quantized_ttt" and answer["x"]["runs"][0]["line"] > 20
    assert answer["settle"]["said"].endswith("so many are there")
    code, out, _ = called(capsys, monkeypatch, "ours", "--against", "theirs", "--stage", "sliding")
    assert code == 4 and out.startswith("not comparable: one run"), "these logs' sliding scores are all one number"


def test_what_a_shell_makes_of_a_pattern_belongs_together(
    logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = ([str(path) for path in sorted((logs / name).iterdir())] for name in ("ours", "theirs"))
    [answer] = answers(capsys, monkeypatch, *ours, "--against", *theirs, "--stage", "ttt")
    assert (answer["unpaired"]["nx"], answer["unpaired"]["ny"], answer["word"]) == (3, 3, "better")
    [answer] = answers(capsys, monkeypatch, "--against", *theirs[:2], "--against", theirs[2], "--stage", "ttt", *ours)
    assert (answer["unpaired"]["nx"], answer["unpaired"]["ny"]) == (3, 3)
    [answer] = answers(capsys, monkeypatch, "ours", "--against=theirs")
    assert answer["unpaired"]["ny"] == 3
    code, _, err = called(capsys, monkeypatch, "ours", "--against")
    assert code == 2 and "--against" in err


def test_a_folder_against_itself_is_not_comparable(
    logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = called(capsys, monkeypatch, "ours", "--against", "ours/*1.log")
    assert code == 4 and out.startswith("not comparable: one run stands on both sides")


def test_equal_settings_under_two_names(
    logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (logs / "ours").iterdir():
        path.write_text(path.read_text().replace("muon_wd: 0.090", "muon_wd: 0.095"))
    code, out, _ = called(capsys, monkeypatch, "ours", "--against", "theirs")
    assert code == 0 and out.startswith("same settings: 0 of ")


def test_the_arms_of_a_table_share_the_error(
    logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = answers(capsys, monkeypatch, "runs.csv", "--against", "base")
    assert {one["x"]["name"]: one["word"] for one in found} == {"wide": "better", "deep": "worse"}
    assert {one["unpaired"]["m"] for one in found} == {2} and {one["y"]["name"] for one in found} == {"base"}
    assert answers(capsys, monkeypatch, "runs.csv") == found, "the one that is called a baseline is the reference"
    (logs / "runs.csv").write_text((logs / "runs.csv").read_text().replace("base", "old"))
    code, out, err = called(capsys, monkeypatch, "runs.csv")
    assert code == 0 and "old" in out and "3 arms are there, and none is called a baseline" in err
    [cure] = re.findall(r"name the reference, as --against (\w+)", err)
    assert answers(capsys, monkeypatch, "runs.csv", "--against", cure)[0]["unpaired"]["ny"] == 3


def test_a_folder_alone_is_sorted_into_arms_by_settings_and_code(
    logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (logs / "runs.csv").unlink()
    [answer] = answers(capsys, monkeypatch, ".")
    assert (answer["x"]["name"], answer["y"]["name"], answer["word"]) == ("theirs", "ours", "worse")
    assert "reference is ours, the first of two arms" in [f["said"] for f in answer["flags"]][-1]
    [turned] = answers(capsys, monkeypatch, ".", "--against", "theirs")
    assert (turned["x"]["name"], turned["word"], turned["unpaired"]["delta"]) == (
        "ours",
        "better",
        -answer["unpaired"]["delta"],
    )
    (logs / "theirs").rename(logs / "baseline")
    [answer] = answers(capsys, monkeypatch, ".")
    assert (answer["x"]["name"], answer["y"]["name"], answer["word"]) == ("ours", "baseline", "better")


def test_equal_settings_in_two_folders_are_one_arm(
    logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (logs / "ours").iterdir():
        path.write_text(path.read_text().replace("muon_wd: 0.090", "muon_wd: 0.095"))
    [answer] = answers(capsys, monkeypatch, "ours", "theirs")
    assert answer["y"] is None and len(answer["x"]["runs"]) == 6
    assert "one_arm_of_folders" in [flag["kind"] for flag in answer["flags"]]


def test_seeds_of_one_name_are_one_arm_whose_settings_are_flagged(
    logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    last = logs / "ours" / "train_seed3.log"
    last.write_text(last.read_text().replace("muon_wd: 0.090", "muon_wd: 0.095"))
    [answer] = answers(capsys, monkeypatch, "ours")
    assert answer["x"]["n"] == 3 and "settings_differ_between_seeds" in [flag["kind"] for flag in answer["flags"]]
    other = logs / "ours" / "train_seed4.log"
    other.write_text(last.read_text().replace("seed: 3", "seed: 4").replace("1.0787", "1.0788"))
    [answer] = answers(capsys, monkeypatch, "ours")
    assert (answer["unpaired"]["nx"], answer["unpaired"]["ny"]) == (2, 2), "two and two are a comparison"


def test_of_many_arms_alone_there_is_a_line_each(
    logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [f"{arm},{seed},{1.08 + seed / 1000}" for arm in "abcd" for seed in (1, 2)]
    (logs / "runs.csv").write_text("\n".join(["arm,seed,val_bpb", *rows]) + "\n")
    _, out, _ = called(capsys, monkeypatch, "runs.csv")
    assert out.splitlines()[0] == "4 arms, none of them held against another" and len(out.splitlines()) == 6


@pytest.mark.parametrize("words", [("none*.log",), ("ours", "--against", "none"), ("notes.txt",)])
def test_nothing_read_is_2(
    words: tuple[str, ...], logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (logs / "notes.txt").write_text("nothing of interest\n")
    for more in ((), ("--json",)):
        code, out, err = called(capsys, monkeypatch, *words, *more)
        assert (code, out) == (2, "") and "no run was read" in err and words[-1] in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--preset", "speed"), "no rule is called 'speed'"),
        (("--metric", "ppl"), "'ppl' is no metric"),
        (("--matters", "-1"), "is no finite number above 0"),
        (("--comment", "--json"), "two outputs"),
    ],
)
def test_words_that_mean_nothing_are_usage_errors(
    words: tuple[str, ...], said: str, logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = called(capsys, monkeypatch, "ours", "--against", "theirs", *words)
    assert (code, out) == (2, "") and said in err


def test_the_page_is_written_beside_any_output_and_names_no_folder_of_the_machine(
    logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = logs / "pages" / "one.html"
    page.parent.mkdir()
    [answer] = answers(capsys, monkeypatch, str(logs / "ours"), "--against", "theirs", "--html", str(page))
    text = page.read_text(encoding="utf-8")
    assert answer["sentence"].split(",")[0] in text and str(logs) not in text and "train_seed1.log" in text
    for place in ("runs.csv", "ours", "/dev/full", ""):
        before = (logs / "runs.csv").read_bytes()
        code, _, err = called(capsys, monkeypatch, "ours", "--html", place)
        assert code == 4 and "is there already, and is no page; give the name of a new file" in " ".join(err.split())
        assert (logs / "runs.csv").read_bytes() == before and not Path("/dev/full").is_file()
    assert called(capsys, monkeypatch, str(logs / "ours"), "--against", "theirs", "--html", str(page))[0] == 0
    code, _, err = called(capsys, monkeypatch, "ours", "--html", "runs.csv/one.html")
    assert code == 4 and "runs.csv" in err and "choose another --html" in " ".join(err.split())


def test_a_stage_that_is_nowhere_is_said_to_be(
    logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in (("ours", "--against", "theirs"), ("ours",)):
        code, out, _ = called(capsys, monkeypatch, *words, "--stage", "foo")
        said = "not comparable: x: no run has a score at 'foo'; there is ttt"
        assert code == 4 and " ".join(out.split()).startswith(said.partition(";")[0]) and "there is" in out


def test_a_claim_may_be_text_or_a_file(
    logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (logs / "submission.json").write_text(json.dumps({"val_bpb": 1.07873103, "name": "x"}))
    asked = ("ours", "--against", "theirs", "--claim")
    [answer] = answers(capsys, monkeypatch, *asked, "submission.json")
    [one] = answer["claims"]
    assert one["match"].startswith("one run of x (seed 3)") and re.fullmatch(r".*train_seed3.log:\d+", one["where"])
    _, out, _ = called(capsys, monkeypatch, *asked, "a gain of 0.0039 nats")
    assert "0.0039 is called nats and is the difference of the means, in bits per byte" in " ".join(out.split())
    code, _, err = called(capsys, monkeypatch, *asked, "elsewhere.json")
    assert code == 4 and "names no file" in err
    code, _, err = called(capsys, monkeypatch, *asked, "missing.md")
    assert code == 4 and "--claim missing.md: names no file" in " ".join(err.split())
    code, _, err = called(capsys, monkeypatch, *asked, "much better than theirs")
    assert code == 0 and "states no number that could be held to these runs" in " ".join(err.split())


def test_a_claim_without_logs_ends_with_2_and_its_arithmetic_is_named(
    logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (logs / "claim").mkdir()
    (logs / "claim" / "README.md").write_text(TABLE)
    (logs / "claim" / "submission.json").write_text(
        json.dumps({"author": "x", "seed_results": {"1": {"val_bpb": 1.08}}})
    )
    for claim in ("claim", "claim/README.md"):
        code, out, err = called(capsys, monkeypatch, "claim", "--claim", claim)
        assert code == 2 and out.startswith("nothing to judge: no runs were read") and "the claim's own page" in err
        assert "switches: of row 2 against row 1; of rows 4, 5 against row 3" in " ".join(out.split())
    code, out, _ = called(capsys, monkeypatch, "claim", "--claim", "claim", "--json")
    [answer] = json.loads(out)["comparisons"]
    assert code == 2 and answer["word"] == "no logs" and "claim_reference" in {f["kind"] for f in answer["flags"]}
    code, out, _ = called(capsys, monkeypatch, "claim/submission.json", "--claim", "claim/README.md", "--json")
    assert code == 0 and json.loads(out)["comparisons"][0]["x"]["mean"] == 1.08, "named itself it is judged"
    code, _, err = called(capsys, monkeypatch, "claim", "--claim", "ours")
    assert code == 4 and "holds none of README.md, submission.json" in err


def test_the_claimed_number_chooses_the_stage(
    logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    [answer] = answers(capsys, monkeypatch, "ours", "--claim", "val_bpb 1.09946892")
    assert answer["x"]["stage"] == "quant" and answer["claims"][0]["match"].startswith("the mean of all")
    assert next(f["said"] for f in answer["flags"] if f["kind"] == "stage_claimed").startswith(
        "x is judged at quant: 1.0994"
    )
    for claim in ("1.0790 then 1.09946892", "a gain of 0.004"):
        [answer] = answers(capsys, monkeypatch, "ours", "--claim", claim)
        assert answer["x"]["stage"] == "ttt", "the stage that is taken anyway stands in the claim, or nothing does"
    [answer] = answers(capsys, monkeypatch, "ours", "--claim", "1.09946892", "--stage", "ttt")
    assert answer["x"]["stage"] == "ttt"
    (logs / "submission.json").write_text(json.dumps({"val_bpb": 1.09946892, "ttt": {"val_bpb": 1.07903103}}))
    [answer] = answers(capsys, monkeypatch, "ours", "--against", "theirs", "--claim", "submission.json")
    assert (answer["x"]["stage"], answer["y"]["stage"]) == ("quant", "quant"), "its headline decides"


def test_a_page_that_tells_of_logs_does_not_count_beside_them(
    logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = "| arm | seed | val_bpb |\n|---|---|---|\n| ours | 1 | 1.0790 |\n| old | 1 | 1.0999 |\n"
    (logs / "ours" / "README.md").write_text(page)
    [answer] = answers(capsys, monkeypatch, "ours", "--against", "theirs")
    assert answer["unpaired"]["m"] == 1 and answer["x"]["n"] == 3
    assert (
        "README.md: tells of 2 runs beside the logs, 1 of them with a score that is in no other file, and does not count"
        in called(capsys, monkeypatch, "ours", "--against", "theirs")[2]
    )
    assert len(answers(capsys, monkeypatch, "ours", "ours/README.md", "--against", "theirs")) == 3
    assert len(answers(capsys, monkeypatch, "ours/README.md", "--against", "theirs")) == 2


def test_an_earlier_checkpoint_is_no_run(
    logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    last = logged.SAMPLES["olmo"]
    for step in (1000, 500):
        (logs / f"metrics_step{step}.json").write_bytes(
            last.data.replace(b"1.2031", b"1.2031" if step == 1000 else b"1.9")
        )
    [answer] = answers(capsys, monkeypatch, "metrics_*.json")
    assert answer["x"]["n"] == 1 and answer["x"]["mean"] == pytest.approx(1.2031)


def test_a_list_of_losses_counts_beside_its_one_log(
    logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (logs / "README.md").write_text("Ours:\n\nlosses = [3.2775, 3.2776, 3.2779, 3.278]\n")
    (logs / "one.log").write_text((logs / "ours" / "train_seed1.log").read_text())
    code, out, _ = called(capsys, monkeypatch, "README.md", "one.log", "--preset", "speedrun:3.28")
    assert code == 0 and "4 independent runs" in out and "1 independent run" in out, "both are named"
    _, out, _ = called(capsys, monkeypatch, "*.*g", "*.md", "--preset", "speedrun:3.28", "--json")
    [answer] = json.loads(out)["comparisons"]
    assert answer["x"]["n"] == 4 and answer["rules"][0]["record"] and "one.log" in json.loads(out)["faults"][0]


def test_odd_files_are_named_beside_the_answer(
    logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        (logs / "ours" / f"strange{number}.log").write_text("nothing\n")
    named = [str(path) for path in sorted((logs / "ours").iterdir())]
    code, out, err = called(capsys, monkeypatch, *named, "--against", "theirs")
    assert code == 0 and out.startswith("better") and err.count("strange") == 5 and "and 3 more" in err


def test_the_comment_is_markdown_in_which_nothing_of_a_stranger_lives(
    logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = logs / "ours" / "train_seed9_@team#12|<b>.log"
    odd.write_text(
        (logs / "ours" / "train_seed1.log").read_text().replace("seed: 1", "seed: 9").replace("1.0790", "1.0799")
    )
    _, out, _ = called(
        capsys, monkeypatch, "ours", "--against", "theirs", "--comment", "--claim", "![x](http://a.b) 1.0799 bpb @you"
    )
    assert out.startswith("**better, by at least") and "| x | " in out and "Levers:\n- one lever: muon_wd" in out
    assert "@" not in out and "#12" not in out and "<b>" not in out and "http://" not in out
    table = [line for line in out.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "words",
    [
        ("ours", "--against", "theirs", "--preset", "golf-frontier", "--claim", "1.0790 bpb, p < 0.05"),
        ("runs.csv",),
        ("many.csv",),
    ],
    ids=("folders", "table", "many"),
)
def test_it_fits(
    words: tuple[str, ...], width: int, logs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [f"arm-{arm}-of-some-length,{seed},{1.08 + seed / 1000}" for arm in "abcd" for seed in (1, 1, 2)]
    (logs / "many.csv").write_text("\n".join(["arm,seed,val_bpb", *rows]) + "\n")
    monkeypatch.setenv("COLUMNS", str(width))
    _, out, _ = called(capsys, monkeypatch, *words)
    assert max(map(len, out.splitlines())) <= width
    monkeypatch.setenv("COLUMNS", "1000")
    whole = set(called(capsys, monkeypatch, *words)[1].split())
    pieces = "".join(out.split())
    assert all(word in pieces for word in whole)
