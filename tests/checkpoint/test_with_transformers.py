"""Checkpoints of transformers.Trainer load here, and ours resume there, with the numbers of an uninterrupted run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainingArguments

from raytrainer.callbacks.saved_states import export_states
from raytrainer.checkpoint.commit import commit_checkpoint
from raytrainer.checkpoint.model_files import load_model_weights, save_model_weights
from raytrainer.checkpoint.model_match import check_matches_model
from raytrainer.checkpoint.rng import load_rng, save_rng
from raytrainer.checkpoint.scan import check_resumable, newest_checkpoint
from raytrainer.checkpoint.state_files import (
    load_trainer_state,
    save_trainer_state,
)
from tests.checkpoint.models import gpt2, plain, same_weights
from tests.checkpoint.optimizers import load_optimizer_files, save_optimizer_files
from tests.checkpoint.saving import FACTS
from tests.fakes import FakeWorld


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, index):
        ids = torch.arange(index, index + 5) % 20
        return {"input_ids": ids, "labels": ids}


def transformers_trainer(output_dir, trainer_class=Trainer, model=None):
    args = TrainingArguments(
        output_dir=str(output_dir),
        max_steps=6,
        save_steps=3,
        logging_steps=1,
        per_device_train_batch_size=2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        lr_scheduler_type="cosine",
    )
    return trainer_class(model=model or gpt2(), args=args, train_dataset=Rows())


class SavesWithUs(Trainer):
    """transformers' own loop, whose checkpoints are committed by this package."""

    def _save_checkpoint(self, model, trial):
        def write(target: Path) -> list[Path]:
            self.state.stateful_callbacks = export_states(self.callback_handler.callbacks, self.control)
            return [
                *save_model_weights(self.model, target),
                *save_optimizer_files(target, optimizer=self.optimizer, scheduler=self.lr_scheduler),
                save_rng(target, rank=0, world_size=1),
                save_trainer_state(target, self.state),
            ]

        (path,) = FakeWorld().run(
            lambda runtime: commit_checkpoint(
                Path(self.args.output_dir),
                self.state.global_step,
                runtime=runtime,
                write_parts=[write],
                facts=FACTS,
            )
        )
        check_resumable(path)


def losses(trainer):
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    trainer = transformers_trainer(tmp_path_factory.mktemp("hf"))
    trainer.train()
    return trainer


def test_transformers_resumes_our_checkpoint_with_equal_losses_and_weights(tmp_path, uninterrupted):
    transformers_trainer(tmp_path, SavesWithUs).train()
    trainer = transformers_trainer(tmp_path)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert losses(trainer) == losses(uninterrupted)
    assert same_weights(trainer.model, uninterrupted.model)


def test_our_checkpoint_has_the_files_of_transformers_but_its_pickled_arguments(tmp_path, uninterrupted):
    transformers_trainer(tmp_path, SavesWithUs).train()
    ours = {path.name for path in (tmp_path / "checkpoint-3").iterdir()}
    theirs = {path.name for path in (Path(uninterrupted.args.output_dir) / "checkpoint-3").iterdir()}
    assert ours - theirs == {"manifest.json"}
    assert theirs - ours == {"training_args.bin"}


def test_a_checkpoint_of_transformers_gives_us_the_same_state(tmp_path, uninterrupted):
    run_dir = Path(uninterrupted.args.output_dir)
    path = newest_checkpoint(run_dir, report=lambda text: None)
    assert path == run_dir / "checkpoint-6"
    check_resumable(path)
    model = gpt2(1)
    check_matches_model(path, model)
    load_model_weights(model, path)
    assert same_weights(model, uninterrupted.model)
    fresh = transformers_trainer(tmp_path)
    fresh.create_optimizer_and_scheduler(6)
    assert load_optimizer_files(
        path, model=fresh.model, optimizer=fresh.optimizer, scheduler=fresh.lr_scheduler
    )
    assert fresh.lr_scheduler.state_dict() == uninterrupted.lr_scheduler.state_dict()
    ours, theirs = fresh.optimizer.state_dict()["state"], uninterrupted.optimizer.state_dict()["state"]
    assert all(torch.equal(ours[key]["exp_avg_sq"], theirs[key]["exp_avg_sq"]) for key in theirs)
    assert load_rng(path, rank=0, world_size=1)
    assert load_trainer_state(path).log_history == uninterrupted.state.log_history[:6]


def test_a_checkpoint_of_transformers_that_was_copied_halfway_is_not_taken(tmp_path, uninterrupted):
    shutil.copytree(uninterrupted.args.output_dir, tmp_path / "run")
    weights = tmp_path / "run" / "checkpoint-6" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert newest_checkpoint(tmp_path / "run", report=lambda text: None).name == "checkpoint-3"


def test_a_plain_module_that_transformers_saved_loads_here(tmp_path):
    model = torch.nn.Linear(2, 2)
    trainer = transformers_trainer(tmp_path, model=model)
    trainer.save_model(str(tmp_path / "saved"))
    loaded = torch.nn.Linear(2, 2)
    load_model_weights(loaded, tmp_path / "saved")
    assert same_weights(loaded, model)


def test_a_plain_module_that_we_saved_loads_in_transformers(tmp_path):
    save_model_weights(plain(0), tmp_path / "saved")
    trainer = transformers_trainer(tmp_path, model=plain(1))
    trainer._load_from_checkpoint(str(tmp_path / "saved"))
    assert same_weights(trainer.model, plain(0))
