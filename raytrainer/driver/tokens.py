"""Ray's tokens, which a cluster may want of whoever joins it: what this process sends, and what is said of that.

Ray's order: ``RAY_AUTH_TOKEN``, the file that ``RAY_AUTH_TOKEN_PATH`` names, ``~/.ray/auth_token``; none of them unless
``RAY_AUTH_MODE`` is ``token``, or unset while there is one of them.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)

MODE = "RAY_AUTH_MODE"
TOKEN = "RAY_AUTH_TOKEN"
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"


def sent() -> str:
    """Which token this process sends, as a clause; never the token."""
    mode = os.environ.get(MODE)
    if mode is not None and mode.lower() != "token":
        return f"this process sends none, because {MODE} is {mode or 'empty'}"
    if os.environ.get(TOKEN):
        return f"this process sends that of {TOKEN}"
    if path := os.environ.get(TOKEN_PATH):
        return f"this process sends that in {path}, which {TOKEN_PATH} names"
    own = Path.home() / ".ray" / "auth_token"
    if own.is_file():
        return f"this process sends that in {own}"
    return "this process has none"


def warn_of_empty_mode() -> None:
    """Say that an empty RAY_AUTH_MODE, which looks like none, switches Ray's tokens off."""
    if os.environ.get(MODE) == "":
        logger.warning(
            "%s is set and empty. Ray takes that for a choice, and switches authentication off: whoever reaches its "
            "ports can run code here. Unset it, or set it to token; disabled says that you want this.",
            MODE,
        )
