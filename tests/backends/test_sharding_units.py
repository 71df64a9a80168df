"""Which modules become sharding units."""

from __future__ import annotations

import pytest
from torch import nn

from raytrainer.backends.sharding_units import choose_units
from raytrainer.dialects.fsdp import ShardingOptions
from raytrainer.errors import ConfigurationError
from tests.parity.twins import make_model


def test_blocks_that_the_model_declares_are_units_by_default():
    model = make_model()
    units = choose_units(model, ShardingOptions())
    assert [type(unit).__name__ for unit in units] == ["LlamaDecoderLayer"] * 2
    assert set(map(id, units)) == {id(layer) for layer in model.model.layers}


def test_named_classes_are_units_innermost_first():
    model = make_model()
    units = choose_units(model, ShardingOptions(layer_classes=("LlamaDecoderLayer", "LlamaMLP")))
    assert [type(unit).__name__ for unit in units] == ["LlamaMLP", "LlamaDecoderLayer"] * 2


def test_size_makes_units_of_what_is_large_enough_once():
    model = nn.Sequential(
        nn.Linear(10, 10), nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10)), nn.Linear(2, 2)
    )
    units = choose_units(model, ShardingOptions(wrap="size", min_num_params=150))
    assert units == [model[1]]
    units = choose_units(model, ShardingOptions(wrap="size", min_num_params=100))
    assert units == [model[0], model[1][0], model[1][1]]


def test_no_wrap_has_no_units():
    assert choose_units(make_model(), ShardingOptions(wrap="none")) == []


def test_a_class_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(ConfigurationError, match=r"no module of class Block.*LlamaDecoderLayer \(2\)"):
        choose_units(make_model(), ShardingOptions(layer_classes=("Block",)))


def test_a_model_that_declares_no_blocks_is_told_how_to_choose():
    with pytest.raises(ConfigurationError, match=r"declares none.*Linear.*SIZE_BASED_WRAP"):
        choose_units(nn.Sequential(nn.Linear(2, 2)), ShardingOptions())
