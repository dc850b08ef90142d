"""The walls of the house: a file imports only from rooms before its own, and stays small."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from ablab.cli.main import app
from ablab.core.lever import Lever
from ablab.core.slot import Slot
from ablab.judging.logs.formats import FORMATS
from ablab.study.keys import SLOTS

TESTS = Path(__file__).resolve().parent
SOURCE = TESTS.parent / "src" / "ablab"
# Rooms from the ground up. A file imports from its own room and from those of tiers before it, never from a sibling's.
TIERS = (
    ("core",),
    ("records", "verdict", "report", "runtime"),
    ("data", "model"),
    ("artifact", "training"),
    ("scoring",),
    ("study",),
    ("runs",),
    ("judging",),
    ("check", "bridges"),
    ("launch",),
    ("cli",),
)
SIBLINGS = {("report", "records"), ("runtime", "records")}  # what crosses a border is a record
TIER = {room: tier for tier, rooms in enumerate(TIERS) for room in rooms}
# Folders of levers, each below the noun that it varies: a lever knows no lever of another folder.
LEVERS = {
    "model": ("blocks", "embeddings", "gates", "mlps", "positions", "projections", "residuals", "routers", "skips",
              "softmaxes", "temperatures", "values"),
    "training": ("losses", "optimizers", "qats", "schedules"),
    "data": ("tokenizers",),
    "artifact": ("codecs", "compressors"),
    "scoring": ("evaluators",),
}  # fmt: skip
# What a lever may import besides core and its own folder. Compressors calibrate on a model and its text, and evaluators score a
# model on a text (some train on it first): they stand above the decoder and the corpus, and need them whole.
KNOWN = {
    "model": ("model.parts", "model.shape"),
    "training": ("training.matrices", "training.orthogonal", "training.roles", "data.spans", "model.parts.rounding"),
    "data": ("data.pieces", "data.capitals", "data.vocabulary"),
    "artifact": ("artifact.arrays", "artifact.layout", "artifact.container", "records", "model", "data.corpus"),
    "scoring": ("scoring", "records", "runtime.machine", "model", "data", "training.roles"),
}
# How docstrings of functions may open: what is done, in the imperative. A new verb is one more word here.
OPENINGS = """
    Add Aggregate Append Apply Ask Assemble Attend Average Begin Bind Blend Break Bring Build Cap Cast Change Check
    Choose Clean Collect Compare Compile Compress Compute Continue Convert Copy Count Cut Decide Declare Decode
    Decompress Describe Divide Do Draft Draw Drop Encode End Enter Escape Estimate Exchange Expand Explain Export
    Extrapolate Factor Fill Find Flag Flatten Gate Give Group Guard Hand Hash Have Hear Hide Hold Identify Import
    Install Join Judge Keep Kill Label Lay Learn Lease Leave Let List Live Load Locate Look Make Map Mark Mask Measure
    Move Multiply Name Note Number Offer Open Order Owe Pack Pair Parse Place Plan Pool Predict Prepare Price Print
    Project Put Raise Read Recognise Record Refuse Remember Remove Render Repeat Replay Resolve Restore Return Rotate
    Round Run Say Scale Score See Send Set Share Show Shrink Sort Spell Split Start Step Store Strip Sum Take Tell Time
    Train Try Turn Unpack Update Use Validate Verify View Wait Wake Warn Widen Withhold Word Wrap Write Yield
