"""How long an object store may fail before a request is given up.

A request that fails for a reason that may pass (a server error, a throttled or stalled connection) is made again after
a pause that doubles, for a bounded time. Each time is told at WARNING. What no repetition mends (no bucket, no
permission, no such object) is raised at once.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

_LASTING = (
    "access_denied",
    "access denied",
    "accessdenied",
    "no_such_bucket",
    "no_such_key",
    "no_such_upload",
    "invalid_access_key_id",
    "signature_does_not_match",
    "unrecognized_client",
    "missing_authentication_token",
    "incomplete_signature",
    "expired_token",
    "expiredtoken",
    "invalid_client_token_id",
    "http status 301",
    "http status 401",
    "http status 403",
    "http status 404",
    "http status 405",
    "permission denied",
    "no space left on device",
    "unauthenticated",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long a request is repeated."""

    seconds: float
    """From the first failure to the last attempt [s]."""
    first_pause_s: float = 0.2
    longest_pause_s: float = 15.0


DURING_A_RUN = Patience(seconds=300.0)
"""An outage of a few minutes costs a run that time, and nothing else."""
OF_LOGS = Patience(seconds=10.0)
"""Logs are uploaded also when a run has failed, maybe because the store does not answer, and then somebody waits."""
BEFORE_A_RUN = Patience(seconds=20.0)
"""Somebody waits at the terminal, and a wrong address looks like an outage."""


def is_lasting(error: OSError) -> bool:
    """Whether a request that failed so would fail again."""
    if isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError | IsADirectoryError):
        return True
    text = str(error).lower()
    return any(words in text for words in _LASTING)


def repeated(what: str, request: Callable[[], T], patience: Patience) -> T:
    """Make a request until it succeeds, or fails for good.

    Args:
        what: The request, for messages: "Writing s3://bucket/run/a".
        request: Makes it; can be called again after a failure.
        patience: How long.

    Raises:
        OSError: The last failure.
    """
    pause = patience.first_pause_s
    ends_at: float | None = None
    number = 1
    while True:
        try:
            return request()
        except OSError as error:
            now = time.monotonic()
            ends_at = now + patience.seconds if ends_at is None else ends_at
            if is_lasting(error) or now >= ends_at:
                if number > 1:
                    error.add_note(f"{what} failed {number} times.")
                raise
            logger.warning(
                "%s failed and is tried again in %.1f s (attempt %d, for %.0f s more at most): %s",
                what,
                pause,
                number + 1,
                ends_at - now,
                error,
            )
        time.sleep(pause * random.uniform(0.8, 1.2))  # ranks should not all come back at once
        pause = min(2 * pause, patience.longest_pause_s)
        number += 1
