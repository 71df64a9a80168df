"""Which of the things are shown that a user can switch off."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """What is shown of a run beside its table, its notes and its end."""

    progress: bool = True
    """The live line, or lines of progress."""
    logs: bool = True
    """What each call of ``log`` was given."""
