"""Which matrices of a model ``optim_target_modules`` selects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NoReturn

from torch import nn

from raytrainer.errors import ConfigurationError
from raytrainer.suggestions import nearest

ALL_LINEAR = "all-linear"
HIDDEN_LINEAR = "hidden-linear"

Targets = str | Sequence[str]
"""A value of ``optim_target_modules``."""


def target_parameters(model: nn.Module, targets: Targets | None) -> list[str]:
    """Names of the trainable weights of the selected linear layers.

    Args:
        model: The model whose layers are selected.
        targets: ``"all-linear"``; ``"hidden-linear"``, which leaves out the model's embeddings and heads; a regular
            expression that matches the full name of a module; or a list of words, each of which is part of a module's
            name or a regular expression that matches all of it.

    Raises:
        ConfigurationError: If a word matches no module, or none of the matching modules is a linear layer.
    """
    linear = [name for name, module in _modules(model).items() if isinstance(module, nn.Linear)]
    chosen = _choose(model, linear, targets)
    if not chosen:
        endings = sorted({name.rpartition(".")[2] for name in linear})
        raise ConfigurationError(
            f"optim_target_modules={targets!r} names no linear layer of {type(model).__name__}. Its linear layers are "
            f"{', '.join(endings[:12])}; name some of them, or use {ALL_LINEAR!r}."
        )
    weights = {f"{name}.weight" for name in chosen}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return sorted(weights & trained)


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    return dict(model.named_modules())  # pyright: ignore[reportUnknownArgumentType]


def _choose(model: nn.Module, linear: list[str], targets: Targets | None) -> list[str]:
    keyword = targets.replace("_", "-") if isinstance(targets, str) else None
    if keyword == ALL_LINEAR:
        return linear
    if keyword == HIDDEN_LINEAR:
        heads = _ids_outside_body(model)
        return [name for name in linear if id(model.get_submodule(name).weight) not in heads]
    return _named(model, linear, targets or ())


def _named(model: nn.Module, linear: list[str], targets: Targets) -> list[str]:
    is_pattern = isinstance(targets, str)
    words = [targets] if is_pattern else targets
    names = [name for name in _modules(model) if name]
    chosen: list[str] = []
    for word in words:
        matches = [name for name in names if _matches(name, word, is_pattern=is_pattern)]
        if not matches:
            _raise_no_match(word, names, model)
        chosen += [name for name in matches if name in linear]
    return chosen


def _ids_outside_body(model: nn.Module) -> set[int]:
    """Ids of the weights of input and output embeddings, and of all parameters outside the model's body."""
    embeddings = [
        getattr(model, name)()
        for name in ("get_input_embeddings", "get_output_embeddings")
        if hasattr(model, name)
    ]
    heads = {id(one.weight) for one in embeddings if one is not None and hasattr(one, "weight")}
    body = getattr(model, "base_model", None)
    if isinstance(body, nn.Module):
        inside = {id(parameter) for parameter in body.parameters()}
        heads |= {id(parameter) for parameter in model.parameters()} - inside
    return heads


def _matches(name: str, word: str, *, is_pattern: bool) -> bool:
    if not is_pattern and word in name:
        return True
    try:
        return re.fullmatch(word, name) is not None
    except re.error as error:
        raise ConfigurationError(
            f"optim_target_modules has {word!r}, which is not a valid regular expression: {error}. Correct it."
        ) from error


def _raise_no_match(word: str, names: list[str], model: nn.Module) -> NoReturn:
    endings = sorted({name.rpartition(".")[2] for name in names})
    near = nearest(word, [*endings, *names], cutoff=0.4)
    raise ConfigurationError(
        f"optim_target_modules has {word!r}, which names no module of {type(model).__name__}. "
        f"Closest names: {', '.join(near) or ', '.join(endings[:12])}."
    )
