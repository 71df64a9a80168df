from __future__ import annotations

import importlib
import shutil
import sys
import types
from pathlib import Path

import pytest

from raytrainer.wire import module_sources
from raytrainer.wire.module_sources import Sources, loaded_sources, place_sources, why_not_sent
from raytrainer.wire.spec import ship, with_sources

pytestmark = pytest.mark.usefixtures("own_modules")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A directory with a package, loaded from there, and a module that only the package imports, when it is called."""
    package = tmp_path / "project" / "package_of_mine"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from package_of_mine.part import Part")
    (package / "part.py").write_text(
        "from pathlib import Path\n"
        "class Part:\n"
        "    def __call__(self):\n"
        "        import package_of_mine.late\n"
        "        return package_of_mine.late.VALUE + Path(__file__).with_name('table.txt').read_text()\n"
    )
    (package / "late.py").write_text("VALUE = 'late, '")
    (package / "table.txt").write_text("with its table")
    (package / ".secret").write_text("stays")
    (package / "__pycache__").mkdir(exist_ok=True)
    sys.path.insert(0, str(tmp_path / "project"))
    importlib.import_module("package_of_mine")
    return package


@pytest.mark.slow
def test_a_machine_without_the_directory_gets_a_copy(project, elsewhere):
    shipped = with_sources(ship(sys.modules["package_of_mine"].Part()))
    shutil.rmtree(project)
    assert elsewhere(shipped, "value()") == "late, with its table"


@pytest.mark.slow
def test_a_machine_with_other_files_in_that_place_uses_the_copy(project, elsewhere):
    shipped = with_sources(ship(sys.modules["package_of_mine"].Part()))
    (project / "late.py").write_text("VALUE = 'an old version, '")
    assert elsewhere(shipped, "value()") == "late, with its table"


@pytest.mark.slow
def test_a_machine_with_the_same_files_uses_them(project, elsewhere):
    shipped = with_sources(ship(sys.modules["package_of_mine"].Part()))
    assert elsewhere(shipped, "sys.modules['package_of_mine'].__file__") == str(project / "__init__.py")


def test_a_package_is_sent_whole_without_what_is_hidden_or_compiled(project):
    names = sorted(loaded_sources().files[str(project.parent)])
    assert names == [f"package_of_mine/{name}" for name in ("__init__.py", "late.py", "part.py", "table.txt")]


def test_what_is_installed_and_raytrainer_itself_are_not_sent(project):
    roots = loaded_sources().files
    assert not [root for root in roots if "site-packages" in root]
    assert not [name for files in roots.values() for name in files if name.startswith("raytrainer/")]


def test_what_lies_beside_the_script_is_sent_before_it_is_imported(tmp_path, monkeypatch):
    for name in ("script.py", "helper.py", "part/__init__.py", "notes/readme.txt", "weights.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    main = types.ModuleType("__main__")
    main.__file__ = str(tmp_path / "script.py")
    monkeypatch.setitem(sys.modules, "__main__", main)
    sys.path.insert(0, str(tmp_path))
    assert sorted(loaded_sources().files[str(tmp_path)]) == ["helper.py", "part/__init__.py", "script.py"]


def test_what_ray_has_shipped_is_not_sent_again(tmp_path):
    place = tmp_path / "runtime_resources" / "working_dir_files" / "package"
    place.mkdir(parents=True)
    (place / "of_the_job.py").touch()
    sys.path.insert(0, str(place))
    importlib.import_module("of_the_job")
    assert str(place) not in loaded_sources().files


def test_a_package_that_is_too_large_is_left_out_with_a_reason(project, monkeypatch):
    assert why_not_sent("package_of_mine") is None
    monkeypatch.setattr(module_sources, "MAX_PACKAGE_BYTES", 10)
    assert str(project.parent) not in loaded_sources().files
    assert str(project) in why_not_sent("package_of_mine")


def test_processes_of_a_machine_share_a_copy(tmp_path):
    sources = Sources(files={"/not/here": {"a/b.py": b"X = 1"}})
    one = place_sources(sources, str(tmp_path / "copies"))
    assert place_sources(sources, str(tmp_path / "copies")) == one
    assert Path(one["/not/here"], "a/b.py").read_bytes() == b"X = 1"
    assert len(list((tmp_path / "copies").iterdir())) == 1
