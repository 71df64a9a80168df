"""The same training on a GPU by both libraries, and what was really on while it ran."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.parity.twins import make_args, make_model, make_samples, rows


class Probe(transformers.TrainerCallback):
    """Records, while a run trains, where and in which precision it computes."""

    def __init__(self) -> None:
        self.devices: set[str] = set()
        self.dtypes: set[torch.dtype] = set()
        self.scales: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        layer = kwargs["model"].model.layers[0].mlp.up_proj
        layer.register_forward_hook(self.look)

    def look(self, module: torch.nn.Module, args: Any, output: torch.Tensor) -> None:
        """Note the output of a layer."""
        self.devices.add(output.device.type)
        self.dtypes.add(output.dtype)


def make_gpu_trainer(
    library: Any,
    directory: Path,
    *,
    model: Any = None,
    samples: Any = None,
    callbacks: Any = None,
    compute_loss_func: Callable[..., Any] | None = None,
    **options: Any,
) -> Any:
    """A trainer of either library on the GPU."""
    return library.Trainer(
        model=make_model() if model is None else model,
        args=make_args(library, directory, **{"use_cpu": False, **options}),
        train_dataset=make_samples() if samples is None else samples,
        callbacks=callbacks,
        compute_loss_func=compute_loss_func,
    )


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    """The trained weights on the CPU, by name."""
    return {name: value.detach().cpu().clone() for name, value in trainer.model.state_dict().items()}


def furthest(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The largest difference between two sets of weights."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - value).abs().max()) for name, value in theirs.items())


def assert_trained(trainer: Any) -> None:
    """Assert that every weight has changed, and that no number is broken."""
    start = make_model().state_dict()
    for name, value in weights(trainer).items():
        assert bool(torch.isfinite(value).all()), name
        assert not torch.equal(value, start[name]), f"{name} was not trained"
    assert len(rows(trainer)) == trainer.state.global_step > 0
