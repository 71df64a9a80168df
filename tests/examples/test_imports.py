"""Examples import models after raytrainer, which keeps what other libraries say of this machine to the log file."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
MODEL = re.compile(r"PreTrainedModel|(?!Auto|DataCollator).*For[A-Z]\w+")
"""Names of transformers that import torchao; the automatic classes do that when a model is made."""


def imported(path: Path) -> Iterator[str]:
    """What a script imports at its top: modules, and names of transformers."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (alias.name for alias in node.names if node.module == "transformers")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_imports_models_after_raytrainer(path: Path) -> None:
    names = list(imported(path))
    ours = min(
        i for i, name in enumerate(names) if name.split(".")[0] in ("raytrainer", "text_classification")
    )
    assert [name for name in names[:ours] if MODEL.fullmatch(name) or name == "peft"] == []
