"""Which tokenizer a run uses, and which special tokens and chat template the arguments give it."""

# Tokenizers of transformers have no types.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from raytrainer.checkpoint.locate import forget_copies, readable
from raytrainer.errors import ConfigurationError
from raytrainer.sft.config import SFTConfig


def load_tokenizer(model: object, args: SFTConfig) -> PreTrainedTokenizerBase:
    """Load the tokenizer that was saved with a model.

    Raises:
        ConfigurationError: If the origin of the model is unknown, or there is no tokenizer.
    """
    name = str(model) if isinstance(model, str | os.PathLike) else ""
    if isinstance(model, nn.Module):
        name = str(getattr(getattr(model, "config", None), "_name_or_path", "") or "")
    if not name:
        raise ConfigurationError(
            "No tokenizer was given, and the origin of the model is unknown (config._name_or_path is empty). "
            "Pass processing_class=tokenizer."
        )
    given = args.model_init_kwargs if isinstance(args.model_init_kwargs, Mapping) else {}
    options = {key: given[key] for key in ("revision", "subfolder", "gguf_file") if key in given}
    try:
        return AutoTokenizer.from_pretrained(
            str(readable(name)), trust_remote_code=args.trust_remote_code, **options
        )
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationError(
            f"No tokenizer was given, and none can be loaded from {name!r}, the origin of the model: "
            f"{str(error).splitlines()[0]} Pass processing_class=tokenizer."
        ) from error
    finally:
        forget_copies()


def set_tokens(tokenizer: Any, args: SFTConfig) -> None:
    """Give a tokenizer the special tokens and the chat template of the arguments, and a padding token.

    Raises:
        ConfigurationError: If it is not a tokenizer, or does not have these tokens.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ConfigurationError(
            f"processing_class= is a {type(tokenizer).__name__}, but a tokenizer was expected: models for images "
            "or audio are not available in this version of raytrainer's SFTTrainer. Pass its text tokenizer."
        )
    if args.chat_template_path is not None:
        set_template(tokenizer, args.chat_template_path)
    for name in ("eos_token", "pad_token"):
        token = getattr(args, name)
        if token is None:
            continue
        if token not in tokenizer.get_vocab():
            raise ConfigurationError(
                f"{name}={token!r} is not a token of the {type(tokenizer).__name__}. Use one from its vocabulary; a "
                "new token would need a new row in the model's embeddings."
            )
        setattr(tokenizer, name, token)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ConfigurationError(
                f"The {type(tokenizer).__name__} has neither a padding token nor an end-of-text token. Set "
                "pad_token and eos_token to tokens of its vocabulary."
            )
        tokenizer.pad_token = tokenizer.eos_token


def set_template(tokenizer: PreTrainedTokenizerBase, path: str) -> None:
    """Give a tokenizer the chat template of a Jinja file or of another tokenizer.

    Raises:
        ConfigurationError: If there is none, or it ends turns with a token that the tokenizer does not have.
    """
    if path.endswith((".jinja", ".j2")):
        if not Path(path).is_file():
            raise ConfigurationError(f"chat_template_path={path!r} is not a file. Correct the path.")
        tokenizer.chat_template = Path(path).read_text(encoding="utf-8")
        return
    source: Any = AutoTokenizer.from_pretrained(path)
    if not source.chat_template:
        raise ConfigurationError(
            f"The tokenizer at chat_template_path={path!r} has no chat template. Name another one."
        )
    missing = sorted(set(source.get_added_vocab()) - set(tokenizer.get_vocab()))
    if any(token in str(source.chat_template) for token in missing) or source.eos_token in missing:
        raise ConfigurationError(
            f"The chat template of {path!r} uses the tokens {missing}, which this tokenizer does not have, but "
            "embeddings are not resized here. Add the tokens and resize the model before you pass both."
        )
    tokenizer.chat_template = source.chat_template
    tokenizer.eos_token = source.eos_token
