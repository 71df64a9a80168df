from __future__ import annotations

import pytest

from raytrainer.control.state import Update
from raytrainer.driver.helper_deaths import CONTROL, HelperDiedError, Restarts
from raytrainer.telemetry.events import CheckpointCommitted
from raytrainer.wire.messages import Task


def update(*, restarts=0, attempts=1, step=None):
    commit = (
        None
        if step is None
        else CheckpointCommitted(step=step, path=f"checkpoint-{step}", num_bytes=1, seconds=0.0)
    )
    return Update(num_restarts=restarts, num_attempts=attempts, last_commit=commit)


TASK = Task(task_id="one", method="train", payload=None)
DEATH = HelperDiedError(CONTROL, "it was killed.")


def test_restarts_of_workers_and_of_the_whole_group_count_together():
    restarts = Restarts(2)
    restarts.follow(update(restarts=1, attempts=2, step=4))
    assert restarts.why_not() is None
    task = restarts.restarted(TASK)
    assert (task.restarts, task.num_failures) == (2, 2)
    assert restarts.announcement(DEATH) == (
        "The process of the control actor, which workers and driver talk through, died (it was killed). "
        "Starting it and the workers again (restart 2 of at most 2)."
    )
    restarts.follow(update(restarts=2, attempts=1))
    assert restarts.progress.num_attempts == 3
    assert restarts.progress.last_commit == "checkpoint-4", "what the first group committed stays true"
    assert restarts.why_not() == "max_failures=2 allows no further restart after 2"


def test_no_restart_is_allowed_with_max_failures_0():
    restarts = Restarts(0)
    restarts.follow(update())
    assert restarts.why_not() == "max_failures=0 allows no restart"


@pytest.mark.parametrize("steps", [(None, None, None), (4, 4, 4)])
def test_helpers_that_die_again_and_again_without_a_new_checkpoint_end_the_run(steps):
    restarts = Restarts(-1)
    reasons = []
    for step in steps:
        restarts.follow(update(step=step))
        reasons.append(restarts.why_not())
        restarts.restarted(TASK)
    assert reasons == [
        None,
        None,
        "helper processes died 3 times in a row without a new checkpoint in between",
    ]


def test_helpers_that_die_with_checkpoints_in_between_are_started_again_without_end():
    restarts = Restarts(-1)
    for step in range(9):
        restarts.follow(update(step=step))
        assert restarts.why_not() is None
        restarts.restarted(TASK)
