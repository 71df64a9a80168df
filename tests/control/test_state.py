from __future__ import annotations

import pytest

from raytrainer.control.state import ControlState, Phase
from raytrainer.runtimes.base import Command
from raytrainer.telemetry.events import CheckpointCommitted, Note, StepDone, TrainStarted
from raytrainer.wire.failure_record import FailureRecord, Verdict
from raytrainer.wire.messages import Answer, Task, TaskResult


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def state(clock):
    return ControlState(max_failures=3, idle_timeout_s=10.0, clock=clock)


def task(name):
    return Task(task_id=name, method="train", payload=None)


def record(state, verdict=Verdict.TRANSIENT, *, step=5, attempt=None, type_name="OSError", rank=1):
    return FailureRecord(
        rank=rank,
        node="node",
        pid=1,
        attempt=state.snapshot().attempt if attempt is None else attempt,
        step=step,
        method="train",
        verdict=verdict,
        type_name=type_name,
        message="no",
        user_frames="",
        pickled=None,
        log_file=None,
        time=1.0,
    )


def started(first_step=0):
    return TrainStarted(max_steps=9, first_step=first_step, num_epochs=1, attempt=0, rows=[])


def commit(step):
    return CheckpointCommitted(step=step, path=f"checkpoint-{step}", num_bytes=1, seconds=0.0)


def name_of(answer):
    return answer.task_id if isinstance(answer, Task) else answer


def test_each_rank_gets_each_task_once_in_order(state):
    state.join()
    state.submit(task("one"))
    assert name_of(state.next_task(0, 0)) == "one"
    assert state.next_task(0, 0) is None
    state.finish(TaskResult(task_id="one", payload=1))
    state.submit(task("two"))
    assert name_of(state.next_task(0, 0)) == "two"
    assert [name_of(state.next_task(1, 0)) for _ in range(3)] == ["one", "two", None]


def test_rank_that_is_late_still_gets_the_task_that_rank_0_finished(state):
    state.join()
    state.submit(task("one"))
    state.next_task(0, 0)
    state.finish(TaskResult(task_id="one", payload=1))
    state.submit(task("two"))
    assert name_of(state.next_task(1, 0)) == "one"
    assert name_of(state.next_task(1, 0)) == "two"


def test_restart_runs_the_unfinished_task_again_and_says_so(state):
    state.join()
    state.submit(task("one"))
    assert state.next_task(0, 0).restarts == 0
    state.join()
    assert state.next_task(0, 1).restarts == 1
    assert state.next_task(1, 1).restarts == 1


def test_restart_never_runs_a_finished_task_again(state):
    state.join()
    state.submit(task("one"))
    state.next_task(0, 0)
    state.finish(TaskResult(task_id="one", payload=1))
    state.join()
    assert state.next_task(0, 1) is None


def test_task_that_comes_after_a_restart_is_not_a_restarted_one(state):
    state.join()
    state.join()
    state.submit(task("one"))
    assert state.next_task(0, 1).restarts == 0


def test_worker_of_an_earlier_attempt_is_stopped(state):
    state.join()
    state.join()
    assert state.next_task(0, 0) is Answer.STOP
    assert state.is_over(0) is True
    assert state.is_over(1) is None


def test_idle_group_closes_for_all_ranks_and_refuses_the_next_task(state, clock):
    state.join()
    assert state.next_task(0, 0) is None
    clock.now = 10.0
    assert state.next_task(1, 0) is Answer.LEAVE
    assert state.next_task(0, 0) is Answer.LEAVE
    assert state.submit(task("late")) is False


def test_task_that_comes_first_keeps_the_group_open(state, clock):
    state.join()
    clock.now = 10.0
    state.submit(task("one"))
    assert name_of(state.next_task(1, 0)) == "one"


def test_time_of_a_task_is_not_idle_time(state, clock):
    state.join()
    state.submit(task("one"))
    state.next_task(0, 0)
    clock.now = 100.0
    state.finish(TaskResult(task_id="one", payload=1))
    assert state.idle_left_s() == 10.0


def test_busy_group_does_not_close(state):
    state.join()
    state.submit(task("one"))
    assert state.close() is False
    state.finish(TaskResult(task_id="one", payload=1))
    assert state.close() is True
    assert state.next_task(0, 0) is Answer.LEAVE


