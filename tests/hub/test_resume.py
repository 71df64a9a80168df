"""Training resumes from a checkpoint on the Hub as if it had never stopped."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import snapshot_download
from transformers import TrainerCallback

import raytrainer
from raytrainer import CheckpointError
from raytrainer.checkpoint.scan import newest_checkpoint
from tests.hub.server import Hub, client_points_at
from tests.parity.twins import make_trainer, rows

NAME = "last-checkpoint"


class Stop(TrainerCallback):
    """Ends training after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


def trainer_of(directory: Path, stop: int | None = None, **options: Any) -> Any:
    defaults = {"num_train_epochs": 1, "save_strategy": "steps", "save_steps": 2}
    trainer = make_trainer(raytrainer, directory, **{**defaults, **options})
    if stop is not None:
        trainer.add_callback(Stop(stop))
    return trainer


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Hub's copy of a run that was stopped after six steps, downloaded again."""
    directory = tmp_path_factory.mktemp("kept")
    with (
        pytest.MonkeyPatch.context() as patch,
        Hub(lfs_suffixes=(".pt",)) as hub,
        client_points_at(hub.url, patch),
    ):
        options = {"push_to_hub": True, "hub_token": hub.token, "hub_strategy": "checkpoint"}
        trainer_of(directory / "my-model", stop=6, **options).train()
        snapshot_download("me/my-model", token=hub.token, local_dir=directory / "fetched")
    assert (directory / "fetched" / NAME).is_dir()
    return directory / "fetched"


@pytest.fixture
def fetched(kept: Path, tmp_path: Path) -> Path:
    """A copy that the test may modify."""
    return Path(shutil.copytree(kept, tmp_path / "fetched"))


@pytest.mark.parametrize("resume", [True, NAME])
def test_a_run_goes_on_from_the_checkpoint_that_was_fetched(tmp_path, fetched, resume):
    whole = trainer_of(tmp_path / "whole", save_strategy="no")
    whole.train()
    on = trainer_of(fetched)
    on.train(resume_from_checkpoint=resume)
    assert rows(on)[6:] == rows(whole)[6:], "the steps after the sixth"
    weights = whole.model.state_dict()
    assert all(weights[name].equal(value) for name, value in on.model.state_dict().items())


def test_a_newer_checkpoint_of_this_directory_wins_over_the_one_that_was_fetched(fetched):
    trainer_of(fetched, stop=8).train(resume_from_checkpoint=True)
    assert newest_checkpoint(fetched, report=pytest.fail) == fetched / "checkpoint-8"


def test_the_one_that_was_fetched_wins_over_an_older_one(fetched):
    shutil.copytree(fetched / NAME, fetched / "checkpoint-2")
    assert newest_checkpoint(fetched, report=pytest.fail) == fetched / NAME


def test_one_that_was_fetched_in_part_is_passed_over(fetched):
    (fetched / NAME / "optimizer.pt").unlink()
    reasons = []
    assert newest_checkpoint(fetched, report=reasons.append) is None
    assert "optimizer.pt is missing" in reasons[0]


def test_a_restart_never_takes_it_for_its_own(fetched):
    assert newest_checkpoint(fetched, run_id="another", report=pytest.fail) is None


def test_a_name_that_nothing_has_is_refused_before_training(make):
    with pytest.raises(CheckpointError, match="my-model/last-checkpoint' does not exist"):
        make().train(resume_from_checkpoint=NAME)
