"""The random state of a rank is restored bitwise, from the files of transformers."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from raytrainer.checkpoint.rng import load_rng, ranks_without, save_rng
from raytrainer.errors import CheckpointError


def draw():
    return (
        [random.random() for _ in range(3)] + [random.gauss(0, 1)],
        np.random.normal(size=3).tolist(),
        torch.rand(5).tolist(),
    )


@pytest.mark.parametrize("world_size", [1, 2])
def test_every_generator_goes_on_bit_by_bit(tmp_path, world_size):
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    draw()
    np.random.normal()  # leaves half of a pair of normals in numpy's state
    save_rng(tmp_path, rank=world_size - 1, world_size=world_size)
    expected = draw()
    assert draw() != expected
    assert load_rng(tmp_path, rank=world_size - 1, world_size=world_size) is True
    assert draw() == expected


def test_the_files_are_called_as_those_of_transformers(tmp_path):
    assert save_rng(tmp_path, rank=0, world_size=1) == tmp_path / "rng_state.pth"
    assert save_rng(tmp_path, rank=3, world_size=4) == tmp_path / "rng_state_3.pth"


def test_a_state_that_was_never_saved_changes_nothing(tmp_path):
    save_rng(tmp_path, rank=0, world_size=2)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    assert load_rng(tmp_path, rank=1, world_size=2) is False
    assert load_rng(tmp_path, rank=0, world_size=1) is False
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_ranks_are_named_that_a_checkpoint_has_no_state_of(tmp_path):
    for rank in (0, 1):
        save_rng(tmp_path, rank=rank, world_size=2)
    assert ranks_without(tmp_path, 2) == []
    assert ranks_without(tmp_path, 4) == [2, 3]
    assert ranks_without(tmp_path, 1) == [0]


@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_a_damaged_state_is_an_error(tmp_path, content):
    (tmp_path / "rng_state.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read as a random state"):
        load_rng(tmp_path, rank=0, world_size=1)


def test_a_state_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    torch.save({"python": Evil()}, tmp_path / "rng_state.pth")
    with pytest.raises(CheckpointError):
        load_rng(tmp_path, rank=0, world_size=1)
