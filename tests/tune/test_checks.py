"""What a sweep cannot do is refused before anything starts."""

from __future__ import annotations

import pytest

import raytrainer
import raytrainer.tune
from raytrainer import ConfigurationError
from tests.parity.twins import make_model, make_trainer


def test_a_sweep_of_ones_own_refuses_saves_that_are_written_beside_training(tmp_path):
    trainer = make_trainer(raytrainer, tmp_path, async_save=True)
    trainer.model_init = make_model
    with pytest.raises(ConfigurationError, match=r"async_save=True commits .* Leave async_save out"):
        raytrainer.tune.trainable(trainer)
