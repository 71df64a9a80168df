from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path

import pytest

from raytrainer.wire.importable import ModulesOfPickle
from raytrainer.wire.spec import ship

SOURCE = """
import dataclasses
COUNT = 3
@dataclasses.dataclass
class Scale:
    factor: int
    def __call__(self, x):
        return shifted(x) * self.factor
def shifted(x):
    return x + COUNT
"""


def write(directory: Path, name: str) -> Path:
    file = directory / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(SOURCE)
    return file


def load(name: str, file: Path) -> types.ModuleType:
    """Import a file under a name, as tools do that never touch sys.path."""
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_module_in_a_directory_that_the_program_added_is_imported_from_there(
    tmp_path, own_modules, elsewhere
):
    file = write(tmp_path / "src", "lib_of_mine.py")
    sys.path.insert(0, str(file.parent))
    module = importlib.import_module("lib_of_mine")
    shipped = ship(module.Scale(2))
    assert elsewhere(shipped, "(value(1), sys.modules['lib_of_mine'].__file__)") == f"(8, {str(file)!r})"


@pytest.mark.slow
def test_a_module_that_was_loaded_from_its_file_is_found_there(tmp_path, own_modules, elsewhere):
    file = write(tmp_path / "src", "lib_of_mine.py")
    shipped = ship(load("lib_of_mine", file).Scale(2))
    assert elsewhere(shipped, "(value(1), sys.modules['lib_of_mine'].__file__)") == f"(8, {str(file)!r})"


@pytest.mark.slow
def test_a_package_made_at_run_time_is_imported_from_where_it_was_written(tmp_path, own_modules, elsewhere):
    write(tmp_path / "cache", "made_modules/metrics/one/metric.py")
    (tmp_path / "cache" / "made_modules" / "__init__.py").touch()
    sys.path.append(str(tmp_path / "cache"))
    module = importlib.import_module("made_modules.metrics.one.metric")
    assert (
        elsewhere(ship(module.Scale(2)), "(value(1), type(value).__module__ in sys.modules)") == "(8, True)"
    )


@pytest.mark.slow
def test_a_module_loaded_under_another_name_travels_by_value(tmp_path, own_modules, elsewhere):
    module = load("not_its_file", write(tmp_path, "lib_of_mine.py"))
    assert elsewhere(ship(module.Scale(2)), "(value(1), 'not_its_file' in sys.modules)") == "(8, False)"


@pytest.mark.slow
def test_a_module_that_exists_only_in_memory_travels_by_value(own_modules, elsewhere):
    module = types.ModuleType("made_in_memory")
    sys.modules["made_in_memory"] = module
    exec(SOURCE, vars(module))
    assert (
        elsewhere(ship([module.Scale(2), module.shifted, module]), "(value[0](1), value[2].COUNT)")
        == "(8, 3)"
    )


def test_a_name_that_another_module_takes_first_is_not_imported(tmp_path, own_modules):
    sys.path.insert(0, str(write(tmp_path / "first", "lib_of_mine.py").parent))
    load("lib_of_mine", write(tmp_path / "second", "lib_of_mine.py"))
    assert not ModulesOfPickle().is_importable("lib_of_mine")


def test_a_module_made_below_a_package_of_the_program_is_not_imported(tmp_path, own_modules):
    (tmp_path / "package_of_mine").mkdir()
    (tmp_path / "package_of_mine" / "__init__.py").touch()
    sys.path.insert(0, str(tmp_path))
    importlib.import_module("package_of_mine")
    sys.modules["package_of_mine.made"] = types.ModuleType("package_of_mine.made")
    found = ModulesOfPickle()
    assert found.is_importable("package_of_mine")
    assert not found.is_importable("package_of_mine.made")


@pytest.mark.parametrize("name", ["json.decoder", "numpy.linalg", "torch.nn.modules.linear", "transformers"])
def test_what_is_installed_is_imported(name):
    importlib.import_module(name)
    assert ModulesOfPickle().is_importable(name)


def test_modules_are_pickled_by_name_again_afterwards(own_modules):
    import cloudpickle

    before = cloudpickle.list_registry_pickle_by_value()
    module = types.ModuleType("made_in_memory")
    sys.modules["made_in_memory"] = module
    exec(SOURCE, vars(module))
    ship(module.Scale(2))
    assert cloudpickle.list_registry_pickle_by_value() == before
