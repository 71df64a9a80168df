"""Binding arguments to a process, and what is checked there."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest
import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.state import AcceleratorState
from transformers.training_args import ParallelMode

from raytrainer import ConfigurationError, TrainingArguments
from raytrainer.arguments import process as binding
from raytrainer.arguments.placement import Placement

CUDA = Placement(
    rank=2, local_rank=0, world_size=4, local_world_size=2, device=torch.device("cuda", 0), backend="nccl"
)


@pytest.fixture
def no_state():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_answers_come_from_the_placement(second_of_two):
    args = TrainingArguments(num_workers=2)
    args.resolve(second_of_two)
    assert args.is_resolved
    assert args.device == torch.device("cpu")
    assert (args.world_size, args.process_index, args.local_process_index) == (2, 1, 1)
    assert (args.should_save, args.should_log) == (False, False)
    assert args.parallel_mode is ParallelMode.DISTRIBUTED


def test_first_process_of_a_second_node_logs_but_does_not_save(monkeypatch):
    monkeypatch.setattr(binding, "is_torch_bf16_gpu_available", lambda: True)
    args = TrainingArguments()
    args.resolve(CUDA)
    assert (args.should_log, args.should_save) == (True, False)
    args.log_on_each_node = False
    assert not args.should_log


def test_a_gpu_process_has_one_gpu_and_the_batch_of_one_device():
    args = TrainingArguments(per_device_train_batch_size=3, per_device_eval_batch_size=5)
    args.resolve(CUDA)
    assert (args.n_gpu, args.train_batch_size, args.eval_batch_size) == (1, 3, 5)


def test_replicas_have_their_own_log_level(on_cpu, second_of_two):
    args = TrainingArguments(log_level="info", log_level_replica="error")
    args.resolve(on_cpu)
    assert args.get_process_log_level() == 20
    args.resolve(second_of_two)
    assert args.get_process_log_level() == 40


def test_replicas_are_at_warning_by_default(second_of_two):
    args = TrainingArguments()
    args.resolve(second_of_two)
    assert args.get_process_log_level() == 30


@pytest.mark.parametrize(("everywhere", "level"), [(True, 20), (False, 30)])
def test_log_on_each_node_decides_about_the_first_process_of_another_node(on_cpu, everywhere, level):
    args = TrainingArguments(log_level="info", log_on_each_node=everywhere)
    args.resolve(dataclasses.replace(on_cpu, rank=2, local_rank=0, world_size=4, local_world_size=2))
    assert args.get_process_log_level() == level


def test_resolve_twice_is_resolve_once(on_cpu):
    args = TrainingArguments()
    args.resolve(on_cpu)
    state = dict(args.__dict__)
    args.resolve(dataclasses.replace(on_cpu))
    assert args.__dict__ == state


@pytest.mark.parametrize("copied", [lambda args: pickle.loads(pickle.dumps(args)), copy.deepcopy, copy.copy])
def test_a_copy_of_resolved_arguments_is_as_before(copied, second_of_two):
    args = TrainingArguments(bf16=True)
    before = dict(args.__dict__)
    args.resolve(second_of_two)
    assert args.is_resolved
    again = copied(args)
    assert not again.is_resolved
    assert again.__dict__ == before


def test_another_placement_binds_anew(second_of_two):
    args = TrainingArguments()
    args.resolve(second_of_two)
    args.resolve(CUDA)
    assert args.process_index == 2


def test_arguments_keep_their_values_on_a_cpu(on_cpu):
    args = TrainingArguments()
    before = args.to_dict()
    args.resolve(on_cpu)
    assert args.to_dict() == before
    assert before["dataloader_pin_memory"]


@pytest.mark.usefixtures("no_state")
def test_accelerate_state_is_made_when_read(on_cpu):
    args = TrainingArguments()
    args.resolve(on_cpu)
    assert PartialState._shared_state == {}
    assert args.distributed_state.num_processes == 1


def test_bf16_trains_on_cpu(on_cpu):
    TrainingArguments(bf16=True, bf16_full_eval=True).resolve(on_cpu)


def test_fp16_on_cpu_is_refused(on_cpu):
    with pytest.raises(ConfigurationError, match=r"fp16.*needs a GPU.*bf16=True"):
        TrainingArguments(fp16=True).resolve(on_cpu)


def test_fp16_from_the_environment_is_refused_on_cpu_too(on_cpu, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(ConfigurationError, match="fp16"):
        TrainingArguments().resolve(on_cpu)


def test_a_requested_gpu_that_is_not_there_is_refused(on_cpu):
    with pytest.raises(ConfigurationError, match="use_gpu=True, but rank 0 runs on cpu"):
        TrainingArguments(use_gpu=True).resolve(on_cpu)


def test_a_gpu_for_a_cpu_run_is_refused():
    with pytest.raises(ConfigurationError, match="use_cpu=True"):
        TrainingArguments(use_cpu=True).resolve(CUDA)


def test_tf32_without_such_a_gpu_is_refused(on_cpu):
    with pytest.raises(ConfigurationError, match="tf32=True"):
        TrainingArguments(tf32=True).resolve(on_cpu)


def test_bf16_on_an_old_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(binding, "is_torch_bf16_gpu_available", lambda: False)
    with pytest.raises(ConfigurationError, match="does not support bf16"):
        TrainingArguments(bf16=True).resolve(CUDA)


def test_a_refused_device_leaves_arguments_unresolved(on_cpu):
    args = TrainingArguments(fp16=True)
    with pytest.raises(ConfigurationError):
        args.resolve(on_cpu)
    assert not args.is_resolved


@pytest.mark.parametrize("wish", [True, False])
def test_tf32_is_set_where_the_gpu_has_it(monkeypatch, wish):
    seen = []
    monkeypatch.setattr(binding, "is_torch_tf32_available", lambda: True)
    monkeypatch.setattr(binding, "enable_tf32", seen.append)
    TrainingArguments(tf32=wish).resolve(CUDA)
    assert seen == [wish]


def test_main_process_first_holds_the_others_back(monkeypatch, on_cpu, second_of_two):
    order = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "barrier", lambda: order.append("barrier"))
    for placement in (dataclasses.replace(on_cpu, world_size=2), second_of_two):
        args = TrainingArguments()
        args.resolve(placement)
        with args.main_process_first():
            order.append(placement.rank)
    assert order == [0, "barrier", "barrier", 1]


def test_main_process_releases_the_others_when_it_fails(monkeypatch, on_cpu):
    calls = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "barrier", lambda: calls.append(1))
    args = TrainingArguments()
    args.resolve(dataclasses.replace(on_cpu, world_size=2))
    with pytest.raises(KeyError), args.main_process_first():
        raise KeyError
    assert calls == [1]
