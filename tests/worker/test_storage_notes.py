"""What the code of checkpoints warns of is a note of the run: on the terminal and in its record, once."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

import raytrainer
from raytrainer.runtimes.in_process import LocalRuntime
from raytrainer.telemetry.events import Note
from raytrainer.worker.storage_notes import warnings_as_notes
from tests.buckets import MemoryBucket
from tests.parity.twins import make_trainer

LOGGER = logging.getLogger("raytrainer.checkpoint.some")


class Recorded(LocalRuntime):
    """Keeps what is told."""

    def __init__(self, rank: int = 0) -> None:
        self.told: list[object] = []
        super().__init__(self.told.append)
        self.rank = rank


def train(directory: Path | str, **options: object) -> None:
    make_trainer(raytrainer, directory, max_steps=2, save_strategy="steps", save_steps=2, **options).train()


@pytest.mark.parametrize("beside", [False, True])
def test_a_checkpoint_of_an_earlier_run_that_is_kept_is_told_of_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], beside: bool
) -> None:
    train(tmp_path, async_save=beside)
    capfd.readouterr()
    train(tmp_path, async_save=beside)
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    told = [line for line in lines if "checkpoint-2 of an earlier run is in" in line.get("text", "")]
    assert [line["kind"] for line in told] == ["warning"]
    assert "earlier-runs" in told[0]["text"]
    shown = "".join(capfd.readouterr())
    assert " ".join(shown.split()).count("of an earlier run is in") == 1


def test_the_same_is_told_of_a_bucket(memory_bucket: MemoryBucket, capfd: pytest.CaptureFixture[str]) -> None:
    train(memory_bucket.uri)
    capfd.readouterr()
    train(memory_bucket.uri)
    shown = " ".join("".join(capfd.readouterr()).split())
    assert (
        shown.count(f"warning: checkpoint-2 of an earlier run is in {memory_bucket.uri}/earlier-runs/") == 1
    )
    assert shown.count("of an earlier run is in") == 1


def test_only_rank_0_tells_and_only_while_it_trains() -> None:
    first, second = Recorded(), Recorded(rank=1)
    with warnings_as_notes(first), warnings_as_notes(second):
        LOGGER.warning("%s takes space", "it")
        LOGGER.info("nothing")
    LOGGER.warning("later")
    assert first.told == [Note(text="it takes space", level="warning")]
    assert second.told == []


def test_a_terminal_that_shows_notes_does_not_get_the_line_of_the_log(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    with warnings_as_notes(Recorded()):
        LOGGER.warning("it takes space")
        try:
            raise OSError("the disk")
        except OSError:
            LOGGER.warning("an error that follows", exc_info=True)
    shown = capfd.readouterr().err
    assert "it takes space" not in shown
    assert shown.count("an error that follows") == 1
    assert "OSError: the disk" in shown
