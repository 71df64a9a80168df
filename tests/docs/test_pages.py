"""Links in the documentation resolve, every page is in the navigation, and recipes name files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
READMES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "raytrainer/README.md")),
    *(ROOT / folder / "README.md" for folder in ("examples", "cluster")),
]


def targets_in(text: str) -> list[str]:
    """Relative targets of the links and images in a page, outside of code blocks."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"\]\(([^)\s]+)\)", prose)
    return [target for target in found if not re.match(r"[a-z]+:|#", target)]


def pages_in(nav: list[dict[str, object]]) -> set[str]:
    names: set[str] = set()
    for entry in nav:
        for target in entry.values():
            names |= pages_in(target) if isinstance(target, list) else {str(target)}
    return names


def paths_named(text: str) -> set[str]:
    """Paths of this repository in a text's inline code."""
    return set(re.findall(r"`((?:raytrainer|tests|docs|examples|benchmarks)/[\w/.]*)`", text))


@pytest.mark.parametrize("page", [*READMES, *PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    targets = targets_in(page.read_text(encoding="utf-8"))
    assert [name for name in targets if not (page.parent / name.partition("#")[0]).exists()] == []


def test_the_navigation_names_every_page() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    assert pages_in(nav) == {page.relative_to(DOCS).as_posix() for page in PAGES}


def test_recipes_name_files_that_exist() -> None:
    named = paths_named((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert "raytrainer/optim/families/" in named
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def test_the_reference_names_objects_that_exist() -> None:
    named = {
        line.removeprefix("::: ")
        for page in PAGES
        for line in page.read_text(encoding="utf-8").splitlines()
        if line.startswith("::: ")
    }
    assert "raytrainer.trainer.Trainer" in named
    for name in sorted(named):
        *folders, module, _ = f"{name}.".split(".") if name == "raytrainer.errors" else name.split(".")
        path = ROOT.joinpath(*folders, module)
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), name


def test_the_version_of_the_citation_is_that_of_the_package() -> None:
    version = re.search(
        r'__version__ = "(.+)"', (ROOT / "raytrainer" / "_version.py").read_text(encoding="utf-8")
    )
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert version is not None
    assert citation["version"] == version[1]
