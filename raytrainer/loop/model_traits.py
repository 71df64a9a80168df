"""What the loop must know about a model before it can train it.

Looked up once per bound model: what its ``forward`` takes, under which names its labels travel, and whether its
loss shifts labels.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from dataclasses import dataclass
from typing import cast

from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.trainer_pt_utils import LabelSmoother
from transformers.trainer_utils import unwrap_peft_model  # pyright: ignore[reportUnknownVariableType]
from transformers.utils import (
    can_return_loss,  # pyright: ignore[reportUnknownVariableType]
    find_labels,  # pyright: ignore[reportUnknownVariableType]
)

from raytrainer.arguments.aliases import callers_level
from raytrainer.arguments.training_arguments import TrainingArguments


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelTraits:
    """Facts about one model."""

    model_class: type[nn.Module]
    """Of the model, without an adapter."""
    accepts_loss_kwargs: bool
    """``forward`` takes ``num_items_in_batch``; whether it uses it is only seen when it runs."""
    label_names: list[str]
    can_return_loss: bool
    """Returns a loss without labels (CLIP-like models)."""
    loss_shifts_labels: bool
    """The loss compares position ``i`` with label ``i + 1``, so label 0 is never a target."""
    label_smoother: LabelSmoother | None


def inspect_model(model: nn.Module, args: TrainingArguments) -> ModelTraits:
    """Look up the traits of an unwrapped model."""
    inner = without_adapter(model)
    accepts = getattr(inner, "accepts_loss_kwargs", None)
    if accepts is None:
        parameters = inspect.signature(inner.forward).parameters.values()
        accepts = any(
            parameter.kind is inspect.Parameter.VAR_KEYWORD or parameter.name == "num_items_in_batch"
            for parameter in parameters
        )
    return ModelTraits(
        model_class=type(inner),
        accepts_loss_kwargs=bool(accepts),
        label_names=list(args.label_names) if args.label_names is not None else find_labels(type(inner)),
        can_return_loss=can_return_loss(type(inner)),
        loss_shifts_labels=_loss_shifts_labels(inner),
        label_smoother=make_label_smoother(model, args),
    )


def _loss_shifts_labels(model: nn.Module) -> bool:
    loss_type = getattr(model, "loss_type", None)
    if loss_type is None or getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return False
    # Imported for models that have a loss of transformers: losses of vision models are in it too.
    losses = importlib.import_module("transformers.loss.loss_utils")
    return losses.LOSS_MAPPING.get(loss_type) is losses.ForCausalLMLoss


def make_label_smoother(model: nn.Module, args: TrainingArguments) -> LabelSmoother | None:
    """The label smoother of a run, or None. Multi-label losses are never smoothed; one warning says so."""
    if args.label_smoothing_factor == 0:
        return None
    if getattr(getattr(model, "config", None), "problem_type", None) == "multi_label_classification":
        warnings.warn(
            "Label smoothing is not compatible with multi-label classification, whose labels are not classes: "
            f"label_smoothing_factor={args.label_smoothing_factor} is switched off.",
            UserWarning,
            stacklevel=callers_level(),
        )
        return None
    return LabelSmoother(epsilon=args.label_smoothing_factor)


def smoother_shifts(model: nn.Module) -> bool:
    """Whether the smoother must shift labels, as the loss of a causal language model does."""
    name = without_adapter(model)._get_name()
    return name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()


def devices_of(model: object) -> set[str]:
    """Accelerators that a model's parameters are on."""
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    return {str(one.device) for one in parameters if one.device.type not in ("cpu", "meta")}


def without_adapter(model: nn.Module) -> nn.Module:
    """The model under an adapter of peft; the model itself where there is none."""
    return cast("nn.Module", unwrap_peft_model(model))
