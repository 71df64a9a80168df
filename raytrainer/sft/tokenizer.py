"""Which tokenizer a run has, and which tokens and chat template the arguments give it."""

# Tokenizers of transformers have no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from raytrainer.errors import ConfigurationError
from raytrainer.sft.config import SFTConfig


def load_tokenizer(model: Any, args: SFTConfig) -> PreTrainedTokenizerBase:
    """Load the tokenizer that lies beside a model.

    Raises:
        ConfigurationError: If nobody knows where, or there is none.
    """
    name = str(model) if isinstance(model, str | os.PathLike) else ""
    if isinstance(model, nn.Module):
        name = str(getattr(getattr(model, "config", None), "_name_or_path", "") or "")
    if not name:
        raise ConfigurationError(
            "No tokenizer was given, and the model does not say where it came from (config._name_or_path is empty). "
            "Pass processing_class=tokenizer."
        )
    given = args.model_init_kwargs if isinstance(args.model_init_kwargs, Mapping) else {}
    options = {key: given[key] for key in ("revision", "subfolder", "gguf_file") if key in given}
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=args.trust_remote_code, **options)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationError(
            f"No tokenizer was given, and none can be loaded from {name!r}, where the model came from: "
            f"{str(error).splitlines()[0]} Pass processing_class=tokenizer."
        ) from error


def set_tokens(tokenizer: Any, args: SFTConfig) -> None:
    """Give a tokenizer the tokens and the chat template that the arguments name, and one to fill rows up with.

    Raises:
        ConfigurationError: If it is no tokenizer, or does not have them.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ConfigurationError(
            f"processing_class= is a {type(tokenizer).__name__}, where a tokenizer was expected: models that see "
            "or hear are not available in this version of raytrainer's SFTTrainer. Pass its tokenizer for texts."
        )
    if args.chat_template_path is not None:
        set_template(tokenizer, args.chat_template_path)
    for name in ("eos_token", "pad_token"):
        token = getattr(args, name)
        if token is None:
            continue
        if token not in tokenizer.get_vocab():
            raise ConfigurationError(
                f"{name}={token!r} is no token of the {type(tokenizer).__name__}. Take one of its vocabulary; a new "
                "one needs a row of the model's embeddings."
            )
        setattr(tokenizer, name, token)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ConfigurationError(
                f"The {type(tokenizer).__name__} has no token to fill rows up with, and none that ends a text. Set "
                "pad_token and eos_token to tokens of its vocabulary."
            )
        tokenizer.pad_token = tokenizer.eos_token


def set_template(tokenizer: Any, path: str) -> None:
    """Give a tokenizer the chat template of a Jinja file or of another tokenizer.

    Raises:
        ConfigurationError: If there is none, or it ends turns with a token that the tokenizer does not have.
    """
    if path.endswith((".jinja", ".j2")):
        if not Path(path).is_file():
            raise ConfigurationError(f"chat_template_path={path!r} is no file. Correct the path.")
        tokenizer.chat_template = Path(path).read_text(encoding="utf-8")
        return
    source: Any = AutoTokenizer.from_pretrained(path)
    if not source.chat_template:
        raise ConfigurationError(f"The tokenizer at chat_template_path={path!r} has no chat template.")
    missing = sorted(set(source.get_added_vocab()) - set(tokenizer.get_vocab()))
    if any(token in str(source.chat_template) for token in missing) or source.eos_token in missing:
        raise ConfigurationError(
            f"The chat template of {path!r} uses the tokens {missing}, which this tokenizer does not have, and "
            "embeddings are not resized here. Add the tokens and resize the model before you pass both."
        )
    tokenizer.chat_template = source.chat_template
    tokenizer.eos_token = source.eos_token
