"""The model card: what is written about a model from what its trainer knows.

The text is that of ``transformers.modelcard.TrainingSummary``, filled from a view of the trainer: a model without a
config, data without a name and a driver, which has no placement, all get a card that says nothing untrue. Nothing of
the arguments is in it but the hyperparameters that the summary lists by name.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.modelcard import TrainingSummary
from transformers.training_args import ParallelMode

from raytrainer._version import __version__

CARD_NAME = "README.md"
LICENSE_TIMEOUT_S = 10.0
"""How long the Hub may take to say which license the model that was fine-tuned has."""


def write_card(trainer: Any, directory: Path, *, world_size: int, **facts: Any) -> Path:
    """Write the card of a trained model.

    Args:
        trainer: ``model``, ``args``, ``state``, and the datasets.
        directory: Where the card lies; tags of one that is there are kept.
        world_size: Number of workers that trained.
        facts: Keywords of ``TrainingSummary.from_trainer``; None is found out.

    Returns:
        The file.
    """
    path = directory / CARD_NAME
    there = ModelCard.load(path).data if path.is_file() else None
    base_model = facts.pop("finetuned_from") or base_of(trainer.model)
    license_name = facts.pop("license") or license_of(base_model)
    facts["tags"] = joined_tags(facts["tags"], there.get("tags") if there is not None else None)
    # The name of the model comes after, because the summary would ask the Hub for its license without a time limit.
    summary = TrainingSummary.from_trainer(view_of(trainer, world_size), license=license_name, **facts)
    summary.finetuned_from = base_model
    summary.eval_lines = with_same_columns(summary.eval_lines)
    directory.mkdir(parents=True, exist_ok=True)
    text = summary.to_model_card().rstrip("\n") + f"\n- Raytrainer {__version__}\n"
    path.write_text(text, encoding="utf-8")
    if there is not None and there.get("library_name") == "peft":
        trainer.model.create_or_update_model_card(str(directory))
    return path


def view_of(trainer: Any, world_size: int) -> SimpleNamespace:
    """What the summary reads of a trainer."""
    named = type(type(trainer.model).__name__, (), {"config": SimpleNamespace()})
    return SimpleNamespace(
        model=named(),
        args=_Arguments(trainer.args, world_size),
        state=trainer.state,
        eval_dataset=_if_named(trainer.eval_dataset),
        train_dataset=_if_named(trainer.train_dataset),
    )


class _Arguments:
    """Arguments, with the number of workers that really trained."""

    def __init__(self, args: Any, world_size: int) -> None:
        self._args = args
        self.world_size = world_size
        self.parallel_mode = ParallelMode.DISTRIBUTED if world_size > 1 else ParallelMode.NOT_PARALLEL

    @property
    def optim(self) -> str:
        """The name alone: the text of an enumeration's member has its class in it."""
        return getattr(self._args.optim, "value", self._args.optim)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._args, name)


def _if_named(dataset: Any) -> Any:
    """A dataset that has a name; one made in memory would be called "the None dataset"."""
    return dataset if getattr(dataset, "builder_name", None) not in (None, "generator") else None


def base_of(model: Any) -> str | None:
    """The name on the Hub of the model that was fine-tuned, if it has one."""
    name = getattr(getattr(model, "config", None), "_name_or_path", None)
    if not name or os.path.isdir(name):
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None  # a path of another machine
    return name


def license_of(base_model: str | None) -> str | None:
    """The license of a model on the Hub; None if that cannot be found out now."""
    if base_model is None:
        return None
    try:
        tags = HfApi().model_info(base_model, timeout=LICENSE_TIMEOUT_S).tags or []
    except Exception:  # noqa: BLE001  no network, no such model: a card without it is a card
        return None
    return next((tag.removeprefix("license:") for tag in tags if tag.startswith("license:")), None)


def joined_tags(tags: str | list[str] | None, there: list[str] | None) -> str | list[str] | None:
    """The tags of a call, and those that a card has."""
    if tags is None or there is None:
        return tags
    own = [tags] if isinstance(tags, str) else list(tags)
    return own + [tag for tag in there if tag not in own]


def with_same_columns(lines: list[Any] | None) -> list[Any] | None:
    """Rows of the table of results that all have the columns of all."""
    if not lines:
        return lines
    columns = dict.fromkeys(column for line in lines for column in line)
    return [{column: line.get(column, "") for column in columns} for line in lines]
