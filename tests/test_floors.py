"""The walls of the house: a file imports only from floors below it, and stays small."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "ablab"
LEVERS = (
    "losses",
    "positions",
    "projections",
    "softmaxes",
    "mlps",
    "routers",
    "gates",
    "values",
    "temperatures",
    "residuals",
    "embeddings",
    "blocks",
    "skips",
    "optimizers",
    "schedules",
    "tokenizers",
    "codecs",
    "qats",
)
FLOORS = {
    0: (
        "fault",
        "files",
        "chain",
        "places",
        "making",
        "plain",
        "differences",
        "streams",
        "lock",
        "signals",
        "rng",
        "shape",
        "slot",
        "linear",
        "norm",
        "rotation",
        "columns",
        "orthogonal",
        "activations",
        "grouped",
        "routing",
        "roles",
        "matrices",
        "table",
        "vocabulary",
        "pieces",
        "spans",
        "capitals",
        "packed",
        "bits",
        "row_order",
        "layout",
        "container",
        "script",
        "rounding",
        "bands",
        "kinds",
        "strange",
        "patterns",
        "strict_json",
        "grid",
        "shareable",
        "provenance",
        "safe_path",
        "opened",
        "forms",
        "store_forms",
    ),
    1: LEVERS,
    2: (
        "attend",
        "attention",
        "cross_entropy",
        "layer",
        "model",
        "size",
        "cache",
        "decode",
        "data",
        "harmony",
        "scores",
    ),
    3: (
        "train",
        "audit",
        "learner",
        "compiled",
        "stability",
        "source",
        "changed",
        "checkpoint",
        "metrics",
        "mirrors",
        "machine",
        "stage",
        "artifact",
        "packing",
        "adopt",
        "compressors",
        "evaluators",
        "verdict",
    ),
    4: (
        "rules",
        "study",
        "contents",
        "corpora",
        "planned",
        "plan",
        "jobs",
        "cost",
        "price",
        "timing",
        "bank",
        "firsts",
        "links",
        "recipe",
        "history",
        "guarded",
        "panels",
        "shelf",
        "sources",
        "store",
        "launch",
        "judge",
        "miniature",
        "shrink",
        "inert",
        "full_size",
        "levers",
        "bundle",
        "retrain",
    ),
    5: (
        "bridges",
        "check",
        "report",
        "progress",
        "sample",
        "mirror_command",
        "data_commands",
        "auditor",
        "bundle_commands",
        "cli",
    ),
}
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names}
FILES = sorted(p for p in SOURCE.rglob("*.py") if p != SOURCE / "__init__.py")
FORBIDDEN_NAMES = {"utils", "util", "common", "base", "manager", "helpers", "config", "args"}


def room(path: Path) -> str:
    """The room a file lies in: its folder below ablab, or its own name."""
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Full names of everything of ours that a file imports, at the top or late, type-checking imports aside."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "ablab":
                found |= {f"ablab.{alias.name}" for alias in node.names}
            elif node.module and node.module.startswith("ablab."):
                found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("ablab.")}
    return found - {"ablab.__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_down(path: Path) -> None:
    here = room(path)
    assert here in FLOOR, f"{here} has no floor: give it one in this test"
    for name in imports(path):
        target = name.split(".")[1]
        assert target in FLOOR, f"{path.name} imports {name}, which has no floor"
        assert FLOOR[target] < FLOOR[here] or target == here or FLOOR[target] == FLOOR[here] != 1, (
            f"{path.relative_to(SOURCE)} (floor {FLOOR[here]}) imports {name} (floor {FLOOR[target]})"
        )


def test_no_two_rooms_need_each_other() -> None:
    needs: dict[str, set[str]] = {}
    for path in FILES:
        needs.setdefault(room(path), set()).update(name.split(".")[1] for name in imports(path))
    for here in needs:
        reached, front = set(), needs[here] - {here}
        while front:
            reached |= front
            front = {far for near in front for far in needs.get(near, set()) - {near}} - reached
        assert here not in reached, f"{here} needs itself by a circle"


@pytest.mark.parametrize("folder", LEVERS)
def test_levers_do_not_know_each_other(folder: str) -> None:
    for path in (SOURCE / folder).glob("*.py"):
        if path.stem != "__init__":
            assert all(FLOOR[name.split(".")[1]] == 0 for name in imports(path)), path


def test_the_verdict_knows_no_torch_and_nothing_of_ours() -> None:
    for path in (SOURCE / "verdict").glob("*.py"):
        assert "torch" not in path.read_text(encoding="utf-8")
        assert all(name.startswith("ablab.verdict") for name in imports(path))


def test_the_model_knows_no_lever_by_name() -> None:
    from ablab import mlps, positions, projections, softmaxes

    tree = ast.parse((SOURCE / "model.py").read_text(encoding="utf-8"))
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for slot in (positions.slot, projections.slot, softmaxes.slot, mlps.slot):
        assert not words & set(slot.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_and_functions_stay_small(path: Path) -> None:
    relative = path.relative_to(SOURCE)
    assert len(relative.parts) <= 2, "at most one folder below ablab"
    assert not {part.removesuffix(".py").lower() for part in relative.parts} & FORBIDDEN_NAMES
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400, f"{relative} has {text.count(chr(10))} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= 60, f"{relative}: {node.name} has {length} lines"


def test_from_study_to_verdict_in_under_ten_files() -> None:
    """The way a reader walks, file by file."""
    way = ["cli", "study/load", "plan", "launch/work", "train", "model", "stage", "judge", "verdict/__init__"]
    assert len(way) < 10 and all((SOURCE / f"{step}.py").exists() for step in way)
