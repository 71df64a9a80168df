"""What is known not to work between versions, and what packages lack of each other."""

from __future__ import annotations

import importlib.metadata

import pytest

from raytrainer.cli import known_issues as module
from raytrainer.cli.known_issues import KNOWN, broken_requirements, is_installed, known_issues


def test_each_row_has_a_source_and_applies_where_all_of_its_versions_are():
    for issue in KNOWN:
        assert issue.source.startswith("https://")
        wanted = {name + versions for name, versions in issue.versions.items()}
        found = list(known_issues(lambda requirement, wanted=wanted: requirement in wanted))
        assert [one.what for one in found] == [next(iter(issue.versions))]
        assert issue.source in found[0].text
    assert list(known_issues(lambda _: False)) == []


def test_versions_are_those_that_are_installed():
    torch = importlib.metadata.version("torch").partition("+")[0]
    assert is_installed(f"torch>={torch}")
    assert not is_installed("torch<1")
    assert not is_installed("no-such-package")
    assert is_installed("python>=3.11")


def test_what_a_package_lacks_is_a_problem(monkeypatch: pytest.MonkeyPatch):
    assert list(broken_requirements()) == []
    required = {"ray": ["click>=99", "nowhere[extra]>=1", 'other>=1; extra == "x"', "filelock"]}
    monkeypatch.setattr(module, "PACKAGES", ("ray", "not-installed"))
    monkeypatch.setattr(importlib.metadata, "requires", required.get)
    first, second = broken_requirements()
    assert "needs click>=99, and here is click 8" in first.text
    assert "needs nowhere>=1, and here is no nowhere" in second.text
    assert {first.state, second.state} == {"bad"}
