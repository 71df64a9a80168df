"""How to generate: the generation config of the arguments, and keyword arguments of single calls.

Everything here reads plain values and small files, on the driver, so that a missing path or a misspelled ``num_beam=``
is found within a second, before workers start. Nothing is generated here.
"""

# transformers' generation configs have no types.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import GenerationConfig

from raytrainer.arguments.keywords import unknown_argument
from raytrainer.errors import ConfigurationError

DEFAULT_MAX_LENGTH = 20
"""The default maximum length of ``generate`` of transformers [tokens]."""


def load_generation_config(given: object) -> GenerationConfig:
    """Return a generation config from an object, a dict, a directory, a file, or a hub id.

    Raises:
        ConfigurationError: If it cannot be read, or is invalid.
    """
    if isinstance(given, GenerationConfig):
        config = copy.deepcopy(given)
    elif isinstance(given, Mapping):
        known = vars(GenerationConfig())
        unknown = [str(name) for name in given if name not in known]
        if unknown:
            raise unknown_argument("generation_config", unknown, list(known))
        config = GenerationConfig(**given)
    else:
        config = _read(given)
    try:
        config.validate(strict=True)
    except ValueError as error:
        raise ConfigurationError(
            f"generation_config is invalid, so a model could not be saved with it: {error}"
        ) from error
    return config


def _read(name: Any) -> GenerationConfig:
    path = Path(name)
    # As everywhere in transformers, `organization/name` may be on the hub; these forms can only be paths.
    is_path_only = (
        isinstance(name, Path) or path.is_absolute() or path.suffix == ".json" or len(path.parts) > 2
    )
    if is_path_only and not path.exists():
        raise ConfigurationError(
            f"generation_config={str(name)!r} is neither a file nor a directory here. Correct the path, or pass a "
            "transformers.GenerationConfig."
        )
    folder, file = (path.parent, path.name) if path.is_file() else (name, None)
    try:
        return GenerationConfig.from_pretrained(folder, file)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"generation_config={str(name)!r} could not be read: {str(error).splitlines()[0]} Name a directory with "
            "a generation_config.json, a JSON file, or a model of the hub."
        ) from error


def check_generates(model: Any) -> None:
    """Check that a model can generate, as ``predict_with_generate`` requires.

    Raises:
        ConfigurationError: If it cannot.
    """
    if isinstance(model, str | os.PathLike) or model is None:
        return
    can_generate = getattr(model, "can_generate", None)
    if not callable(getattr(model, "generate", None)) or (callable(can_generate) and not can_generate()):
        raise ConfigurationError(
            f"predict_with_generate=True, but a {type(model).__name__} cannot generate. Pass a model with a generate "
            "method, such as one of AutoModelForSeq2SeqLM, or set predict_with_generate=False."
        )


def check_call(model: Any, names: Iterable[str]) -> None:
    """Check the keyword arguments for ``generate`` that ``evaluate`` or ``predict`` was given.

    Args:
        model: The model, if it is loaded.
        names: Names of the keyword arguments.

    Raises:
        ConfigurationError: For a name unknown to generation configs, ``generate`` and the model.
    """
    if not isinstance(model, torch.nn.Module):
        return
    mixin: Any = transformers.GenerationMixin
    takers = [mixin.generate, getattr(model, "generate", None), model.forward]
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        whole: Any = model
        takers.append(whole.get_encoder().forward)
    known = {*vars(GenerationConfig())}
    for taker in takers:
        known |= set(inspect.signature(taker).parameters) if callable(taker) else set()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise unknown_argument("generate()", unknown, sorted(known - {"self", "kwargs"}))


class GenerationSettings:
    """The effective settings of one call of ``generate``: its keywords, then a config among them, then the model's.

    Args:
        config: The model's generation config.
        keywords: Keyword arguments of ``generate``.
    """

    def __init__(self, config: GenerationConfig, keywords: Mapping[str, Any]) -> None:
        self._sources = [keywords, vars(keywords.get("generation_config") or config), vars(config)]

    def __getitem__(self, name: str) -> Any:
        return next((source[name] for source in self._sources if source.get(name) is not None), None)

    def longest(self, prompt_length: int) -> int:
        """Return the maximum length of a generated sequence [tokens].

        Args:
            prompt_length: Length of the beginning, which is part of the sequence [tokens].
        """
        if self["max_new_tokens"] is not None:
            return prompt_length + int(self["max_new_tokens"])
        return int(self["max_length"] or DEFAULT_MAX_LENGTH)
