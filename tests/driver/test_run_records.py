"""The page of a run is written before the block at the end is shown, which names it if it is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import raytrainer
from raytrainer.driver.run_records import DriverRecords
from raytrainer.report import page
from raytrainer.report.record import read_record
from raytrainer.telemetry.events import Note, TrainEnded
from raytrainer.telemetry.run_files import PAGE_NAME
from tests.driver.same_process import SameProcessGroup, same_process
from tests.parity.twins import make_trainer

__all__ = ["same_process"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("vl_convert")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def places(text: str) -> dict[str, str]:
    """What the block at the end says about where things are: its last group."""
    group = text.rpartition(" finished ")[2].rpartition("\n\n")[2]
    found = [line.split(maxsplit=1) for line in group.split("\n") if line.startswith("   ")]
    return {label: path for label, path in found if " " not in path}


def trained(capsys: pytest.CaptureFixture[str], **options: Any) -> dict[str, str]:
    make_trainer(raytrainer, "out", **{"max_steps": 2, "save_strategy": "no", **options}).train()
    return places(capsys.readouterr().out)


@pytest.mark.parametrize("num_ranks", [0, 1], ids=["in this process", "on workers"])
def test_the_end_of_a_run_names_its_page_which_knows_of_the_end(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    same_process: list[SameProcessGroup],
    num_ranks: int,
):
    written: list[str] = []
    real = page.write_report

    def write(locations: list[str], target: str) -> list[str]:
        written.append(read_record(here / "out", location="out").state)
        return real(locations, target)

    monkeypatch.setattr(page, "write_report", write)
    # Such workers write no record, so the page is that of a checkpoint.
    shown = trained(capsys, num_ranks=num_ranks, save_strategy="steps", save_steps=2)
    assert len(same_process) == num_ranks
    assert shown["run"] == "out"
    assert shown["report"] == "out/report.html"
    assert (here / shown["report"]).is_file()
    assert written == ["finished"]


@pytest.mark.parametrize("why", ["not wanted", "cannot be drawn", "cannot be written"])
def test_the_page_of_an_earlier_run_is_not_named(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, why: str
):
    assert "report" in trained(capsys)

    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    if why == "cannot be drawn":
        monkeypatch.setattr(page, "can_draw", lambda: False)
    elif why == "cannot be written":
        monkeypatch.setattr(page, "_write", fail)
    shown = trained(capsys, report_page=why != "not wanted")
    assert (here / "out" / PAGE_NAME).is_file()
    assert shown["run"] == "out"
    assert "report" not in shown


def test_a_driver_writes_the_page_again_when_something_followed_the_end(
    here: Path, monkeypatch: pytest.MonkeyPatch
):
    written: list[str] = []
    monkeypatch.setattr(page, "write_report", lambda _, target: written.append(target))
    args = raytrainer.TrainingArguments("out", num_workers=1)
    for follows in (False, True):
        records = DriverRecords(args, lambda: "a", has_page=True)
        shown = records.handle(TrainEnded(step=2, places={"run": "out"}))
        assert isinstance(shown, TrainEnded)
        assert shown.places == {"run": "out", "report": "out/report.html"}
        if follows:
            records.handle(Note(text="a worker died", level="warning"))
        records.close()
        assert written == ["out/report.html"] * (2 if follows else 1)
        written.clear()


def test_a_trial_of_a_sweep_has_no_page(here: Path):
    records = DriverRecords(raytrainer.TrainingArguments("out", num_workers=1), lambda: "a", has_page=False)
    ended = TrainEnded(step=2, places={"run": "out"})
    assert records.handle(ended) is ended
    records.close()
    assert not (here / "out" / PAGE_NAME).exists()