def test_events_come_in_order_and_once(state):
    state.join()
    state.push(0, ["a", "b"])
    update = state.update(0)
    assert update.events == ["a", "b"]
    assert state.update(update.next_event) is None
    state.push(0, ["c"])
    assert state.update(update.next_event).events == ["c"]


def test_events_of_an_earlier_attempt_are_dropped(state):
    state.join()
    state.join()
    seen = state.snapshot().next_event
    state.push(0, ["stale"])
    assert state.update(seen) is None


def test_command_holds_for_one_task_only(state):
    state.join()
    state.set_command(Command.STOP_AFTER_SAVE)
    assert state.command(Command.NONE) is None
    state.submit(task("one"))
    state.set_command(Command.STOP_AFTER_SAVE)
    assert state.command(Command.NONE) is Command.STOP_AFTER_SAVE
    state.finish(TaskResult(task_id="one", payload=1))
    assert state.command(Command.STOP_AFTER_SAVE) is Command.NONE


def test_deterministic_failure_ends_the_run_at_once(state):
    state.join()
    state.submit(task("one"))
    assert state.fail(record(state, Verdict.DETERMINISTIC)) is Answer.STOP
    assert state.snapshot().phase is Phase.FATAL
    assert state.is_over(0) is True
    assert state.join().is_over


def test_echo_neither_ends_the_run_nor_counts(state):
    state.join()
    state.submit(task("one"))
    for _ in range(3):
        assert state.fail(record(state, Verdict.COLLATERAL)) is Answer.RETRY
    assert state.snapshot().phase is Phase.OPEN


def test_echo_after_the_cause_stops(state):
    state.join()
    state.fail(record(state, Verdict.DETERMINISTIC))
    assert state.fail(record(state, Verdict.COLLATERAL, rank=0)) is Answer.STOP


def test_transient_failure_is_told_and_restarts(state):
    state.join()
    state.submit(task("one"))
    assert state.fail(record(state)) is Answer.RETRY
    (note,) = state.update(0).events
    assert isinstance(note, Note)
    assert (
        note.text
        == "Rank 1 failed after step 5 (OSError: no). Starting the workers again (restart 1 of at most 3)."
    )


def test_failures_at_different_steps_are_restarted_up_to_the_limit(state):
    answers = []
    for step in range(4):
        state.join()
        answers.append(state.fail(record(state, step=step)))
    assert answers == [Answer.RETRY] * 3 + [Answer.STOP]


def test_no_limit_means_no_limit(clock):
    state = ControlState(max_failures=-1, idle_timeout_s=10.0, clock=clock)
    for step in range(50):
        state.join()
        assert state.fail(record(state, step=step)) is Answer.RETRY


def test_same_exception_at_the_same_step_twice_in_a_row_ends_the_run(state):
    state.join()
    assert state.fail(record(state, step=5)) is Answer.RETRY
    state.join()
    assert state.fail(record(state, step=5)) is Answer.STOP
    assert state.snapshot().reason == "OSError at step 5 came back after a restart"


def test_same_exception_with_another_one_in_between_is_no_loop(clock):
    state = ControlState(max_failures=9, idle_timeout_s=10.0, clock=clock)
    for step in (5, 6, 5, 6):
        state.join()
        assert state.fail(record(state, step=step)) is Answer.RETRY


def test_three_silent_deaths_from_the_same_step_without_a_commit_end_the_run(state):
    for _ in range(3):
        assert not state.join().is_over
        state.push(
            state.snapshot().attempt, [started(4), StepDone(step=5, max_steps=9, epoch=0, samples_per_s=[])]
        )
    assert state.join().is_over
    assert "3 times in a row" in (state.snapshot().reason or "")


def test_silent_deaths_with_a_commit_in_between_go_on(state):
    for step in range(5):
        assert not state.join().is_over
        state.push(state.snapshot().attempt, [started(step), commit(step + 1)])


def test_death_without_a_word_is_told_when_the_workers_are_back(state):
    state.join()
    state.submit(task("one"))
    state.join()
    (note,) = state.update(0).events
    assert note.text.startswith(
        "A worker died without an exception. Starting the workers again (restart 1 of"
    )


def test_last_commit_is_remembered(state):
    state.join()
    state.push(0, [commit(3), commit(6)])
    assert state.snapshot().last_commit.step == 6
