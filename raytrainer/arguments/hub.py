"""What arguments about the Hub may say, and which repository they mean."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from raytrainer.errors import ConfigurationError

_COMMIT = re.compile(r"[0-9a-f]{40}")


def repository_name(args: Any) -> str:
    """The repository of a run: ``hub_model_id``, or the name of the output directory."""
    return args.hub_model_id or Path(args.output_dir).expanduser().absolute().name


def check_hub(args: Any) -> None:
    """Check what the arguments say about the Hub.

    Raises:
        ConfigurationError: For a repository, a revision or a token that cannot be right. Never shows a token.
    """
    _check_token(args.hub_token)
    if args.hub_private_repo not in (None, True, False):
        raise ConfigurationError(
            f"hub_private_repo={args.hub_private_repo!r} is neither True nor False. Leave it out for the namespace's "
            "default."
        )
    revision = args.hub_revision
    if revision is not None and (not isinstance(revision, str) or not revision.strip()):
        raise ConfigurationError(
            f"hub_revision={revision!r} is no name of a branch. Name one, or leave it out."
        )
    if isinstance(revision, str) and _COMMIT.fullmatch(revision):
        raise ConfigurationError(
            f"hub_revision={revision!r} is a commit, and an upload makes a new one. Name a branch; one that does not "
            "exist is made."
        )
    if args.hub_model_id:
        _check_name(args.hub_model_id, f"hub_model_id={args.hub_model_id!r}", "Correct it")
    elif args.push_to_hub:
        what = f"output_dir={str(args.output_dir)!r} names the repository, since hub_model_id does not, but"
        _check_name(repository_name(args), what, "Set hub_model_id")


def _check_token(token: Any) -> None:
    if token is None:
        return
    if not isinstance(token, str):
        raise ConfigurationError(
            f"hub_token is a {type(token).__name__}, where text was expected. Leave it out to take HF_TOKEN."
        )
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigurationError(
            "hub_token has blanks, line ends or other characters that no token has. Check where it was read from; "
            "leave it out to take HF_TOKEN."
        )


def _check_name(name: Any, what: str, do: str) -> None:
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigurationError(f"{what} is no name of a repository: {error} {do}.") from error
