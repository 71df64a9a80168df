"""What the model card says about a trained model.

The text is that of ``transformers.modelcard.TrainingSummary``, filled from a view of the trainer, so that a model
without a config, an unnamed dataset, and a driver, whose arguments do not know the workers, all get a correct card. Of
the arguments it has only the hyperparameters that the summary lists by name.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.modelcard import TrainingSummary
from transformers.training_args import ParallelMode

from raytrainer._version import __version__
from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.trainer_protocol import TrainerProtocol
from raytrainer.user_types import DatasetLike

CARD_NAME = "README.md"
LICENSE_TIMEOUT_S = 10.0
"""How long the Hub may take to answer which license the base model has."""


def write_card(trainer: TrainerProtocol, directory: Path, *, world_size: int, **facts: Any) -> Path:
    """Write the card of a trained model.

    Args:
        trainer: Its ``model``, ``args``, ``state`` and datasets are read.
        directory: Directory of the card; the tags of an existing card are kept.
        world_size: Number of workers that trained.
        facts: Keywords of ``TrainingSummary.from_trainer``; None values are inferred.

    Returns:
        Path of the card.
    """
    path = directory / CARD_NAME
    existing = ModelCard.load(path).data if path.is_file() else None
    base_model = facts.pop("finetuned_from") or base_model_of(trainer.model)
    license_name = facts.pop("license") or license_of(base_model)
    facts["tags"] = merge_tags(facts["tags"], existing.get("tags") if existing is not None else None)
    # finetuned_from is set afterwards, because the summary would ask the Hub for its license without a timeout.
    summarize = cast("Callable[..., TrainingSummary]", TrainingSummary.from_trainer)
    summary = summarize(trainer_view(trainer, world_size), license=license_name, **facts)
    summary.finetuned_from = base_model
    summary.eval_lines = fill_missing_columns(summary.eval_lines)
    directory.mkdir(parents=True, exist_ok=True)
    text = summary.to_model_card().rstrip("\n") + f"\n- Raytrainer {__version__}\n"
    path.write_text(text, encoding="utf-8")
    if existing is not None and existing.get("library_name") == "peft":
        trainer.model.create_or_update_model_card(str(directory))
    return path


def trainer_view(trainer: TrainerProtocol, world_size: int) -> SimpleNamespace:
    """The attributes of a trainer that the summary reads."""
    named = type(type(trainer.model).__name__, (), {"config": SimpleNamespace()})
    return SimpleNamespace(
        model=named(),
        args=_Arguments(trainer.args, world_size),
        state=trainer.state,
        eval_dataset=_if_named(trainer.eval_dataset),
        train_dataset=_if_named(trainer.train_dataset),
    )


class _Arguments:
    """The arguments, with the number of workers that trained."""

    def __init__(self, args: TrainingArguments, world_size: int) -> None:
        self._args = args
        self.world_size = world_size
        self.parallel_mode = ParallelMode.DISTRIBUTED if world_size > 1 else ParallelMode.NOT_PARALLEL

    @property
    def optim(self) -> str:
        """The name of the optimizer, without the class that the text of an enum member has."""
        return getattr(self._args.optim, "value", self._args.optim)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._args, name)


def _if_named(dataset: DatasetLike) -> Any:
    """A dataset if it has a name; one made in memory would be called "the None dataset"."""
    return dataset if getattr(dataset, "builder_name", None) not in (None, "generator") else None


def base_model_of(model: object) -> str | None:
    """The name on the Hub of the model that was fine-tuned; None for a local path or no name."""
    name = getattr(getattr(model, "config", None), "_name_or_path", None)
    if not name or os.path.isdir(name):
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None  # a path on another machine
    return name


def license_of(base_model: str | None) -> str | None:
    """The license of a model on the Hub; None if the Hub does not say or cannot be reached."""
    if base_model is None:
        return None
    try:
        tags = HfApi().model_info(base_model, timeout=LICENSE_TIMEOUT_S).tags or []
    except Exception:  # noqa: BLE001  no network or no such model: the license is optional
        return None
    return next((tag.removeprefix("license:") for tag in tags if tag.startswith("license:")), None)


def merge_tags(tags: str | list[str] | None, existing: list[str] | None) -> str | list[str] | None:
    """The tags of a call, followed by those of an existing card."""
    if tags is None or existing is None:
        return tags
    own = [tags] if isinstance(tags, str) else list(tags)
    return own + [tag for tag in existing if tag not in own]


def fill_missing_columns(lines: list[Any] | None) -> list[Any] | None:
    """Give every row of the results table all columns, empty where the row has none."""
    if not lines:
        return lines
    columns = dict.fromkeys(column for line in lines for column in line)
    return [{column: line.get(column, "") for column in columns} for line in lines]
