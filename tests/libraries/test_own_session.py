"""A trainer of transformers with its own loop, as a worker runs it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from raytrainer.checkpoint.verify import verify_checkpoint
from raytrainer.errors import CheckpointError
from raytrainer.libraries.made_arguments import as_made, record_constructions
from raytrainer.libraries.own_session import OwnLoopSession, open_session
from raytrainer.libraries.remote_trainer import CallContext, TrainerCall
from raytrainer.runtimes.base import Command, WorkersMove
from raytrainer.telemetry.events import CheckpointCommitted, Logged, PredictionDone, TrainEnded, TrainStarted
from raytrainer.wire.pickling import pack, unpack
from tests.fakes import FakeWorld
from tests.libraries.own_loop import (
    NUM_STEPS,
    PlainTrainer,
    ZerothOrderTrainer,
    losses,
    make_arguments,
    make_model,
    samples,
)


class Opened:
    """A session on one rank, and what it sent."""

    def __init__(self, kind: type, directory: Path, *, run_id: str = "run", **options: Any) -> None:
        record_constructions()
        self.world = FakeWorld(1, run_id=run_id)
        self.keywords = {
            name: options.pop(name) for name in ("eval_dataset", "model_init") if name in options
        }
        model = None if "model_init" in self.keywords else make_model()
        call = TrainerCall(
            kind=kind,
            positional=(model, as_made(make_arguments(directory, **options))),
            keywords={"train_dataset": samples(), **self.keywords},
            given_model=model,
        )
        self.session: OwnLoopSession = self.on_rank(lambda rank: open_session(unpack(pack(call)), rank))

    def on_rank(self, do: Any) -> Any:
        rank = self.world.runtimes[0]
        return do(rank)

    def run(self, method: str = "train", *args: Any, restarted: bool = False, **kwargs: Any) -> Any:
        return self.session.run(method, args, kwargs, restarted=restarted, context=CallContext())

    def events(self, kind: type) -> list[Any]:
        return [event for event in self.world.runtimes[0].events if isinstance(event, kind)]

    def weights(self) -> Any:
        return self.session.trained().weights


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = tmp_path_factory.mktemp("own-loop")
    opened = Opened(ZerothOrderTrainer, directory, save_only_model=True)
    result = opened.run()
    return opened, result, directory


def test_the_loop_of_the_class_runs(trained: Any) -> None:
    _, result, _ = trained
    assert result.value.metrics == {"train_loss": result.value.training_loss}
    assert result.state.global_step == NUM_STEPS
    assert any(
        not torch.equal(value, make_model().state_dict()[name])
        for name, value in trained[0].weights().items()
    )


def test_the_driver_sees_how_it_goes(trained: Any) -> None:
    opened, result, _ = trained
    (started,) = opened.events(TrainStarted)
    assert (started.max_steps, started.first_step) == (NUM_STEPS, 0)
    assert started.rows[1].engaged == "ZerothOrderTrainer of tests"
    assert [event.logs["loss"] for event in opened.events(Logged)] == losses(result)
    assert [event.step for event in opened.events(TrainEnded)] == [NUM_STEPS]


def test_saves_are_committed_by_a_manifest(trained: Any) -> None:
    opened, _, directory = trained
    steps = [event.step for event in opened.events(CheckpointCommitted)]
    assert steps == [2, 4, 6, 8]
    for step in steps:
        manifest = verify_checkpoint(directory / f"checkpoint-{step}")
        assert (manifest.step, manifest.run_id) == (step, "run")
        assert "model.safetensors" in manifest.files
    assert sorted(path.name for path in directory.iterdir()) == [f"checkpoint-{step}" for step in steps]


@pytest.mark.parametrize(
    ("kind", "options"), [(ZerothOrderTrainer, {"save_only_model": True}), (PlainTrainer, {})]
)
def test_a_restart_goes_on_from_its_own_newest_checkpoint_and_ends_with_the_same_weights(
    tmp_path: Path, kind: type, options: Any
) -> None:
    first = Opened(kind, tmp_path, **options)
    first.run()
    shutil.rmtree(tmp_path / "checkpoint-8")
    again = Opened(kind, tmp_path, **options)
    again.run(restarted=True)
    assert again.events(TrainStarted)[0].resumed_from == str(tmp_path / "checkpoint-6")
    for name, value in first.weights().items():
        assert torch.equal(again.weights()[name], value), name


def test_a_restart_does_not_take_the_checkpoint_of_another_run(tmp_path: Path) -> None:
    Opened(PlainTrainer, tmp_path, run_id="earlier").run()
    again = Opened(PlainTrainer, tmp_path)
    again.run(restarted=True)
    assert again.events(TrainStarted)[0].resumed_from is None


def test_resuming_skips_a_damaged_checkpoint(tmp_path: Path) -> None:
    Opened(PlainTrainer, tmp_path).run()
    weights = tmp_path / "checkpoint-8" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    again = Opened(PlainTrainer, tmp_path)
    again.run("train", resume_from_checkpoint=True)
    assert again.events(TrainStarted)[0].resumed_from == str(tmp_path / "checkpoint-6")


def test_resuming_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No valid checkpoint found"):
        Opened(PlainTrainer, tmp_path).run("train", True)


def test_the_command_to_stop_saves_and_ends_the_loop_at_the_next_step(tmp_path: Path) -> None:
    opened = Opened(ZerothOrderTrainer, tmp_path, save_strategy="no", save_only_model=True)
    opened.world.commanded = Command.STOP_AFTER_SAVE
    assert opened.run().state.global_step == 1
    assert [event.step for event in opened.events(CheckpointCommitted)] == [1]
    assert opened.events(TrainEnded)[0].interrupted


def test_the_command_to_move_saves_at_the_next_step_and_leaves_the_rest_to_other_workers(
    tmp_path: Path,
) -> None:
    opened = Opened(PlainTrainer, tmp_path, save_strategy="no")
    opened.world.commanded = Command.MOVE
    with pytest.raises(WorkersMove):
        opened.run()
    assert [event.step for event in opened.events(CheckpointCommitted)] == [1]
    assert opened.events(TrainEnded) == []
    others = Opened(PlainTrainer, tmp_path, save_strategy="no")
    assert others.run(restarted=True).state.global_step > 1
    assert others.events(TrainStarted)[0].resumed_from == str(tmp_path / "checkpoint-1")


def test_surplus_checkpoints_are_deleted_after_the_commit_and_the_best_stays(tmp_path: Path) -> None:
    opened = Opened(
        PlainTrainer,
        tmp_path,
        eval_dataset=samples(8),
        eval_strategy="steps",
        eval_steps=2,
        save_total_limit=2,
        load_best_model_at_end=True,
        greater_is_better=True,  # so that it is not the last one
        metric_for_best_model="loss",
    )
    state = opened.run().state
    best = tmp_path / f"checkpoint-{state.best_global_step}"
    assert state.best_model_checkpoint == str(best)
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {best.name, "checkpoint-8"}
    assert f'"best_model_checkpoint": "{best}"' in (best / "trainer_state.json").read_text(encoding="utf-8")
    assert opened.session._trainer.args.save_total_limit == 2
    assert opened.events(PredictionDone)


def test_a_class_that_saves_elsewhere_is_told(tmp_path: Path) -> None:
    opened = Opened(SavesElsewhere, tmp_path)
    with pytest.raises(CheckpointError, match=r"SavesElsewhere\._save_checkpoint wrote no checkpoint-2"):
        opened.run()


class SavesElsewhere(PlainTrainer):
    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.save_model(f"{self.args.output_dir}/mine")


def test_a_model_that_the_trainer_made_itself_is_returned(tmp_path: Path) -> None:
    opened = Opened(PlainTrainer, tmp_path, model_init=make_model, save_strategy="no")
    opened.run()
    trained = unpack(pack(opened.session.trained()))
    assert trained.model is not None
    trained.model.load_state_dict(trained.weights)
    assert not torch.equal(trained.model.lm_head.weight, make_model().lm_head.weight)


def test_a_model_that_was_given_stays_where_it_is(trained: Any) -> None:
    assert trained[0].session.trained().model is None


def test_an_attribute_is_read_and_a_missing_one_is_said(trained: Any) -> None:
    opened, result, _ = trained
    assert opened.run("_attribute", "last_loss").value == (True, losses(result)[-1])
    assert opened.run("_attribute", "nothing").value == (False, None)
