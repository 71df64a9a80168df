"""What is taken out of texts before they are written to files that people pass on: tokens, passwords, keys.

Files of a run are copied, mailed, and attached to reports of bugs. So everything is looked through, also what a user
logged: values of environment variables whose names say that they are secret, credentials in URLs, and what has the
form of a well-known token.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping, Sequence
from typing import cast

HIDDEN = "<hidden>"
_NUMBERS = frozenset({float, int, bool, type(None)})
MIN_LENGTH = 8
"""A shorter value of a variable is left alone: it would be found in ordinary words."""

_SECRET_NAME = re.compile(
    r"(?i)(^|_)(api_?key|access_key|secret\w*|token|passw(or)?d|credentials?)(_|$)|_key$"
)
_NOT_SECRET = re.compile(r"(?i)tokenizer|tokens|_key_id$|_token_id$|pad_token|eos_token|bos_token|unk_token")
_PATTERNS = (
    re.compile(r"()\bhf_[A-Za-z0-9]{16,}"),
    re.compile(r"()\bsk-[A-Za-z0-9_-]{16,}"),
    re.compile(r"()\bgh[pousr]_[A-Za-z0-9]{20,}"),
    re.compile(r"()\bAKIA[A-Z0-9]{16}\b"),
    re.compile(r"(?i)(bearer )[^\s'\",]+"),
    re.compile(r"(://)[^/\s:@]+:[^/\s@]+(?=@)"),
    re.compile(
        r"(?i)([?&](?:secret_key|access_key|session_token|password|token|signature|sig|api_key)=)[^&\s]+"
    ),
)
"""What stays of a text, and the secret after it."""


def is_secret_name(name: str) -> bool:
    """Whether a value of this name is a secret by its name."""
    return _SECRET_NAME.search(name) is not None and _NOT_SECRET.search(name) is None


def redacted(value: object) -> object:
    """Return plain values without secrets.

    Args:
        value: Of JSON: mappings and sequences are gone through.
    """
    if type(value) in _NUMBERS:
        return value
    if isinstance(value, str):
        return redacted_text(value)
    if type(value) is dict or isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value)
        return {
            str(key): one
            if type(one) in _NUMBERS
            else HIDDEN
            if one and isinstance(one, str) and is_secret_name(str(key))
            else redacted(one)
            for key, one in pairs.items()
        }
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [redacted(one) for one in cast("Sequence[object]", value)]
    return value


def redacted_text(text: str) -> str:
    """Return a text without secrets."""
    for secret in _of_environment(os.getpid()):
        if secret in text:
            text = text.replace(secret, HIDDEN)
    for pattern in _PATTERNS:
        text = pattern.sub(rf"\1{HIDDEN}", text)
    return text


@functools.cache
def _of_environment(pid: int) -> tuple[str, ...]:
    """The values of secret variables, the longest first; looked up once in a process."""
    del pid
    values = {
        value.strip()
        for name, value in os.environ.items()
        if is_secret_name(name) and len(value.strip()) >= MIN_LENGTH and not os.path.exists(value.strip())
    }
    return tuple(sorted(values, key=len, reverse=True))
