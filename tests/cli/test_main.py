"""The command line as a whole: help that imports nothing, typos, exit codes, completion."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raytrainer._version import __version__
from raytrainer.cli.main import commands, main

HELP = """
import sys
from raytrainer.cli.main import main
code = main(["--help"])
heavy = {"torch", "transformers", "ray", "numpy", "accelerate", "rich", "vl_convert", "psutil"}
# Of the standard library: what takes milliseconds, and neither click nor logging brings along.
heavy |= {"difflib", "tempfile", "importlib.resources", "importlib.metadata", "email", "zipfile", "asyncio", "json"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
sys.exit(code)
"""


def test_help_imports_nothing_heavy_and_names_every_command():
    done = subprocess.run(
        [sys.executable, "-c", HELP], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in ("launch", "export", "report", "runs", "verify", "watch", "doctor"):
        assert f"  {name} " in done.stdout
    assert "Exit codes" in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 80


@pytest.mark.parametrize("name", sorted(commands.commands))
def test_each_command_has_a_help(name: str, capsys: pytest.CaptureFixture[str]):
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Usage: raytrainer " + name in shown
    assert max(map(len, shown.splitlines())) <= 80


LOOKS = """
import sys
from raytrainer.cli.main import main
code = main(sys.argv[1:])
heavy = {"torch", "transformers", "ray", "numpy", "accelerate", "vl_convert"} & set(sys.modules)
assert not heavy, heavy
sys.exit(code)
"""


@pytest.mark.parametrize("name", ["runs", "watch", "verify", "report", "export"])
def test_a_command_that_finds_nothing_says_so_before_it_imports_anything_heavy(name: str, tmp_path: Path):
    words = [name, str(tmp_path / "nowhere"), *([str(tmp_path / "new")] if name == "export" else [])]
    done = subprocess.run(
        [sys.executable, "-c", LOOKS, *words], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2, done.stderr
    assert f"raytrainer {name}: {tmp_path / 'nowhere'} is not a directory. Name " in done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["verfy", "x"], "'verfy' is not a command. Did you mean 'verify'?"),
        (["report", "--pgn", "x"], "'--png'?"),
        (["report"], "Missing argument 'RUN_DIR...'"),
        (["launch"], "Missing argument 'SCRIPT.PY"),
    ],
)
def test_a_mistyped_line_ends_with_2_and_says_what_was_meant(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
):
    assert main(words) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("raytrainer re", "plain,report"),
        ("raytrainer report --pn", "plain,--png"),
        ("raytrainer watch run", "file,run"),  # the shell completes paths
    ],
)
def test_a_shell_completes_commands_options_and_paths(words: str, expected: str):
    env = {
        **os.environ,
        "_RAYTRAINER_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    code = "import sys; from raytrainer.cli.main import main; sys.exit(main([]))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False, env=env
    )
    assert done.stdout.strip() == expected


@pytest.mark.parametrize("name", sorted(commands.commands))
def test_each_command_has_words_for_programs(name: str):
    if name == "launch":
        pytest.skip("it ends with what its script prints")
    options = {option for one in commands.commands[name].params for option in one.opts}
    assert "--json" in options


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]):
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out
