"""Keeps tokens out of texts: messages of the Hub and of its client may repeat what was sent to them."""

from __future__ import annotations

import re

HIDDEN = "<token>"
_BEARER = re.compile(r"(?i)(bearer\s+)[^\s'\",]+")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
"""What the Hub's own tokens look like."""


def without_tokens(text: str, *tokens: str | None) -> str:
    """Return a text in which no token can be read.

    Args:
        text: Any text.
        tokens: Those that are known; whatever looks like one is hidden too.
    """
    for token in tokens:
        for spelling in {token, token.strip()} if token else set():
            if spelling:
                text = text.replace(spelling, HIDDEN)
    return _TOKEN.sub(HIDDEN, _BEARER.sub(rf"\1{HIDDEN}", text))
