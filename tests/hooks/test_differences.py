"""Deliberate differences from transformers that no other test shows."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import transformers
from torch.utils.data import IterableDataset
from transformers import TrainerCallback

import raytrainer
from tests.parity.twins import make_args, make_model, make_samples, make_trainer, rows


class Stream(IterableDataset):  # type: ignore[type-arg]
    """Five batches, one after the other, without a length."""

    def __iter__(self) -> Any:
        yield from make_samples(20)


def train_on_stream(library: Any, directory: Path, resume: Path | None = None) -> Any:
    trainer = library.Trainer(
        model=make_model(dropout=0.0),
        args=make_args(library, directory, max_steps=9, save_strategy="steps", save_steps=7),
        train_dataset=Stream(),
    )
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return trainer


def test_a_finite_stream_resumes_in_its_second_pass(tmp_path: Path) -> None:
    losses = {}
    for library in (raytrainer, transformers):
        directory = tmp_path / library.__name__
        whole = train_on_stream(library, directory)
        resumed = train_on_stream(library, directory, directory / "checkpoint-7")
        losses[library] = [[row[1] for row in rows(trainer)][-2:] for trainer in (whole, resumed)]
    ours, theirs = losses[raytrainer], losses[transformers]
    assert ours[0] == pytest.approx(theirs[0], abs=1e-6)
    assert ours[1] == ours[0]
    assert theirs[1] != pytest.approx(theirs[0], abs=1e-4), "transformers starts at the first sample again"


def test_an_override_of_log_may_take_the_logs_alone(tmp_path: Path) -> None:
    heard = []

    class Mine(raytrainer.Trainer):
        def log(self, logs: dict[str, float]) -> None:
            heard.append(logs.get("loss"))
            super().log(logs)

    trainer = Mine(
        model=make_model(), args=make_args(raytrainer, tmp_path, max_steps=2), train_dataset=make_samples()
    )
    trainer.train()
    assert heard == [*(row[1] for row in rows(trainer)), None]


class HearsInit(TrainerCallback):
    """Records the models of on_init_end."""

    def __init__(self) -> None:
        self.models: list[Any] = []

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.models.append(kwargs["model"])


def test_on_init_end_comes_within_the_constructor(tmp_path: Path) -> None:
    given, added, model = HearsInit(), HearsInit(), make_model()
    args = make_args(raytrainer, tmp_path, max_steps=1)
    trainer = raytrainer.Trainer(model=model, args=args, train_dataset=make_samples(), callbacks=[given])
    assert given.models == [model]
    trainer.add_callback(added)
    trainer.train()
    assert given.models == [model]
    assert added.models == [], "it was added after the constructor"


def test_a_tracker_hears_on_init_end_in_the_process_that_trains(tmp_path: Path) -> None:
    class Tracker(HearsInit):
        pass

    Tracker.__module__ = "transformers.integrations.integration_utils"
    tracker = Tracker()
    args = make_args(raytrainer, tmp_path, max_steps=1)
    trainer = raytrainer.Trainer(
        model=make_model(), args=args, train_dataset=make_samples(), callbacks=[tracker]
    )
    assert tracker.models == []
    trainer.train()
    assert tracker.models == [trainer.model]


def test_the_log_level_is_set_by_the_constructor_and_stays(tmp_path: Path) -> None:
    before = transformers.utils.logging.get_verbosity()
    try:
        transformers.utils.logging.set_verbosity_warning()
        trainer = make_trainer(raytrainer, tmp_path, max_steps=1, log_level="error")
        assert transformers.utils.logging.get_verbosity() == logging.ERROR
        trainer.train()
        assert transformers.utils.logging.get_verbosity() == logging.ERROR
    finally:
        transformers.utils.logging.set_verbosity(before)
