"""How a model is told to recompute activations in the backward pass instead of keeping them.

Models of transformers have a method for it. Others, such as those of sentence-transformers, may have the method under
its former name alone, which transformers calls too.
"""

from __future__ import annotations

from typing import Any

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.errors import ConfigurationError

_METHODS = {
    "activation_checkpointing_enable": "activation_checkpointing_kwargs",
    "gradient_checkpointing_enable": "gradient_checkpointing_kwargs",
}
"""Method of a model -> the name under which it takes options."""


def check_recomputation(args: TrainingArguments, model: object) -> None:
    """Check that a model can do what the arguments ask for.

    Args:
        args: The arguments.
        model: A module; names and None are not known yet.

    Raises:
        ConfigurationError: If it has no method for it.
    """
    if args.activation_checkpointing and hasattr(model, "forward"):
        _method_of(model)


def enable_recomputation(args: TrainingArguments, model: object) -> None:
    """Make a model recompute activations if the arguments ask for it.

    Raises:
        ConfigurationError: If it has no method for it.
    """
    if not args.activation_checkpointing:
        return
    given = args.activation_checkpointing_kwargs
    options: dict[str, Any] = dict(given) if isinstance(given, dict) else {}
    chosen = {name: options.pop(name) for name in ("every_n_layers", "offload") if name in options}
    name = _method_of(model)
    getattr(model, name)(**{_METHODS[name]: options or None}, **chosen)


def _method_of(model: object) -> str:
    for name in _METHODS:
        if callable(getattr(model, name, None)):
            return name
    raise ConfigurationError(
        f"activation_checkpointing=True calls the model's {' or '.join(_METHODS)}, and {type(model).__name__} has "
        "neither. Give it one of them, or call torch.utils.checkpoint.checkpoint in its forward and leave "
        "activation_checkpointing out."
    )
