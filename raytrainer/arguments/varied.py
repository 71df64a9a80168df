"""Which arguments may differ between the trials of a search, and how other values are set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from raytrainer.arguments.training_arguments import TrainingArguments

OF_THE_SEARCH = ("output_dir", "resume_from_checkpoint", "push_to_hub", "hub_model_id", "hub_token")
"""Fields that belong to the search as a whole."""


def fields_that_vary(args: TrainingArguments) -> set[str]:
    """The arguments that may vary between trials."""
    return {field.name for field in fields(args) if field.init} - set(OF_THE_SEARCH)


def with_values(args: TrainingArguments, values: Mapping[str, Any]) -> TrainingArguments:
    """Return new, checked arguments in which some fields have other values.

    Args:
        args: The arguments, which stay as they are.
        values: Field -> value.

    Raises:
        ConfigurationError: If a value is invalid or contradicts another one.
    """
    kept = {field.name: getattr(args, field.name) for field in fields(args) if field.init}
    return type(args)(**{**kept, **values})
