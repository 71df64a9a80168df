"""Parameters that a callback freezes or unfreezes during training are followed by optimizer, schedule and norm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import raytrainer
from raytrainer import ConfigurationError
from tests.parity.twins import TOLERANCE, make_args, make_model, make_samples, rows
from tests.torchrun import torchrun

pytestmark = pytest.mark.timeout(120)

SAVES = {"save_strategy": "steps", "save_steps": 1}


def layer(model: Any, trains: bool) -> None:
    """Let the first layer be trained, or not."""
    for parameter in model.model.layers[0].parameters():
        parameter.requires_grad_(trains)


class Switch(transformers.TrainerCallback):
    """Freezes or unfreezes the first layer at events of steps."""

    def __init__(self, **events: dict[int, bool]) -> None:
        self.rates: list[list[float]] = []
        for event, steps in events.items():
            setattr(self, event, self._switch(steps))

    def _switch(self, steps: dict[int, bool]) -> Any:
        def act(args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step in steps:
                layer(model, steps[state.global_step])

        return act

    def on_optimizer_step(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any
    ) -> None:
        self.rates.append([group["lr"] for group in optimizer.param_groups])


KINDS: dict[str, dict[str, dict[int, bool]]] = {
    "unfreezes": {"on_step_end": {2: True}},
    "freezes": {"on_step_end": {2: False}},
    "unfreezes_at_begin": {"on_train_begin": {0: True}},
    "unfreezes_in_step": {"on_step_begin": {2: True}},
    "freezes_then_unfreezes": {"on_train_begin": {0: False}, "on_step_begin": {2: True}},
}
FROZEN_AT_FIRST = {"unfreezes", "unfreezes_at_begin", "unfreezes_in_step"}


def make(
    directory: Path, kind: str, *, model: Any = None, optimizers: Any = (None, None), **options: Any
) -> Any:
    if model is None:
        model = make_model(dropout=0.0)
        layer(model, kind not in FROZEN_AT_FIRST)
    return raytrainer.Trainer(
        model=model,
        args=make_args(
            raytrainer,
            directory,
            **{"max_steps": 5, "optim": "sgd", "max_grad_norm": 0.5, "weight_decay": 0.1, **options},
        ),
        train_dataset=make_samples(40),
        eval_dataset=make_samples(4),
        callbacks=[Switch(**KINDS[kind])],
        optimizers=optimizers,
    )


def train(directory: Path, kind: str, *, resume: Any = False, **options: Any) -> Any:
    trainer = make(directory, kind, **options)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def switch_of(trainer: Any) -> Switch:
    (switch,) = [one for one in trainer.callback_handler.callbacks if isinstance(one, Switch)]
    return switch


def assert_equal(one: Any, other: Any, tolerance: float = 0.0) -> None:
    for mine, theirs in zip(rows(one), rows(other), strict=True):
        assert mine == pytest.approx(theirs, abs=tolerance)
    for name, value in other.model.state_dict().items():
        assert torch.allclose(one.model.state_dict()[name], value, rtol=0, atol=tolerance), name


def test_what_is_unfrozen_is_trained_as_if_it_had_been_in_the_optimizer_all_along(tmp_path: Path) -> None:
    # In the reference all parameters are in the optimizer from the start, and the layer is frozen for two steps.
    inside = train(tmp_path / "inside", "freezes_then_unfreezes")
    assert len(inside.optimizer.param_groups) == 2
    added = train(tmp_path / "added", "unfreezes")
    assert [len(group["params"]) for group in added.optimizer.param_groups[2:]] == [7, 2]
    assert [group["weight_decay"] for group in added.optimizer.param_groups] == [0.1, 0.0, 0.1, 0.0]
    assert_equal(added, inside, TOLERANCE)
    start = make_model(dropout=0.0).state_dict()
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(added.model.state_dict()[name], start[name])


@pytest.mark.parametrize("kind", ["unfreezes_at_begin", "unfreezes_in_step"])
def test_it_is_noticed_at_every_event(kind: str, tmp_path: Path) -> None:
    trainer = train(tmp_path, kind)
    assert len(trainer.optimizer.param_groups) == 4


def test_the_groups_that_are_added_follow_the_schedule(tmp_path: Path) -> None:
    trainer = train(tmp_path, "unfreezes", lr_scheduler_type="cosine")
    rates = switch_of(trainer).rates
    assert [len(one) for one in rates] == [2, 2, 4, 4, 4]
    assert all(len(set(one)) == 1 for one in rates)
    assert rates[2] > rates[3] > rates[4]


@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
def test_schedules_that_wait_for_a_metric_follow_too(schedule: str, tmp_path: Path) -> None:
    trainer = make(
        tmp_path,
        "unfreezes",
        lr_scheduler_type=schedule,
        eval_strategy="steps",
        eval_steps=1,
        metric_for_best_model="loss",
    )
    trainer.train()
    assert len(trainer.optimizer.param_groups) == 4
    assert len(set(switch_of(trainer).rates[-1])) == 1


def test_what_is_frozen_is_neither_stepped_nor_in_the_norm(tmp_path: Path) -> None:
    trainer = train(tmp_path, "freezes", optim="adamw_torch", **SAVES)
    name = "model.layers.0.self_attn.q_proj.weight"
    at_2, at_5 = (
        transformers.LlamaForCausalLM.from_pretrained(tmp_path / f"checkpoint-{step}").state_dict()[name]
        for step in (2, 5)
    )
    assert torch.equal(at_2, at_5)
    assert all(one.grad is None for one in trainer.model.model.layers[0].parameters())


@pytest.mark.parametrize("kind", ["unfreezes", "freezes", "freezes_then_unfreezes"])
@pytest.mark.parametrize("step", [1, 3])
def test_a_resumed_run_is_equal_whatever_was_frozen_or_unfrozen_before(
    kind: str, step: int, tmp_path: Path
) -> None:
    options = {"optim": "adamw_torch", **SAVES}
    whole = train(tmp_path, kind, **options)
    resumed = train(tmp_path / "resumed", kind, resume=str(tmp_path / f"checkpoint-{step}"), **options)
    assert len(resumed.optimizer.param_groups) == len(whole.optimizer.param_groups)
    assert_equal(resumed, whole)


def test_a_checkpoint_says_nothing_of_it_where_nothing_changed(tmp_path: Path) -> None:
    train(tmp_path, "unfreezes", max_steps=1, **SAVES)
    assert json.loads((tmp_path / "checkpoint-1" / "loop_state.json").read_text())["trainable"] is None


def test_what_is_unfrozen_between_two_calls_is_added(tmp_path: Path) -> None:
    trainer = make(tmp_path, "unfreezes", max_steps=2)
    trainer.train()
    layer(trainer.model, True)
    trainer.train()
    assert len(trainer.optimizer.param_groups) == 4


def test_an_own_optimizer_takes_it_with_its_defaults_and_what_it_leaves_out_stays_out(tmp_path: Path) -> None:
    model = make_model(dropout=0.0)
    layer(model, False)
    optimizer = torch.optim.SGD(model.model.layers[1].parameters(), lr=0.2, momentum=0.9)
    trainer = train(tmp_path, "unfreezes", model=model, optimizers=(optimizer, None))
    groups = trainer.optimizer.param_groups
    assert [len(group["params"]) for group in groups] == [9, 7, 2], "embeddings and head are nobody's"
    assert [group["momentum"] for group in groups] == [0.9] * 3
    assert all(len(set(one)) == 1 for one in switch_of(trainer).rates)


def test_a_group_that_the_callback_adds_itself_follows_the_schedule_and_is_resumed(tmp_path: Path) -> None:
    class Adds(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 2:
                layer(kwargs["model"], True)
                kwargs["optimizer"].add_param_group(
                    {
                        "params": list(kwargs["model"].model.layers[0].parameters()),
                        "lr": 0.5,
                        "weight_decay": 0.0,
                    }
                )

    def run(directory: Path, **resume: Any) -> Any:
        trainer = make(directory, "unfreezes", **SAVES)
        trainer.callback_handler.callbacks.remove(switch_of(trainer))
        trainer.add_callback(Adds())
        trainer.train(**resume)
        return trainer

    whole = run(tmp_path)
    assert [len(group["params"]) for group in whole.optimizer.param_groups[2:]] == [9]
    assert_equal(run(tmp_path / "b", resume_from_checkpoint=str(tmp_path / "checkpoint-3")), whole)


@pytest.mark.parametrize("optim", ["muon", "galore_adamw", "lomo"])
def test_an_optimizer_that_takes_no_further_parameters_ends_the_run_with_what_to_do(
    optim: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"optim": optim}
    if optim == "galore_adamw":
        options["optim_target_modules"] = "all-linear"
    if optim == "lomo":
        options["max_grad_norm"] = 0.0
    with pytest.raises(
        ConfigurationError, match=r"9 parameters were unfrozen after the optimizer was built .*on_train_begin"
    ):
        train(tmp_path, "unfreezes", **options)


RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddp": ("unfreezes", SAVES),
    "ddp_strict": ("unfreezes", {"ddp_find_unused_parameters": False}),
    "ddp_freezes": ("freezes", {"ddp_find_unused_parameters": False}),
    "fsdp": ("unfreezes", {"fsdp": True, **SAVES}),
    "fsdp_freezes": ("freezes", {"fsdp": True}),
    "on_rank_0_alone": ("unfreezes_in_step", {}),
    "zero": ("unfreezes", {"deepspeed": {"zero_optimization": {"stage": 2}}}),
}
FOLLOWED = [name for name in RUNS if name not in {"on_rank_0_alone", "zero"}]


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    target = tmp_path_factory.mktemp("trainable") / "found.json"
    return torchrun("loop/trainable_rank.py", [str(target), json.dumps(RUNS)], target=target)


@pytest.mark.distributed
@pytest.mark.parametrize("run", FOLLOWED)
def test_two_ranks_have_the_losses_and_norms_of_one(
    run: str, on_two_ranks: dict[str, Any], tmp_path: Path
) -> None:
    kind, _ = RUNS[run]
    found = on_two_ranks[run]
    assert "error" not in found, found
    assert found["wrapper"] == (
        "DistributedDataParallel" if run.startswith("ddp") else "FSDPLlamaForCausalLM"
    )
    assert found["groups"] == (4 if kind == "unfreezes" else 2)
    alone = rows(train(tmp_path, kind))
    assert len(found["rows"]) == len(alone) == 5
    for one, other in zip(found["rows"], alone, strict=True):
        assert one == pytest.approx(other, abs=2e-6)


@pytest.mark.distributed
@pytest.mark.parametrize("run", ["ddp", "fsdp"])
def test_a_run_that_two_ranks_resume_has_the_groups_and_the_losses(
    run: str, on_two_ranks: dict[str, Any]
) -> None:
    assert on_two_ranks[run]["resumed_groups"] == 4
    assert on_two_ranks[run]["resumed_rows"] == on_two_ranks[run]["rows"]


@pytest.mark.distributed
def test_ranks_that_do_not_train_the_same_parameters_end_the_run_with_what_to_do(
    on_two_ranks: dict[str, Any],
) -> None:
    assert "Freeze and unfreeze on all ranks" in on_two_ranks["on_rank_0_alone"]["error"]


@pytest.mark.distributed
def test_deepspeed_ends_the_run_with_what_to_do(on_two_ranks: dict[str, Any]) -> None:
    assert "DeepSpeed decides which ones it trains when its engine is made" in on_two_ranks["zero"]["error"]
