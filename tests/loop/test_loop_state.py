"""The loop's own file in a checkpoint is restored; if it cannot be read, the error names it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import raytrainer
from raytrainer import CheckpointError
from raytrainer.checkpoint.commit import record_files
from raytrainer.checkpoint.manifest import read_manifest
from raytrainer.loop.loop_state import FORMAT, NAME, LoopState, read_loop_state
from raytrainer.loop.plan import Cursor
from tests.parity.twins import make_trainer, rows

STATE = LoopState(
    cursor=Cursor(epoch=1, micro_batches=3, samples_before=50),
    round_size=4,
    global_batch_size=8,
    stream={"seen": 7},
    window_sum=0.5,
    window_empty_steps=1.0,
    logged_step=4,
    logged_total=9.25,
    logged_empty_steps=2.0,
    first_step=0,
    called_at=1.5e9,
    reported_bad_loss=True,
    model_divides=True,
    trainable={"start": ["a"], "added": [["b"]], "now": ["a", "b"], "begun": ["a"]},
    task={"tokens": [1, 2]},
)


def changed(directory: Path, **values: Any) -> Path:
    """Write the file with some keys changed, or removed if None."""
    path = STATE.write(directory)
    found = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))
    return path


def test_what_is_written_is_read(tmp_path: Path):
    STATE.write(tmp_path)
    assert read_loop_state(tmp_path) == STATE


def test_a_checkpoint_of_transformers_has_none(tmp_path: Path):
    assert read_loop_state(tmp_path) is None


def test_a_file_without_a_number_may_lack_what_came_later(tmp_path: Path):
    path = changed(tmp_path, format=None, stream=None, model_divides=None, task=None)
    assert "format" not in json.loads(path.read_text())
    found = read_loop_state(tmp_path)
    assert found is not None
    assert (found.cursor, found.stream, found.model_divides, found.task) == (STATE.cursor, None, None, {})


def test_a_file_of_the_first_format_lacks_what_the_second_added(tmp_path: Path):
    cursor = {"epoch": 1, "micro_batches": 3, "samples_before": 50}
    changed(
        tmp_path,
        format=1,
        called_at=None,
        window_empty_steps=None,
        logged_empty_steps=None,
        trainable=None,
        cursor=cursor,
    )
    found = read_loop_state(tmp_path)
    assert found is not None
    assert (found.cursor, found.called_at, found.task) == (STATE.cursor, None, STATE.task)
    assert (found.window_empty_steps, found.logged_empty_steps, found.trainable) == (0.0, 0.0, None)


def test_a_file_of_the_second_format_lacks_what_the_third_added(tmp_path: Path):
    cursor = {"epoch": 1, "micro_batches": 3, "samples_before": 50, "is_at_epoch_end": True}
    changed(tmp_path, format=2, global_batch_size=None, cursor=cursor)
    found = read_loop_state(tmp_path)
    assert found is not None
    assert (found.cursor.num_more_epochs, found.global_batch_size, found.task) == (0, None, STATE.task)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"unheard_of": 1}, "unknown unheard_of"),
        ({"round_size": None}, "no round_size"),
        ({"task": None}, "no task"),
        (
            {
                "cursor": {
                    "epoch": 1,
                    "micro_batches": 3,
                    "samples_before": 5,
                    "is_at_epoch_end": True,
                    "shard": 2,
                }
            },
            "unknown cursor.shard",
        ),
        (
            {"cursor": {"epoch": 1, "is_at_epoch_end": False, "num_more_epochs": 0}},
            "no cursor.micro_batches, no cursor.samples_before",
        ),
        ({"called_at": None}, "no called_at"),
        ({"cursor": 3}, "a cursor that is not an object"),
        ({"format": FORMAT + 1}, f"format {FORMAT + 1}"),
        ({"format": "new"}, "format 'new'"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_names_the_file(
    values: dict[str, Any], said: str, tmp_path: Path
):
    path = changed(tmp_path, **values)
    with pytest.raises(CheckpointError) as caught:
        read_loop_state(tmp_path)
    assert str(caught.value).startswith(f"{path} has ")
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_file_that_is_not_a_json_object_is_an_error_that_names_it(text: str, tmp_path: Path):
    (tmp_path / NAME).write_text(text)
    with pytest.raises(CheckpointError, match=NAME):
        read_loop_state(tmp_path)


def test_a_checkpoint_of_a_run_before_there_were_numbers_goes_on_with_equal_losses(tmp_path: Path):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = make_trainer(raytrainer, tmp_path, **options)
    whole.train()
    checkpoint = tmp_path / "checkpoint-2"
    state = json.loads((checkpoint / NAME).read_text())
    assert state.pop("format") == FORMAT
    (checkpoint / NAME).write_text(json.dumps(state))
    manifest = read_manifest(checkpoint)
    files = record_files(checkpoint, manifest.files)
    (checkpoint / "manifest.json").write_text(dataclasses.replace(manifest, files=files).to_json())
    resumed = make_trainer(raytrainer, tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert rows(resumed)[-2:] == rows(whole)[-2:]
