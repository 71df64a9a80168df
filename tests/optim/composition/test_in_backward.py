"""Updates in the backward pass: the steps of a normal update, one gradient at a time, only during training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

import raytrainer
from raytrainer.errors import ConfigurationError
from raytrainer.optim.algorithms.lomo import AdaLomo
from raytrainer.optim.composition.in_backward import UpdatesInBackward
from tests.parity.twins import make_model, make_trainer, rows


def train(directory: Path, *callbacks: TrainerCallback, **options: Any) -> Any:
    options = {"max_steps": 4, "learning_rate": 0.1, **options}
    trainer = make_trainer(raytrainer, directory, model=make_model(dropout=0.0), **options)
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.train()
    return trainer


def test_lomo_takes_the_steps_of_sgd_and_reports_its_gradient_norms(tmp_path: Path) -> None:
    mine = train(tmp_path / "a", optim="lomo")
    plain = train(tmp_path / "b", optim="sgd", max_grad_norm=0.0)
    for one, other in zip(rows(mine), rows(plain), strict=True):
        assert one == pytest.approx(other, abs=1e-6)


@pytest.mark.parametrize("kind", ["galore_adamw", "galore_adafactor"])
def test_a_layerwise_optimizer_takes_the_steps_of_the_plain_one(tmp_path: Path, kind: str) -> None:
    options: dict[str, Any] = {
        "optim_target_modules": "all-linear",
        "optim_args": "rank=8, update_proj_gap=2",
        "learning_rate": 1e-2,
        "max_grad_norm": 0.0,
    }
    mine = train(tmp_path / "a", optim=f"{kind}_layerwise", **options)
    plain = train(tmp_path / "b", optim=kind, **options)
    for one, other in zip(rows(mine), rows(plain), strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_lomo_clips_by_the_norm_that_a_first_pass_measures(tmp_path: Path) -> None:
    clipped = {"max_grad_norm": 0.5}
    mine = train(tmp_path / "a", optim="lomo", optim_args="grad_norm=true", **clipped)
    plain = train(tmp_path / "b", optim="sgd", **clipped)
    assert all(row[2] > 0.5 for row in rows(plain)), "something is clipped"
    for one, other in zip(rows(mine), rows(plain), strict=True):
        assert one == pytest.approx(other, abs=1e-6)


class LiveGradients(TrainerCallback):
    """Measures the peak bytes of gradients during a backward pass."""

    def __init__(self) -> None:
        self.most = 0
        self.handles: list[Any] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        parameters = list(kwargs["model"].parameters())

        def count(_: Any) -> None:
            live = sum(
                one.grad.numel() * one.grad.element_size() for one in parameters if one.grad is not None
            )
            self.most = max(self.most, live)

        # After those of the optimizer, if it has any: what is left is what lives on.
        self.handles = [one.register_post_accumulate_grad_hook(count) for one in parameters]

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.gradients_left = sum(one.grad is not None for one in kwargs["model"].parameters())


@pytest.mark.parametrize("name", ["lomo", "adalomo", "galore_adamw_layerwise"])
def test_gradients_do_not_live_at_once(tmp_path: Path, name: str) -> None:
    options = {"optim_target_modules": "all-linear"} if "galore" in name else {}
    live, all_of_them = LiveGradients(), LiveGradients()
    trainer = train(tmp_path / "a", live, optim=name, learning_rate=1e-3, **options)
    train(tmp_path / "b", all_of_them, optim="sgd")
    layer = sum(p.numel() * p.element_size() for p in trainer.model.model.layers[0].parameters())
    largest = max(p.numel() * p.element_size() for p in trainer.model.parameters())
    assert live.most <= largest + layer
    assert live.gradients_left == 0
    assert all_of_them.most > largest + layer, "the measure sees gradients that live on"


def test_after_training_a_backward_pass_updates_nothing(tmp_path: Path) -> None:
    trainer = train(tmp_path, optim="lomo")
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    tokens = torch.arange(8).unsqueeze(0)
    trainer.model(input_ids=tokens, labels=tokens).loss.backward()
    assert all(torch.equal(trainer.model.state_dict()[name], value) for name, value in before.items())
    assert all(parameter.grad is not None for parameter in trainer.model.parameters())


def test_adalomo_takes_the_steps_of_lomo_optim(monkeypatch: pytest.MonkeyPatch) -> None:
    reference_class = pytest.importorskip("lomo_optim").AdaLomo
    module = pytest.importorskip("lomo_optim.adalomo")
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self, *args, **kwargs: self)
    monkeypatch.setattr(module.dist, "get_rank", lambda *args: 0)
    monkeypatch.setattr(module.torch.cuda, "current_device", lambda: 0, raising=False)

    def make() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))

    mine, other = make(), make()
    optimizer = UpdatesInBackward(
        [{"params": list(mine.parameters()), "lr": 0.05}], lambda groups: AdaLomo(groups, lr=0.05)
    )
    optimizer.arm()
    reference = reference_class(other, lr=0.05)
    for step in range(5):
        inputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
        mine(inputs).square().mean().backward()
        reference.fused_backward(other(inputs).square().mean(), 0.05)
        for one, two in zip(mine.parameters(), other.parameters(), strict=True):
            assert torch.allclose(one, two, atol=1e-6), step


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gradient_accumulation_steps": 2}, "raise per_device_train_batch_size"),
        ({"max_grad_norm": 0.5}, "cannot clip it. Set it to 0"),
        ({"optim_args": "grad_norm=true", "max_grad_norm": 0.0}, "clips nothing"),
        ({"deepspeed": {"zero_optimization": {"stage": 2}}}, "does not train under zero2"),
    ],
)
def test_what_needs_all_gradients_at_once_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        train(tmp_path, optim="adalomo", **changes)
