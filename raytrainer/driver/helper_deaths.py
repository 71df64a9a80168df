"""What follows when a helper process of a worker group dies: its control actor, or Ray Train's controller.

A control actor that stands still, stopped or starved, is as good as dead, because all others wait for it.

What is on storage is the truth, so nothing that such a process held is worth saving. The whole group is made anew, with
another control actor and another controller, and its task goes on from the newest committed checkpoint, as it does when
workers are restarted. Each time counts as a restart of ``max_failures``, and a call that loses helpers again and again
without a new checkpoint in between ends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import ray.exceptions

from raytrainer.control.client import ControlClient
from raytrainer.control.failure_policy import SILENT_DEATHS
from raytrainer.control.state import Phase, Update
from raytrainer.driver.fit_thread import FitThread
from raytrainer.driver.ray_deaths import cause_in
from raytrainer.wire.messages import Task

CONTROL = "the control actor, which workers and driver talk through"
CONTROLLER = "Ray Train's controller, which starts the workers"


class HelperDiedError(Exception):
    """A process without which a group cannot go on has ended, or stands still.

    Args:
        who: What it was for.
        cause: How it ended, in Ray's words; None if it stands still.
    """

    def __init__(self, who: str, cause: str | None) -> None:
        how = "does not answer any more" if cause is None else f"died ({cause.rstrip('.')})"
        super().__init__(f"The process of {who}, {how}")


def control_lost(error: ray.exceptions.RayActorError | ray.exceptions.GetTimeoutError) -> HelperDiedError:
    """The error for a control actor that has died, or that gave no answer in time."""
    is_silent = isinstance(error, ray.exceptions.GetTimeoutError)
    return HelperDiedError(CONTROL, None if is_silent else cause_in(str(error)))


def check_controller(fit: FitThread, update: Update | None) -> None:
    """See whether Ray Train's run ended because its controller died, and nothing else did.

    Args:
        fit: Ray Train's run.
        update: How things stand in the control actor.

    Raises:
        HelperDiedError: If it did.
    """
    is_open = update is None or update.phase is Phase.OPEN
    if is_open and fit.is_over and isinstance(fit.error, ray.exceptions.RayActorError):
        raise HelperDiedError(CONTROLLER, cause_in(str(fit.error)))


def lost_helper(fit: FitThread, control: ControlClient) -> HelperDiedError | None:
    """Which helper of a group died while its workers had nothing to do; None if it was none.

    Args:
        fit: Ray Train's run, which is over.
        control: The control actor.
    """
    try:
        check_controller(fit, control.snapshot())
    except HelperDiedError as error:
        return error
    except ray.exceptions.ActorDiedError as error:
        return control_lost(error)
    except ray.exceptions.RayError:
        return None
    return None


@dataclass
class Progress:
    """What one call has had so far, over all groups that were made for it."""

    num_restarts: int = 0
    """Those that counted."""
    num_attempts: int = 0
    last_commit: str | None = None


class Restarts:
    """Whether the group of a call is made anew when one of its helpers died, and what the new one has to know.

    Args:
        max_failures: Restarts that the call may use; -1 for no limit.
    """

    def __init__(self, max_failures: int) -> None:
        self._max_failures = max_failures
        self._before = Progress()
        self._now = Progress()
        self._commits: list[str | None] = []
        """The newest checkpoint at each death of a helper."""

    @property
    def progress(self) -> Progress:
        """As far as the driver has seen."""
        return self._now

    def follow(self, update: Update) -> None:
        """Take over what the control actor of the present group says."""
        commit = update.last_commit.path if update.last_commit is not None else None
        self._now = Progress(
            num_restarts=max(self._before.num_restarts, update.num_restarts),
            num_attempts=self._before.num_attempts + update.num_attempts,
            last_commit=commit or self._before.last_commit,
        )

    def why_not(self) -> str | None:
        """After a death: why the run ends; None if the group is to be made anew."""
        self._commits.append(self._now.last_commit)
        recent = self._commits[-SILENT_DEATHS:]
        if len(recent) == SILENT_DEATHS and len(set(recent)) == 1:
            return f"helper processes died {SILENT_DEATHS} times in a row without a new checkpoint in between"
        if self._max_failures == 0:
            return "max_failures=0 allows no restart"
        if 0 <= self._max_failures <= self._now.num_restarts:
            return (
                f"max_failures={self._max_failures} allows no further restart after {self._now.num_restarts}"
            )
        return None

    def restarted(self, task: Task) -> Task:
        """The task for the group that is made anew; count this as a restart."""
        attempts = max(1, self._now.num_attempts)
        self._before = self._now = Progress(
            num_restarts=self._now.num_restarts + 1,
            num_attempts=attempts,
            last_commit=self._now.last_commit,
        )
        return replace(task, restarts=attempts, num_failures=self._before.num_restarts)

    def announcement(self, death: HelperDiedError) -> str:
        """What a person reads when the group is made anew."""
        number = f"restart {self._before.num_restarts}"
        if self._max_failures >= 0:
            number += f" of at most {self._max_failures}"
        return f"{death}. Starting it and the workers again ({number})."
