"""What a step costs besides the model, in counts: calls of our functions, waits for a device, bytes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import transformers
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import raytrainer
from raytrainer.loop.rank_check import check_ranks_agree, is_check_due

PACKAGE = str(Path(raytrainer.__file__).parent)
FIRST, LAST = 5, 25


class Nothing(nn.Module):
    """Has 50 modules and computes nothing."""

    accepts_loss_kwargs = True

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.layers = nn.ModuleList(nn.Identity() for _ in range(50))

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor, num_items_in_batch: Any = 1) -> Any:
        return {"loss": self.weight / num_items_in_batch}


class Between(transformers.TrainerCallback):
    """Begins something after one step, and ends it after another."""

    def __init__(self, begin: Callable[[], object], end: Callable[[], object]) -> None:
        self.begin, self.end = begin, end

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == FIRST:
            self.begin()
        if state.global_step == LAST:
            self.end()


class OverridesNothing(transformers.TrainerCallback):
    """Listens to no event."""


def train(directory: Path, callbacks: list[Any], **options: Any) -> None:
    options = {"logging_strategy": "no", "save_strategy": "no", "gradient_accumulation_steps": 1, **options}
    args = raytrainer.TrainingArguments(
        output_dir=str(directory),
        num_workers=0,
        per_device_train_batch_size=1,
        max_steps=LAST + 2,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )
    sample = {"input_ids": torch.tensor([1, 1]), "labels": torch.tensor([1, 1])}
    num_samples = (LAST + 2) * args.gradient_accumulation_steps
    raytrainer.Trainer(
        model=Nothing(), args=args, train_dataset=[sample] * num_samples, callbacks=callbacks
    ).train()


def calls_per_step(directory: Path, *, more: int = 0, **options: Any) -> float:
    """How many calls of functions of the package a step makes; and of a model's modules.

    Args:
        directory: Of the run.
        more: Callbacks that override nothing.
        **options: Training arguments.
    """
    num_calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal num_calls
        if event == "call" and (
            frame.f_code.co_filename.startswith(PACKAGE) or frame.f_code.co_name == "train"
        ):
            num_calls += 1

    clock = Between(lambda: sys.setprofile(count), lambda: sys.setprofile(None))
    train(directory, [clock, *(OverridesNothing() for _ in range(more))], **options)
    return num_calls / (LAST - FIRST)


@pytest.mark.parametrize(
    ("options", "bound"),
    [
        ({}, 130),
        ({"logging_strategy": "steps", "logging_steps": 1}, 235),
        ({"gradient_accumulation_steps": 4}, 370),
    ],
    ids=["plain", "log", "accumulate"],
)
def test_a_step_makes_few_calls_of_our_functions(tmp_path: Path, options: dict[str, Any], bound: int) -> None:
    calls = calls_per_step(tmp_path, **options)
    assert 20 < calls < bound


def test_callbacks_that_override_nothing_cost_no_call(tmp_path: Path) -> None:
    assert calls_per_step(tmp_path / "ten", more=10) == calls_per_step(tmp_path / "none")


class Looks(TorchDispatchMode):
    """Counts how often a value is taken out of a tensor, for which a GPU would be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("accumulation", "bound"), [(1, 3), (4, 6)])
def test_values_are_taken_out_of_tensors_once_per_loss_and_twice_per_step(
    tmp_path: Path, accumulation: int, bound: int
) -> None:
    looks = Looks()
    clock = Between(looks.__enter__, lambda: looks.__exit__(None, None, None))
    train(tmp_path, [clock], gradient_accumulation_steps=accumulation)
    # On the CPU the loss is looked at, the number of targets, and by how much gradients are clipped; on a GPU none of
    # them (tests/gpu/test_synchronization.py).
    assert looks.count / (LAST - FIRST) <= bound


@pytest.fixture
def second_rank_that_agrees() -> Any:
    """A process group of two in this process, whose collectives leave everything as it is."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    dist.destroy_process_group()


def test_the_rank_check_sends_less_than_a_hundredth_of_the_gradients(
    second_rank_that_agrees: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    del second_rank_that_agrees
    sent: list[int] = []
    reduce = dist.all_reduce

    def counted(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        sent.append(tensor.nbytes)
        return reduce(tensor, *args, **kwargs)

    monkeypatch.setattr(dist, "all_reduce", counted)
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(10)))
    every = raytrainer.TrainingArguments.__dataclass_fields__["rank_check_steps"].default
    run: Any = SimpleNamespace(
        args=SimpleNamespace(rank_check_steps=every),
        runtime=SimpleNamespace(world_size=2),
        trainer=SimpleNamespace(state=SimpleNamespace(global_step=0), model=model),
    )
    num_steps = 10 * every
    for step in range(1, num_steps + 1):
        run.trainer.state.global_step = step
        if is_check_due(run):
            check_ranks_agree(run)
    gradients = num_steps * sum(parameter.nbytes for parameter in model.parameters())
    assert len(sent) == 10
    assert sum(sent) < gradients / 100
