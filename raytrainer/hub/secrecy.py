"""Removes tokens from messages: those of the Hub and of its client may repeat what was sent to them."""

from __future__ import annotations

import re

HIDDEN = "<token>"
_BEARER = re.compile(r"(?i)(bearer\s+)[^\s'\",]+")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
"""The form of the Hub's own tokens."""


def without_tokens(text: str, *tokens: str | None) -> str:
    """Replace tokens in a text.

    Args:
        text: Any text.
        tokens: Known tokens; anything that looks like a token is replaced too.
    """
    for token in tokens:
        for spelling in (token or "", (token or "").strip()):
            if spelling:
                text = text.replace(spelling, HIDDEN)
    return _TOKEN.sub(HIDDEN, _BEARER.sub(rf"\1{HIDDEN}", text))
