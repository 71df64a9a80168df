"""Project rules that no linter checks: what folders state, how files are named, and what no file may contain."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "raytrainer"
FOLDERS = sorted({path.parent for path in PACKAGE.rglob("*.py")})
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = ROOT / "tests"
SUITES = {
    "cluster",
    "clients",
    "docs",
    "examples",
    "faults",
    "gpu",
    "jobs",
    "parity",
    "refusals",
    "sharding",
    "soak",
}
"""Folders of tests that follow a promise through the whole package instead of a room of it."""
CLAIMS = {
    "arguments": {"every_argument", "fields_are_read", "setters"},
    "checkpoint": {"crash", "with_transformers"},
    "checkpoint/remote": {"kill", "on_ray"},
    "data": {"resume", "two_ranks"},
    "driver": {"end_of_process", "interrupt", "ray_internals", "standing_workers"},
    "evaluation": {"memory", "numbers", "two_ranks"},
    "hooks": {"differences", "underscore_overrides"},
    "hub": {"failures", "on_ray", "resume", "strategies"},
    "loop": {"adapters", "events", "extras"},
    "optim": {"convex"},
    "preflight": {"bad_inputs"},
    "runtimes": {"same_losses"},
    "seq2seq": {"generation", "two_ranks"},
    "sft": {"adapters", "against_trl", "two_ranks"},
    "tune": {"more_runs", "survival"},
    "wire": {"on_ray"},
}
"""Room -> its test files that are about the room as a whole. Every other one is named after a module of the room."""
NAMES_THAT_SAY_NOTHING = {
    "base_utils.py",
    "common.py",
    "helper.py",
    "helpers.py",
    "misc.py",
    "util.py",
    "utils.py",
}
TEXT = {".cfg", ".ini", ".json", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml", ""}


def tracked_files() -> list[Path]:
    """Files under version control, or all that look like ours where there is no repository (an unpacked sdist)."""
    done = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode == 0 and done.stdout:
        paths = [ROOT / name for name in done.stdout.split("\0") if name]
    else:
        kept = ("raytrainer", "tests", "examples", "benchmarks", "cluster")
        paths = [
            path for folder in kept for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts
        ]
    return [path for path in paths if path.is_file() and path.suffix in TEXT]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def lines_that_match(pattern: re.Pattern[str]) -> list[str]:
    found = []
    for path in tracked_files():
        if path == Path(__file__):
            continue
        for number, line in enumerate(
            path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1
        ):
            if pattern.search(line):
                found.append(f"{name_of(path)}:{number}: {line.strip()[:120]}")
    return found


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_folder_is_a_package_whose_docstring_says_what_it_decides(folder):
    init = folder / "__init__.py"
    assert init.is_file(), f"{name_of(folder)} has no __init__.py"
    docstring = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8")))
    assert docstring, f"{name_of(init)} has no docstring"
    assert len(docstring.split()) >= 6, f"{name_of(init)} says only {docstring!r}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_has_a_docstring(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{name_of(path)} has no docstring"


def test_no_file_has_a_name_that_says_nothing():
    assert [name_of(path) for path in tracked_files() if path.name in NAMES_THAT_SAY_NOTHING] == []


def test_a_test_file_is_named_after_a_module_of_its_room():
    lost = []
    for path in TESTS.rglob("test_*.py"):
        room = path.parent.relative_to(TESTS)
        name = path.stem.removeprefix("test_")
        is_about_the_whole = room == Path() or room.parts[0] in SUITES or name in CLAIMS.get(str(room), set())
        if not is_about_the_whole and not (PACKAGE / room / f"{name}.py").is_file():
            lost.append(name_of(path))
    assert sorted(lost) == [], "rename the test with its module, or list it in SUITES or CLAIMS above"


def test_no_list_of_test_files_is_out_of_date():
    gone = [folder for folder in SUITES if not (TESTS / folder).is_dir() or (PACKAGE / folder).is_dir()]
    gone += [
        f"{room}/test_{name}.py"
        for room, names in CLAIMS.items()
        for name in names
        if not (TESTS / room / f"test_{name}.py").is_file() or (PACKAGE / room / f"{name}.py").is_file()
    ]
    assert gone == []


def test_no_module_imports_the_trainer_of_transformers():
    # this project is a re-implementation: the other Trainer is a peer in tests and benchmarks, never a base
    found = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "transformers":
                found += [
                    name_of(path) for alias in node.names if alias.name in {"Trainer", "Seq2SeqTrainer"}
                ]
    assert found == []


def test_no_tracked_file_names_a_ticket_number():
    assert lines_that_match(re.compile(r"\bissues?\s*#\s*\d", re.IGNORECASE)) == []


def test_no_tracked_file_holds_a_path_of_one_machine():
    roots = ("work/main", "work/shared", "root/", "Users/", "home/[a-z]", "opt/py", "tmp/plan")
    assert lines_that_match(re.compile(rf"(?<![\w.~-])/(?:{'|'.join(roots)})")) == []


def test_no_tracked_file_names_a_package_index():
    options, pages = ("index", "extra-index"), ("simple",)
    option = rf"--(?:{'|'.join(options)})-url[ =]https?:"
    page = rf"https?://\S+/(?:{'|'.join(pages)})\b"
    assert lines_that_match(re.compile(f"{option}|{page}")) == []


def test_no_test_is_named_by_a_memory_address(request):
    # two processes would not agree on the name, and pytest-xdist refuses to run anything then
    assert [
        item.nodeid for item in request.session.items if re.search(r"\bat 0x[0-9a-f]+", item.nodeid)
    ] == []


def test_every_test_has_a_time_limit(request):
    # the limit holds for the fixtures of a test too, and a session's fixture belongs to the first test that wants it
    config = request.config
    assert float(config.getini("timeout")) > 0
    assert not config.getini("timeout_func_only")
    limits = {item.nodeid: item.get_closest_marker("timeout") for item in request.session.items}
    assert [name for name, limit in limits.items() if limit is not None and not limit.args[0] > 0] == []


def test_the_architecture_page_names_files_and_rooms_that_exist():
    text = (PACKAGE / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:\w+/)*\w+\.py|(?:\w+/)+)`", text))
    drawn = set(re.findall(r"^(\w+/|\w+\.py)[ ,]", text, re.MULTILINE))
    assert len(named) > 40
    assert (
        sorted(one for one in named | drawn if not any((at / one).exists() for at in (PACKAGE, ROOT))) == []
    )
    rooms = {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    assert rooms - drawn - {"seq2seq/"} == set(), "every room is drawn"
