"""``raytrainer report`` writes the page where it was asked to, and says where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raytrainer.cli.main import main
from tests.report.runs import two_deaths


def test_the_page_goes_into_the_directory_of_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    two_deaths(tmp_path, 10)
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size > 500_000


def test_page_and_pictures_go_where_they_are_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    two_deaths(tmp_path / "run", 10)
    target = tmp_path / "out" / "page.html"
    assert main(["report", str(tmp_path / "run"), "-o", str(target), "--png", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["page"] == str(target)
    assert str(tmp_path / "out" / "page" / "loss.png") in found["pictures"]
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_place_that_cannot_be_written_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    two_deaths(tmp_path / "run", 10)
    assert (
        main(["report", str(tmp_path / "run"), "-o", str(tmp_path / "run" / "events.jsonl" / "x.html")]) == 1
    )
    assert "--output" in capsys.readouterr().err
