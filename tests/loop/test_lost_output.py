"""A directory that is removed while a run trains: said at once and at the end, and the run goes on."""

from __future__ import annotations

import os
import shutil

import pytest
from transformers import TrainerCallback

import raytrainer
from tests.parity.twins import make_trainer, rows


class Removes(TrainerCallback):
    """Removes the output directory, or something in it, after a step."""

    def __init__(self, step, below=""):
        self.step, self.below = step, below

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            shutil.rmtree(os.path.join(args.output_dir, self.below))


def train(directory, *callbacks, **options):
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, **options}
    trainer = make_trainer(raytrainer, directory, **options)
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.train()
    return trainer


@pytest.mark.parametrize("below", ["", "checkpoint-2"])
def test_what_is_removed_is_said_at_once_and_at_the_end_and_training_goes_on(tmp_path, caplog, below):
    whole = train(tmp_path / "whole")
    caplog.clear()
    trainer = train(tmp_path / "run", Removes(3, below))
    said = [text for text in caplog.messages if "was removed" in text]
    assert "checkpoint-2" in said[0]
    assert "seen after step 3" in said[0]
    assert ("with all of" in said[0]) == (not below)
    assert "removed during the run, at step 3 or before" in said[1]
    assert len(said) == 2
    assert rows(trainer) == rows(whole)
    assert {"checkpoint-4", "checkpoint-6"} <= set(os.listdir(tmp_path / "run"))


def test_a_directory_that_is_removed_after_the_last_save_is_said_at_the_end(tmp_path, caplog):
    train(tmp_path / "run", Removes(5), save_steps=4)
    said = [text for text in caplog.messages if "was removed" in text]
    assert "seen after step 5" in said[0]
    assert "save_model()" in said[-1]


def test_nothing_is_said_where_nothing_was_removed(tmp_path, caplog):
    train(tmp_path / "run", save_total_limit=1)
    train(tmp_path / "unsaved", Removes(3), save_strategy="no")
    assert "was removed" not in caplog.text


def test_no_file_of_the_directory_is_open_after_training(tmp_path):
    train(tmp_path / "run", logging_steps=1)
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    assert [
        os.readlink(link) for link in links if os.path.lexists(link) and str(tmp_path) in os.readlink(link)
    ] == []
