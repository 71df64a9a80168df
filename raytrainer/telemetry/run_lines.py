"""The lines at INFO with which transformers begins a training and an evaluation.

Scripts and their logs look for them, and for the level at which each rank says them. So they come from the logger of
transformers' own trainer, which its verbosity and ``log_level`` set.
"""

from __future__ import annotations

import logging

_logger = logging.getLogger("transformers.trainer")


def are_wanted() -> bool:
    """Whether anybody sees the lines, so that a caller can save counting parameters."""
    return _logger.isEnabledFor(logging.INFO)


def say(title: str, facts: dict[str, object]) -> None:
    """Log a title between stars, and one line for each fact.

    Args:
        title: Such as ``Running training``.
        facts: What -> value.
    """
    _logger.info("***** %s *****", title)
    for what, value in facts.items():
        _logger.info("  %s = %s", what, f"{value:,}" if isinstance(value, int) else value)
