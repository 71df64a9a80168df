"""A script that catches what transformers raises catches what raytrainer raises in the same place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import raytrainer
from raytrainer.errors import MetricError
from tests.parity.twins import LIBRARIES, make_args, make_model, make_samples


class NotCallable:
    """What a collator was, years ago."""

    def collate_batch(self, samples: list[Any]) -> dict[str, Any]:
        return {}


def sgd(model: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def constructed(library: Any, directory: Path, *, options: dict[str, Any] | None = None, **given: Any) -> Any:
    return library.Trainer(
        args=make_args(library, directory, **(options or {})),
        **{"model": make_model(), "train_dataset": make_samples(8), "eval_dataset": make_samples(8), **given},
    )


def stream() -> Any:
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self) -> Any:
            yield from make_samples(8)

    return Stream()


EVALUATED = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 1, "metric_for_best_model": "accuracy"}
MISTAKES: dict[str, Callable[[Any, Path], object]] = {
    "no model": lambda library, path: constructed(library, path, model=None),
    "a model and model_init": lambda library, path: constructed(library, path, model_init=make_model),
    "model_init and an optimizer": lambda library, path: constructed(
        library, path, model=None, model_init=make_model, optimizers=(sgd(make_model()), None)
    ),
    "two optimizers": lambda library, path: constructed(
        library,
        path,
        optimizers=(sgd(make_model()), None),
        optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 0.1}),
    ),
    "model_init returns nothing": lambda library, path: constructed(
        library, path, model=None, model_init=lambda: None
    ).train(),
    "a collator that cannot be called": lambda library, path: constructed(
        library, path, data_collator=NotCallable()
    ),
    "an unknown keyword": lambda library, path: constructed(library, path, no_such_keyword=1),
    "no training data": lambda library, path: constructed(library, path, train_dataset=None).train(),
    "a stream of unknown length": lambda library, path: constructed(
        library, path, train_dataset=stream()
    ).train(),
    "nothing to resume from": lambda library, path: constructed(library, path).train(
        resume_from_checkpoint=True
    ),
    "a checkpoint that is not there": lambda library, path: constructed(library, path).train(
        resume_from_checkpoint=str(path / "checkpoint-9")
    ),
    "a metric that no evaluation gives": lambda library, path: constructed(
        library, path, options=EVALUATED
    ).train(),
    "a tracker that is not installed": lambda library, path: constructed(
        library, path, options={"report_to": "swanlab"}
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_our_error_is_of_the_class_that_transformers_raises(mistake: str, tmp_path: Path):
    raised: dict[str, Exception] = {}
    for name, library in LIBRARIES.items():
        with pytest.raises(Exception) as caught:  # noqa: PT011  which class it is, is the question
            MISTAKES[mistake](library, tmp_path / name)
        raised[name] = caught.value
    assert isinstance(raised["ours"], raytrainer.RayTrainerError)
    assert isinstance(raised["ours"], type(raised["theirs"])), (raised["ours"], raised["theirs"])


def test_the_message_of_a_metric_error_is_not_quoted():
    assert str(MetricError("no such metric")) == "no such metric"
