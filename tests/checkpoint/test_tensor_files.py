"""Files of full tensors."""

from __future__ import annotations

import pytest
import safetensors
import torch

from raytrainer.checkpoint.tensor_files import each_tensor, read_tensors, write_tensors
from raytrainer.errors import CheckpointError


def test_tensors_are_read_as_they_were_written(tmp_path):
    tensors = {"weight": torch.arange(6.0).view(2, 3), "count": torch.tensor(3)}
    write_tensors(tmp_path / "x.safetensors", tensors)
    found = read_tensors(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_a_file_says_that_its_tensors_are_torchs(tmp_path):
    write_tensors(tmp_path / "x.safetensors", {"a": torch.ones(1)})
    with safetensors.safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_tensors_of_several_files_come_file_by_file_and_by_name(tmp_path):
    write_tensors(tmp_path / "1.safetensors", {"d": torch.ones(1), "b": torch.ones(2)})
    write_tensors(tmp_path / "2.safetensors", {"a": torch.ones(3)})
    paths = [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
    assert [(name, value.numel()) for name, value in each_tensor(paths)] == [("b", 2), ("d", 1), ("a", 3)]


def test_a_file_that_is_cut_off_is_named(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.ones(100)})
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r"x\.safetensors cannot be read as safetensors"):
        read_tensors(path)
