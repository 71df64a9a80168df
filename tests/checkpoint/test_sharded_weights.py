"""How tensors are distributed over files and read back, without ranks."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from raytrainer.checkpoint.sharded_weights import load_sharded_weights, part_name, save_in_parts, share_out
from raytrainer.errors import CheckpointError


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30), st.integers(1, 8))
def test_runs_are_in_order_without_gaps_and_none_is_left_out(sizes, count):
    named = {f"t{number}": size for number, size in enumerate(sizes)}
    owners = share_out(named, count)
    assert list(owners) == list(named)
    numbers = list(owners.values())
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(max(numbers) + 1))
    assert max(numbers) < count


def test_equal_tensors_are_shared_out_equally():
    assert list(share_out({f"t{number}": 10 for number in range(6)}, 3).values()) == [0, 0, 1, 1, 2, 2]


def test_parts_have_the_names_that_from_pretrained_knows():
    assert part_name(0, 1) == "model.safetensors"
    assert part_name(1, 12) == "model-00002-of-00012.safetensors"


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float64])
def test_weights_are_read_into_the_memory_of_the_model_and_cast(tmp_path, stored):
    torch.manual_seed(0)
    source, target = nn.Linear(3, 5), nn.Linear(3, 5)
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({name: value.to(stored) for name, value in source.state_dict().items()}, path)
    memory = target.weight.data_ptr()
    load_sharded_weights(target, [path])
    assert target.weight.data_ptr() == memory
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value.to(stored).float()), name


def test_a_weight_that_is_not_there_is_named(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(5, 3)}, path)
    with pytest.raises(CheckpointError, match="No file holds the weights bias"):
        load_sharded_weights(nn.Linear(3, 5), [path])


def test_a_file_that_ends_too_early_is_an_error(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(5, 3), "bias": torch.zeros(5)}, path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="ends before its last tensor"):
        load_sharded_weights(nn.Linear(3, 5), [path])


def test_of_tied_weights_either_name_is_enough(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(2, 2, bias=False)
            self.other = nn.Linear(2, 2, bias=False)
            self.other.weight = self.one.weight

    for name in ("one.weight", "other.weight"):
        path = tmp_path / f"{name}.safetensors"
        safetensors.torch.save_file({name: torch.full((2, 2), 7.0)}, path)
        model = Tied()
        load_sharded_weights(model, [path])
        assert torch.equal(model.one.weight, torch.full((2, 2), 7.0))


def test_a_model_that_does_not_generate_is_saved_without_a_generation_config(tmp_path):
    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    save_in_parts(BertForSequenceClassification(config), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    assert BertForSequenceClassification.from_pretrained(tmp_path).config.hidden_size == 8
