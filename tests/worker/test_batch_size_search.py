"""auto_find_batch_size: smaller micro-batches, the same global batch, the same losses as with the final sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import raytrainer
from raytrainer.driver.entry_points import open_local_session
from raytrainer.errors import ConfigurationError
from raytrainer.loop.micro_batch_sizes import MicroBatchSizes
from tests.parity.twins import make_args, make_model, make_samples, rows


def limit_memory(model: Any, *, most: int, from_call: int = 0, in_backward: bool = False) -> list[int]:
    """Make a model run out of memory above a micro-batch size; return the sizes it was called with."""
    sizes: list[int] = []

    def look(module: Any, args: Any, kwargs: Any) -> None:
        if not module.training:
            return
        sizes.append(len(kwargs["input_ids"]))
        if sizes[-1] > most and len(sizes) > from_call and not in_backward:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def fail(gradient: Any) -> Any:
        if sizes[-1] > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return gradient

    model.register_forward_pre_hook(look, with_kwargs=True)
    if in_backward:
        model.model.layers[0].mlp.up_proj.weight.register_hook(fail)
    return sizes


def train(directory: Path, model: Any = None, events: list[Any] | None = None, **options: Any) -> Any:
    trainer = raytrainer.Trainer(
        model=make_model() if model is None else model,
        args=make_args(raytrainer, directory, **{"max_steps": 6, **options}),
        train_dataset=make_samples(),
    )
    if events is not None:
        open_local_session(trainer).runtime._on_event = events.append
    trainer.train()
    return trainer


@pytest.mark.parametrize("in_backward", [False, True], ids=["forward", "backward"])
def test_losses_are_those_of_a_run_with_the_final_sizes(in_backward: bool, tmp_path: Path) -> None:
    model = make_model()
    sizes = limit_memory(model, most=2, in_backward=in_backward)
    found = train(tmp_path / "a", model, per_device_train_batch_size=8, auto_find_batch_size=True)
    expected = train(tmp_path / "b", per_device_train_batch_size=2, gradient_accumulation_steps=4)
    assert sizes[:2] == [8, 4]
    assert set(sizes[2:]) == {2}
    assert rows(found) == rows(expected)
    for name, value in expected.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], value), name


def test_the_table_and_a_note_report_it(tmp_path: Path) -> None:
    model = make_model()
    limit_memory(model, most=4)
    events: list[Any] = []
    train(tmp_path, model, events, per_device_train_batch_size=8, auto_find_batch_size=True)
    started = [event for event in events if type(event).__name__ == "TrainStarted"]
    row = next(row for row in started[-1].rows if row.what == "global batch")
    assert (row.requested, row.ok) == ("8 x 1 x 1", True)
    assert row.engaged == "8 samples a step, as 4 x 2 x 1 to fit into memory"
    notes = [event.text for event in events if type(event).__name__ == "Note"]
    assert any(text.startswith("Out of memory in step 1 with 8 x 1 samples") for text in notes)


def test_arguments_come_out_as_they_were(tmp_path: Path) -> None:
    model = make_model()
    limit_memory(model, most=2)
    trainer = train(tmp_path, model, per_device_train_batch_size=8, auto_find_batch_size=True)
    assert (trainer.args.per_device_train_batch_size, trainer.args.gradient_accumulation_steps) == (8, 1)
    assert trainer.state.train_batch_size == 2


def test_a_run_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 2}
    model = make_model(dropout=0.0)
    sizes = limit_memory(model, most=4, from_call=3)
    found = train(tmp_path / "a", model, per_device_train_batch_size=8, auto_find_batch_size=True, **options)
    expected = train(tmp_path / "b", make_model(dropout=0.0), per_device_train_batch_size=8)
    assert sizes == [8, 8, 8, 8, *[4] * 8], "steps 1 and 2 are not taken again"
    assert [row[0] for row in rows(found)] == [1, 2, 3, 4, 5, 6]
    assert [row[1] for row in rows(found)] == pytest.approx([row[1] for row in rows(expected)], abs=1e-5)


def test_resuming_begins_with_the_size_that_fitted(tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 2, "auto_find_batch_size": True}
    model = make_model()
    limit_memory(model, most=2)
    train(tmp_path, model, per_device_train_batch_size=8, max_steps=2, **options)
    again = make_model()
    sizes = limit_memory(again, most=2)
    trainer = raytrainer.Trainer(
        model=again,
        args=make_args(raytrainer, tmp_path, per_device_train_batch_size=8, max_steps=4, **options),
        train_dataset=make_samples(),
    )
    trainer.train(resume_from_checkpoint=True)
    assert set(sizes) == {2}
    assert trainer.state.global_step == 4


def test_the_size_that_fitted_is_an_attribute_of_the_trainer_also_after_a_resume(tmp_path: Path) -> None:
    options = {"per_device_train_batch_size": 8, "auto_find_batch_size": True, "save_strategy": "steps"}
    model = make_model()
    limit_memory(model, most=2)
    trainer = train(tmp_path, model, save_steps=3, **options)
    assert (trainer._train_batch_size, trainer.args.per_device_train_batch_size) == (2, 8)
    resumed = raytrainer.Trainer(
        model=make_model(),
        args=make_args(raytrainer, tmp_path, max_steps=6, **options),
        train_dataset=make_samples(),
    )
    assert resumed._train_batch_size == 8
    resumed.train(resume_from_checkpoint=True)
    assert resumed._train_batch_size == 2


def test_one_sample_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    model = make_model()
    limit_memory(model, most=0)
    with pytest.raises(ConfigurationError, match="micro-batch of one sample does not fit"):
        train(tmp_path, model, per_device_train_batch_size=2, auto_find_batch_size=True)


def test_other_errors_are_not_taken_for_it(tmp_path: Path) -> None:
    model = make_model()

    def fail(module: Any, args: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="mat1"):
        train(tmp_path, model, auto_find_batch_size=True)


@pytest.mark.parametrize("per_device", [1, 2, 6, 7, 12, 35])
def test_smaller_sizes_keep_the_global_batch(per_device: int) -> None:
    sizes: MicroBatchSizes | None = MicroBatchSizes(per_device=per_device, accumulation=3)
    seen = []
    while sizes is not None:
        seen.append(sizes.per_device)
        assert sizes.per_device * sizes.accumulation == per_device * 3
        sizes = sizes.smaller()
    assert seen[-1] == 1
    assert seen == sorted(set(seen), reverse=True)


@pytest.mark.parametrize(
    "sharding", [{"fsdp": True}, {"deepspeed": {"zero_optimization": {"stage": 1}}}], ids=str
)
def test_sharding_is_refused_with_it(sharding: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="auto_find_batch_size=True starts over"):
        raytrainer.TrainingArguments(auto_find_batch_size=True, **sharding)


def test_optimizers_that_cannot_accumulate_are_refused_with_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="auto_find_batch_size=True splits a batch"):
        train(tmp_path, auto_find_batch_size=True, optim="adalomo")
