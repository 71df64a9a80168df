"""Which matrices of a model ``optim_target_modules`` names."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from raytrainer.errors import ConfigurationError
from raytrainer.suggestions import nearest

ALL_LINEAR = "all-linear"
HIDDEN_LINEAR = "hidden-linear"


def target_parameters(model: nn.Module, wanted: Any) -> list[str]:
    """Names of the weights of the linear layers that are meant.

    Args:
        model: Whose layers.
        wanted: ``"all-linear"``; ``"hidden-linear"``, which are those but for the model's heads; a regular expression
            that matches the whole name of a module; or a list of words, each of which is part of a module's name, or a
            regular expression that matches the whole of it.

    Raises:
        ConfigurationError: If a word names no module, or none of the named ones is a linear layer.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if isinstance(wanted, str) and wanted.replace("_", "-") == ALL_LINEAR:
        chosen = linear
    elif isinstance(wanted, str) and wanted.replace("_", "-") == HIDDEN_LINEAR:
        heads = _heads(model)
        chosen = [name for name in linear if id(model.get_submodule(name).weight) not in heads]
    else:
        words = [wanted] if isinstance(wanted, str) else list(wanted or ())
        everything = [name for name, _ in model.named_modules() if name]
        chosen = []
        for word in words:
            named = [name for name in everything if _is_meant(name, word, is_pattern=isinstance(wanted, str))]
            if not named:
                _refuse(word, everything, model)
            chosen += [name for name in named if name in linear]
    if not chosen:
        raise ConfigurationError(
            f"optim_target_modules={wanted!r} names no linear layer of {type(model).__name__}. It has "
            f"{', '.join(sorted({name.rpartition('.')[2] for name in linear})[:12])}; or take {ALL_LINEAR!r}."
        )
    meant = {f"{name}.weight" for name in chosen}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return sorted(meant & trained)


def _heads(model: nn.Module) -> set[int]:
    """Ids of the weights of input and output embeddings, and of all that lies outside the model's body."""
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


def _is_meant(name: str, word: str, *, is_pattern: bool) -> bool:
    if not is_pattern and word in name:
        return True
    try:
        return re.fullmatch(word, name) is not None
    except re.error as error:
        raise ConfigurationError(
            f"optim_target_modules has {word!r}, which is no regular expression: {error}."
        ) from error


def _refuse(word: str, everything: list[str], model: nn.Module) -> None:
    last = sorted({name.rpartition(".")[2] for name in everything})
    near = nearest(word, [*last, *everything], cutoff=0.4)
    raise ConfigurationError(
        f"optim_target_modules has {word!r}, which names no module of {type(model).__name__}. "
        f"Near are: {', '.join(near) or ', '.join(last[:12])}."
    )
