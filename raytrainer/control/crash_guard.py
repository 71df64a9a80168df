"""When starting the workers again is no use: the same thing keeps happening at the same place.

Two rules. The same type of exception at the same step in two attempts in a row ends the run. Deaths that leave no
exception (a kill for lack of memory, a crash in native code) end it when three attempts in a row began at the same
step and none of them committed a checkpoint. Progress is what counts: a run that loses a worker every hour and
commits in between may go on for ever.

Pure: attempts and failures come in, a sentence or nothing comes out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SAME_EXCEPTIONS = 2
"""Attempts in a row that end with the same exception at the same step."""
SILENT_DEATHS = 3
"""Attempts in a row that die without an exception, from the same step, without a commit."""


@dataclass(kw_only=True)
class _Attempt:
    number: int
    first_step: int | None = None
    last_step: int | None = None
    num_commits: int = 0
    failures: set[tuple[str, int | None]] = field(default_factory=set)
    did_finish: bool = False


class CrashGuard:
    """Remembers the attempts of a worker group, and says when to stop trying."""

    def __init__(self) -> None:
        self._attempts: list[_Attempt] = []

    def began_attempt(self) -> str | None:
        """The workers started, or started again.

        Returns:
            Why they should not go on, or None.
        """
        reason = self._silent_deaths()
        self._attempts.append(_Attempt(number=len(self._attempts)))
        del self._attempts[: -SILENT_DEATHS - 1]
        return reason

    def began_training(self, first_step: int) -> None:
        """A training task of this attempt is about to take its first step."""
        if self._attempts:
            self._attempts[-1].first_step = first_step

    def did_step(self, step: int) -> None:
        """An optimizer step is done."""
        if self._attempts:
            self._attempts[-1].last_step = step

    def committed(self) -> None:
        """A checkpoint is complete."""
        if self._attempts:
            self._attempts[-1].num_commits += 1

    def finished_task(self) -> None:
        """A task ended well."""
        if self._attempts:
            self._attempts[-1].did_finish = True

    def failed(self, type_name: str, step: int | None) -> str | None:
        """A rank raised an exception that is not the echo of another rank's.

        Returns:
            Why the workers should not be started again, or None.
        """
        if not self._attempts:
            return None
        mark = (type_name, step)
        self._attempts[-1].failures.add(mark)
        recent = self._attempts[-SAME_EXCEPTIONS:]
        if len(recent) == SAME_EXCEPTIONS and all(mark in attempt.failures for attempt in recent):
            where = f"at step {step}" if step is not None else "before the first step"
            return f"{type_name} {where} came back after a restart"
        return None

    def _silent_deaths(self) -> str | None:
        recent = self._attempts[-SILENT_DEATHS:]
        if len(recent) < SILENT_DEATHS:
            return None
        first = recent[0].first_step
        for attempt in recent:
            if attempt.failures or attempt.num_commits or attempt.did_finish or attempt.first_step != first:
                return None
        where = f"from step {first}" if first is not None else "before training began"
        return (
            f"workers died {SILENT_DEATHS} times in a row without an exception, each time starting {where} and without "
            "a new checkpoint in between"
        )
