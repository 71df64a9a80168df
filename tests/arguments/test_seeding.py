"""What a script draws after it constructed a Trainer is what it draws with transformers."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.parity.twins import LIBRARIES, assert_equal_runs, make_trainer


@pytest.mark.parametrize("seed", [42, 7])
def test_the_constructor_seeds_as_that_of_transformers(tmp_path: Path, seed: int):
    drawn = {}
    for name, library in LIBRARIES.items():
        make_trainer(library, tmp_path / name, seed=seed)
        drawn[name] = (random.random(), np.random.rand(), torch.nn.Linear(3, 3).weight.tolist())
    assert drawn["ours"] == drawn["theirs"]


def test_what_is_drawn_between_constructor_and_training_changes_dropout_as_in_transformers(tmp_path: Path):
    trainers = {}
    for name, library in LIBRARIES.items():
        trainer = trainers[name] = make_trainer(library, tmp_path / name, max_steps=3)
        torch.rand(5)
        trainer.train()
    assert_equal_runs(trainers["ours"], trainers["theirs"])
