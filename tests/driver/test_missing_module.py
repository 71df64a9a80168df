from __future__ import annotations

import importlib
import sys
import types

import pytest
import torch
import transformers

from raytrainer.driver.missing_module import missing_module_hint
from raytrainer.wire import module_sources

pytestmark = pytest.mark.usefixtures("own_modules")


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "module_of_mine.py").touch()
    sys.path.insert(0, str(tmp_path))
    return tmp_path / "module_of_mine.py"


def hint(name: str) -> str:
    return missing_module_hint(f"ModuleNotFoundError: No module named '{name}'", "node-7")


def test_what_is_installed_here_is_named_with_its_version():
    said = hint("transformers.models")
    assert f"transformers=={transformers.__version__}" in said
    assert "install it on node-7" in said
    assert '{"pip":' in said


def test_a_file_of_the_driver_is_named_with_what_sends_it(mine):
    said = hint("module_of_mine")
    assert "import it before train()" in said
    assert f'"py_modules": ["{mine}"]' in said


def test_a_package_that_was_too_large_to_send_is_named(mine, monkeypatch):
    importlib.import_module("module_of_mine")
    mine.write_text("# long")
    monkeypatch.setattr(module_sources, "MAX_PACKAGE_BYTES", 1)
    assert "are not sent" in hint("module_of_mine")


def test_what_exists_only_in_memory_is_said():
    sys.modules["made_in_memory"] = types.ModuleType("made_in_memory")
    assert "only in the memory of the driver" in hint("made_in_memory")


def test_what_the_driver_lacks_too_is_said():
    assert hint("nobody.has.this") == (
        "'nobody.has.this' cannot be imported by the driver either: install it here and on node-7"
    )


@pytest.mark.parametrize(
    "text",
    [
        "AttributeError: Can't get attribute 'Linear2' on <module 'torch.nn' from '/x/torch/nn/__init__.py'>",
        "ImportError: cannot import name 'Linear2' from 'torch.nn' (/x/torch/nn/__init__.py)",
    ],
)
def test_two_versions_of_a_module_are_told_apart(text):
    said = missing_module_hint(text, "node-7")
    assert (
        f"the driver's torch.nn (torch=={torch.__version__}) and that on node-7 differ in 'Linear2'" in said
    )


def test_other_errors_have_no_such_hint():
    assert missing_module_hint("ValueError: no", None) is None


def test_a_hint_fits_into_one_line_of_the_message(mine):
    for name in ("transformers", "module_of_mine", "nobody.has.this"):
        text = hint(name).replace(str(mine.parent), "")  # however long the path of the test is
        assert len("hint: " + text) <= 240
