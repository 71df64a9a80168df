"""The API reference describes a field of the arguments by its help, and shows its default."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from raytrainer.arguments.ray_options import RayOptions

ROOT = Path(__file__).parents[2]
griffe = pytest.importorskip("griffe", reason="comes with the extra `docs`")


def test_every_field_of_ray_has_its_help_as_docstring_and_its_default_as_value() -> None:
    from docs.generate.field_help import FieldHelp

    module = griffe.load(
        "raytrainer.arguments.ray_options",
        search_paths=[ROOT],
        extensions=griffe.load_extensions(FieldHelp()),
    )
    read = module["RayOptions"].members
    for field in fields(RayOptions):
        assert read[field.name].docstring.value == field.metadata["help"], field.name
        assert str(read[field.name].value) == repr(field.default), field.name


def test_a_field_without_help_stays_without_a_docstring(tmp_path: Path) -> None:
    from docs.generate.field_help import FieldHelp

    source = "from dataclasses import field\nclass A:\n    x: int = field(default=3)\n    y: int = 4\n"
    (tmp_path / "sample.py").write_text(source)
    module = griffe.load("sample", search_paths=[tmp_path], extensions=griffe.load_extensions(FieldHelp()))
    assert module["A.x"].docstring is None
    assert str(module["A.x"].value) == "3"
    assert module["A.y"].docstring is None
