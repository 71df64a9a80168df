"""Which values the arguments about the Hub may have, and which repository they name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from raytrainer.errors import ConfigurationError
from raytrainer.storage.locations import is_uri, split

if TYPE_CHECKING:
    from raytrainer.arguments.training_arguments import TrainingArguments


_COMMIT = re.compile(r"[0-9a-f]{40}")


def repository_name(args: TrainingArguments) -> str:
    """The repository of a run: ``hub_model_id``, or the name of the output directory."""
    return args.hub_model_id or _name_of(cast("str", args.output_dir))


def _name_of(output_dir: str) -> str:
    return split(output_dir)[1] if is_uri(output_dir) else Path(output_dir).expanduser().absolute().name


def check_hub(args: TrainingArguments) -> None:
    """Check the arguments about the Hub.

    Raises:
        ConfigurationError: For an invalid repository, revision or token. The message never contains a token.
    """
    _check_token(args.hub_token)
    _check_revision(args.hub_revision)
    if args.hub_model_id:
        _check_name(args.hub_model_id, f"hub_model_id={args.hub_model_id!r}", "Correct it")
    elif args.push_to_hub:
        what = (
            f"output_dir={str(args.output_dir)!r} names the repository, since hub_model_id is not set, but it"
        )
        _check_name(repository_name(args), what, "Set hub_model_id")


def _check_revision(revision: object) -> None:
    if revision is None:
        return
    if not isinstance(revision, str) or not revision.strip():
        raise ConfigurationError(
            f"hub_revision={revision!r} is not the name of a branch. Name one, or leave it out."
        )
    if _COMMIT.fullmatch(revision):
        raise ConfigurationError(
            f"hub_revision={revision!r} is a commit, but an upload creates a new one. Name a branch; it is created if "
            "it does not exist."
        )


def _check_token(token: object) -> None:
    if token is None:
        return
    if not isinstance(token, str):
        raise ConfigurationError(
            f"hub_token is a {type(token).__name__}, where text was expected. Leave it out to use HF_TOKEN."
        )
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigurationError(
            "hub_token contains spaces, line breaks or other characters that a token cannot have. Check where it was "
            "read from, or leave it out to use HF_TOKEN."
        )


def _check_name(name: str, what: str, do: str) -> None:
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigurationError(f"{what} is not a valid name of a repository: {error} {do}.") from error