"""
VERBS = set(OPENINGS.split())
DOORS = ("__init__.py", "__main__.py")  # what is imported of the package itself, and what is run
FILES = sorted(p for p in SOURCE.rglob("*.py") if p.relative_to(SOURCE).as_posix() not in DOORS)
FORBIDDEN_NAMES = {"utils", "util", "common", "base", "manager", "helpers", "config", "args"}


def room(path: Path) -> str:
    """The room that a file lies in."""
    return path.relative_to(SOURCE).parts[0]


def imports(path: Path) -> set[str]:
    """Full names of all modules of ours that a file imports: at the top, late, or for type checking."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module and (node.module == "ablab" or node.module.startswith("ablab.")):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("ablab.")}
    return found - {"ablab.__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_down(path: Path) -> None:
    here = room(path)
    for name in imports(path):
        there = name.split(".")[1]
        assert there == here or TIER[there] < TIER[here] or (here, there) in SIBLINGS, (
            f"{path.relative_to(SOURCE)} imports {name}"
        )


def test_every_entry_is_a_room_and_there_are_few() -> None:
    entries = {path.name for path in SOURCE.iterdir() if path.name != "__pycache__"}
    assert entries == {*TIER, *DOORS, "py.typed"} and len(entries) <= 20


@pytest.mark.parametrize(("room", "slot"), [(room, slot) for room, slots in LEVERS.items() for slot in slots])
def test_levers_do_not_know_each_other(room: str, slot: str) -> None:
    """Not those of other slots, and of the rest of the house only core and what its room's levers stand on."""
    own = (f"{room}.{slot}", "core", *KNOWN[room])
    others = {f"ablab.{there}.{one}" for there, slots in LEVERS.items() for one in slots} - {f"ablab.{room}.{slot}"}
    for path in (SOURCE / room / slot).rglob("*.py"):
        for name in imports(path):
            assert ".".join(name.split(".")[:3]) not in others, f"{path.relative_to(SOURCE)}: {name}"
            assert any(f"{name}.".startswith(f"ablab.{one}.") for one in own), f"{path.relative_to(SOURCE)}: {name}"


def test_the_verdict_knows_no_torch_and_nothing_of_ours() -> None:
    for path in (SOURCE / "verdict").glob("*.py"):
        assert "torch" not in path.read_text(encoding="utf-8")
        assert all(name.startswith("ablab.verdict") for name in imports(path))


def test_core_imports_no_torch() -> None:
    code = f"import sys, {', '.join(f'ablab.core.{path.stem}' for path in (SOURCE / 'core').glob('[a-z]*.py'))}"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'torch' not in sys.modules"], check=True)


def test_no_module_needs_itself() -> None:
    """Late imports and those for type checking counted: a circle that hides is one, too."""
    names = {".".join(path.relative_to(SOURCE.parent).with_suffix("").parts): path for path in [*FILES]}
    modules = {name.removesuffix(".__init__"): path for name, path in names.items()}
    needs = {
        name: {full if full in modules else full.rpartition(".")[0] for full in imports(path)} & modules.keys() - {name}
        for name, path in modules.items()
    }
    assert circles(needs) == []


def circles(needs: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one module."""
    reached = {name: set(near) for name, near in needs.items()}
    for _ in needs:
        grown = {name: near.union(*(reached[one] for one in near)) for name, near in reached.items()}
        if grown == reached:
            break
        reached = grown
    found = {tuple(sorted(b for b in reached[a] if a in reached[b])) for a in reached if a in reached[a]}
    return [list(one) for one in sorted(found)]


def test_numbers_that_verdict_and_report_both_need_are_the_same() -> None:
    from ablab.records import answer
    from ablab.verdict import describe, documents, visible

    assert (answer.POWER, answer.FEWEST_DOCUMENTS, answer.NEVER) == (visible.POWER, documents.FEWEST, describe.NEVER)


# What may still be asked with a default, by file: none of it is a lever.
ASKED = {
    "core/lever.py": 1,  # how `abc` marks what a lever still owes
    "core/streams.py": 1,  # stdout is somebody else's until `install`
    "data/formats/mapped.py": 1,  # not every exception has a strerror
    "data/vocabulary.py": 1,
    "artifact/code.py": 1,  # nor a line
    "model/parts/grouped.py": 2,  # functions that some versions of torch lack
    "runtime/source.py": 2,  # the slot of a package that may have none; fields of syntax trees
}


def test_no_lever_is_asked_whether_it_has_something() -> None:
    """A base class declares it with its default; `getattr` with one hides a misspelt name until the end of time."""
    found = {}
    for path in FILES:
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        names = [(node.func.id, len(node.args)) for node in calls if isinstance(node.func, ast.Name)]
        if count := names.count(("getattr", 3)):
            found[path.relative_to(SOURCE).as_posix()] = count
    assert found == ASKED


@pytest.mark.parametrize("slot", SLOTS.values(), ids=list(SLOTS))
def test_every_lever_inherits_the_base_of_its_slot(slot: Slot[Lever]) -> None:
    assert slot.base.__module__.rpartition(".")[0] == slot.package and slot.base is not Lever
    for name in slot.names:
        assert issubclass(slot.load(name), slot.base) and slot.load(name) is not slot.base


def test_a_class_that_is_no_lever_of_the_slot_is_refused() -> None:
    slot: Slot[Lever] = Slot("position", "ablab.model.positions", base="position.Position", grape_a="Columns")
    with pytest.raises(TypeError) as raised:
        slot.load("grape_a")
    base = "ablab.model.positions.position.Position"
    assert str(raised.value) == f"position 'grape_a': Columns does not inherit {base}; write class Columns(Position)"


def test_the_decoder_knows_no_lever_by_name() -> None:
    from ablab.model import mlps, positions, projections, softmaxes

    tree = ast.parse((SOURCE / "model" / "decoder.py").read_text(encoding="utf-8"))
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for slot in (positions.slot, projections.slot, softmaxes.slot, mlps.slot):
        assert not words & set(slot.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_and_functions_stay_small(path: Path) -> None:
    relative = path.relative_to(SOURCE)
    assert len(relative.parts) <= 4, "at most three folders below ablab"
    assert not {part.removesuffix(".py").lower() for part in relative.parts} & FORBIDDEN_NAMES
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400, f"{relative} has {text.count(chr(10))} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= 60, f"{relative}: {node.name} has {length} lines"
            if (relative.as_posix(), node.name) not in COMMANDS:
                count = len(parameters(node))
                assert count <= 8, f"{relative}: {node.name} has {count} parameters; pass what belongs together as one"


def parameters(function: ast.FunctionDef) -> list[str]:
    """Names of a function's parameters, but for what Python or torch fills in."""
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
    return [one.arg for one in every if one.arg not in ("self", "cls", "ctx")]


def commands(app: typer.Typer) -> set[tuple[str, str]]:
    """File and name of every function that the command line alone calls: a parameter is an option that a person types, so a
    command has as many as it has options, and hands them on as one or two values."""
    own = [one.callback for one in app.registered_commands if one.callback]
    found = {(f"{one.__module__.removeprefix('ablab.').replace('.', '/')}.py", one.__name__) for one in own}
    return found.union(*(commands(group.typer_instance) for group in app.registered_groups if group.typer_instance))


COMMANDS = commands(app)


# Class names that may stand in two files, and why.
LEVER_IDEAS = {"AdamW", "Composed", "Decay", "Off", "Plain"}  # one idea in several slots: each slot has its own base
RECORDS_OF_THE_VERDICT = {
    "Band", "Cell", "Crossed", "Effect", "Factor", "Gap", "Inversion", "Price", "Rate", "Row", "StageBand", "Step",
}  # fmt: skip


def test_a_class_name_means_one_thing() -> None:
    """The verdict imports nothing of ours, so what it makes stands once there and once in the record that it becomes."""
    places: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(path.relative_to(SOURCE).as_posix())
    twice = {name: each for name, each in places.items() if len(each) > 1 and name not in LEVER_IDEAS}
    assert twice == {name: ["records/answer.py", "verdict/rows.py"] for name in RECORDS_OF_THE_VERDICT}


def test_a_small_helper_lives_with_its_importer() -> None:
    """A file of under 80 lines that one file imports sends its reader one file further for nothing.

    It stays a file where it is one of a kind: what a table names (a lever, a reader of logs, what an `__init__` puts together),
    what another room or another slot's folder asks for (a room's knowledge stays in it), or where the two would be too long.
    """
    lines = {path: path.read_text(encoding="utf-8").count("\n") for path in FILES}
    modules = {".".join(path.relative_to(SOURCE.parent).with_suffix("").parts): path for path in FILES}
    importers: dict[Path, set[Path]] = {path: set() for path in FILES}
    for path in FILES:
        for name in imports(path):
            if (there := modules.get(name, modules.get(name.rpartition(".")[0]))) not in (None, path):
                importers[there].add(path)
    helpers = []
    for path, by in importers.items():
        if len(by) != 1 or lines[path] >= 80 or path.name == "__init__.py" or path.stem in named(path.parent):
            continue
        [one] = by
        if one.name != "__init__.py" and one.parent == path.parent and lines[path] + lines[one] <= 400:
            helpers.append(f"{path.relative_to(SOURCE)} -> {one.name}")
    assert helpers == []


def named(folder: Path) -> set[str]:
    """Files of a folder that a table loads or lists: the levers of a slot, the readers of logs, the commands' verbs."""
    if folder == SOURCE / "cli":
        return {path.stem for path in folder.glob("*.py")}
    if folder == SOURCE / "judging" / "logs":
        return {one.read.__module__.rpartition(".")[2] for one in FORMATS}
    package = ".".join(folder.relative_to(SOURCE.parent).parts)
    return {name for slot in SLOTS.values() if slot.package == package for name in slot.names}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_docstrings_of_functions_open_with_a_verb(path: Path) -> None:
    """Properties are named for what they are, like attributes; so are classes and modules."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.FunctionDef) or not (text := ast.get_docstring(node)):
            continue
        if {ast.unparse(one).rpartition(".")[2] for one in node.decorator_list} & {"property", "cached_property"}:
            continue
        first = text.split()[0].strip(".,:;")
        assert first in VERBS, (
            f"{path.relative_to(SOURCE)}: {node.name} opens with {first!r}; say what it does, or add the verb"
        )


def test_every_room_has_its_tests_and_no_other_file_of_tests_lies_loose() -> None:
    assert not [room for room in TIER if not any((TESTS / room).glob("test_*.py"))]
    assert [path.name for path in TESTS.glob("test_*.py")] == [Path(__file__).name]


def test_no_two_files_of_tests_have_one_name() -> None:
    """Folders of tests are no packages, so that pytest tells files by their names alone."""
    names = [path.name for path in TESTS.rglob("test_*.py")]
    assert len(names) == len(set(names)) and not list(TESTS.rglob("__init__.py"))
