from __future__ import annotations

from dataclasses import replace

import pytest

from raytrainer.control.state import ControlState, Phase
from raytrainer.runtimes.base import Command
from raytrainer.telemetry.events import CheckpointCommitted, Note, StepDone, TrainStarted
from raytrainer.wire.failure_record import FailureRecord, WorkerDeaths
from raytrainer.wire.messages import Answer, Place, RankProcess, Ranks, Task, TaskResult, Watch


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


def record(state, type_name="OSError", *, step=5, attempt=None, rank=1):
    return FailureRecord(
        rank=rank,
        node="node",
        pid=1,
        attempt=state.snapshot().attempt if attempt is None else attempt,
        step=step,
        method="train",
        type_name=type_name,
        base_names=(type_name, "Exception"),
        message="no",
        notes=(),
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


def test_task_that_an_earlier_group_began_is_a_restarted_one_and_has_used_restarts(clock):
    state = ControlState(max_failures=2, idle_timeout_s=10.0, clock=clock)
    state.submit(replace(task("a"), restarts=3, num_failures=2))
    state.join()
    taken = state.next_task(0, 0)
    assert isinstance(taken, Task)
    assert taken.restarts == 3
    assert state.snapshot().num_restarts == 2
    state.fail(record(state))
    assert state.snapshot().reason == "max_failures=2 allows no further restart"


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


def test_another_trainer_that_waits_closes_a_group_only_when_it_has_been_idle_for_long(state, clock):
    assert state.idle_for_s() is None
    state.join()
    state.submit(task("a"))
    clock.now = 5.0
    assert state.idle_for_s() is None
    assert not state.close_if_idle_for(0.0)
    state.finish(TaskResult(task_id="a", payload=None))
    clock.now = 8.0
    assert state.idle_for_s() == 3.0
    assert not state.close_if_idle_for(4.0)
    assert state.close_if_idle_for(3.0)
    assert state.next_task(0, 0) is Answer.LEAVE
    assert not state.submit(task("b"))
    assert state.idle_for_s() is None


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
    assert state.fail(record(state, "TypeError")) is Answer.STOP
    assert state.snapshot().phase is Phase.FATAL
    assert state.is_over(0) is True
    assert state.join().is_over


def test_echo_neither_ends_the_run_nor_counts(state):
    state.join()
    state.submit(task("one"))
    for _ in range(3):
        assert state.fail(record(state, "DistNetworkError")) is Answer.RETRY
    assert state.snapshot().phase is Phase.OPEN


def test_echo_after_the_cause_stops(state):
    state.join()
    state.fail(record(state, "TypeError"))
    assert state.fail(record(state, "DistNetworkError", rank=0)) is Answer.STOP


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


def test_same_exception_with_another_one_in_between_is_not_a_loop(clock):
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


def test_silent_deaths_with_a_commit_in_between_go_on(clock):
    state = ControlState(max_failures=-1, idle_timeout_s=10.0, clock=clock)
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


def finish_one_call(state, name):
    """A call that uses all of its three restarts, then succeeds."""
    state.submit(task(name))
    for step in range(3):
        assert state.fail(record(state, step=step)) is Answer.RETRY
        assert state.report_deaths(WorkerDeaths(causes={})), (
            "Ray starts the workers again, as the rank was told"
        )
        state.join()
    state.finish(TaskResult(task_id=name, payload=1))


def test_second_call_on_the_same_workers_may_use_all_of_its_restarts(state):
    state.join()
    finish_one_call(state, "one")
    finish_one_call(state, "two")
    state.submit(task("three"))
    for step in range(3):
        assert state.fail(record(state, step=step)) is Answer.RETRY
        state.join()
    notes = [event.text for event in state.update(0).events]
    assert [note[note.index("(restart") :] for note in notes] == [
        f"(restart {number} of at most 3)." for _ in range(3) for number in (1, 2, 3)
    ]
    assert state.fail(record(state, step=9)) is Answer.STOP
    assert state.snapshot().reason == "max_failures=3 allows no further restart"


def test_failure_of_an_earlier_call_at_the_same_step_is_not_a_loop(state):
    state.join()
    for name in ("one", "two"):
        state.submit(task(name))
        assert state.fail(record(state, step=5)) is Answer.RETRY
        state.join()
        state.finish(TaskResult(task_id=name, payload=1))


def test_failure_that_a_rank_and_ray_both_report_counts_once(clock):
    state = ControlState(max_failures=1, idle_timeout_s=10.0, clock=clock)
    state.join()
    state.submit(task("one"))
    state.fail(record(state, step=1))
    assert state.report_deaths(WorkerDeaths(causes={}))
    assert not state.join().is_over
    state.fail(record(state, step=2))
    assert state.snapshot().phase is Phase.FATAL
    assert not state.report_deaths(WorkerDeaths(causes={}))


def test_death_that_ray_reports_ends_a_run_without_restarts_at_once(clock):
    state = ControlState(max_failures=0, idle_timeout_s=10.0, clock=clock)
    state.join()
    state.submit(task("one"))
    assert state.fail(record(state, "DistNetworkError", rank=0)) is Answer.RETRY
    assert not state.report_deaths(WorkerDeaths(causes={1: "killed"}))
    update = state.update(0)
    assert update.phase is Phase.FATAL
    assert update.reason == "max_failures=0 allows no restart"
    assert update.deaths.causes == {1: "killed"}


def test_every_restart_is_announced_whichever_rank_dies_and_whoever_reports_first(clock):
    state = ControlState(max_failures=-1, idle_timeout_s=10.0, clock=clock)
    state.submit(task("a"))
    told, next_event = [], 0
    for number in range(6):
        state.join()
        state.push(number, [started(number), commit(number + 1)])
        echo = replace(
            record(state, "RuntimeError", rank=1 - number % 2),
            base_names=("RuntimeError",),
            message="Connection closed by peer",
        )
        deaths = WorkerDeaths(causes={number % 2: "killed"})
        if number < 3:
            state.fail(echo)
        assert state.report_deaths(deaths)
        if number >= 3:
            state.fail(echo)
        update = state.update(next_event)
        next_event = update.next_event
        told += [event.text for event in update.events if isinstance(event, Note)]
    assert told == [
        f"The worker of rank {number % 2} died without an exception (killed). Starting the workers again "
        f"(restart {number + 1})."
        for number in range(6)
    ]


def test_death_is_told_with_rays_words(state):
    state.join()
    state.submit(task("one"))
    assert state.report_deaths(WorkerDeaths(causes={1: "exit code 137."}))
    (note,) = state.update(0).events
    assert note.text == (
        "The worker of rank 1 died without an exception (exit code 137). Starting the workers again (restart 1 of at "
        "most 3)."
    )


def test_ranks_that_waited_in_vain_are_told_and_no_death(state):
    state.submit(task("a"))
    state.join()
    in_vain = replace(
        record(state, "RuntimeError"),
        base_names=("RuntimeError",),
        message="Timed out waiting 5000ms for recv",
    )
    assert state.fail(in_vain) is Answer.RETRY
    assert state.report_deaths(WorkerDeaths(causes={}))
    [note] = state.update(0).events
    assert note.text == (
        "Rank 1 waited for the others in a collective for longer than ddp_timeout. Starting the workers again "
        "(restart 1 of at most 3)."
    )


def test_ranks_that_stand_still_are_ended_and_started_again_as_one_failure(state):
    state.submit(task("a"))
    state.join()
    state.end_hung(0, "No progress for 9 s.")
    assert state.is_over(0)
    assert state.report_deaths(WorkerDeaths(causes={0: "exit code 1", 1: "killed"})), "it is one failure"
    [note] = state.update(0).events
    assert note.text == "No progress for 9 s. Starting the workers again (restart 1 of at most 3)."
    assert state.join().attempt == 1
    assert state.is_over(1) is None
    assert state.snapshot().num_restarts == 1
    state.end_hung(0, "It has been ended.")
    assert state.snapshot().is_running


def test_ranks_that_stand_still_without_restarts_end_the_run(clock):
    state = ControlState(max_failures=0, idle_timeout_s=10.0, clock=clock)
    state.submit(task("a"))
    state.join()
    state.end_hung(0, "No progress for 9 s.")
    update = state.snapshot()
    assert update.phase is Phase.FATAL
    assert update.reason == "max_failures=0 allows no restart"
    assert update.deaths is not None
    assert update.deaths.hang == "No progress for 9 s."


def test_ranks_are_asked_where_they_are_and_those_that_do_not_answer_are_known(state):
    state.submit(task("a"))
    state.join()
    processes = [
        RankProcess(rank=rank, pid=rank, started=1.0, host="h", node_id="n", log_file=None) for rank in (0, 1)
    ]
    assert [state.watch(one, 0, 0) for one in processes] == [None, None]
    state.ask_places()
    asked = state.watch(processes[0], 0, 0)
    assert asked == Watch(request=1)
    place = Place(rank=0, collective="all_reduce", at="x.py:1 in f")
    state.tell_place(0, 1, place)
    assert state.watch(processes[0], 0, 1) is None
    assert state.places() == Ranks(places=[place], silent=[processes[1]])
    state.ask_places()
    state.tell_place(0, 1, place)
    assert state.places().places == [], "an answer to an earlier request says nothing about now"


def test_preemption_is_not_a_failure(clock):
    state = ControlState(max_failures=0, idle_timeout_s=10.0, clock=clock)
    state.submit(task("one"))
    for _ in range(5):
        assert not state.join().is_over
        assert state.report_deaths(WorkerDeaths(causes={1: "node died"}, was_preempted=True))
    state.join()
    assert state.fail(record(state)) is Answer.STOP


def test_workers_that_move_are_started_again_in_another_room_and_that_is_not_a_failure(clock):
    state = ControlState(max_failures=0, idle_timeout_s=10.0, clock=clock)
    state.set_room("old")
    state.submit(task("one"))
    for number in range(5):
        assert not state.join().is_over
        assert state.next_task(0, number).restarts == number
        state.set_command(Command.MOVE)
        assert state.command(Command.NONE) is Command.MOVE
        state.move(number, 7)
        state.move(number, 7)  # The other rank.
        assert state.snapshot().needs_room
        assert state.room() is None
        assert state.report_deaths(WorkerDeaths(causes={}))
        state.set_room(f"new {number}")
        assert not state.snapshot().needs_room
        assert state.room() == f"new {number}"
    state.join()
    assert state.command(Command.NONE) is None, "those that moved are not asked again"
    assert [event.text for event in state.update(0).events] == [
        "Saved step 7: the workers leave, and others go on from there (not counted as a failure)."
    ] * 5
    assert state.fail(record(state)) is Answer.STOP


def test_workers_that_die_before_they_have_moved_get_another_room_and_that_is_no_failure(clock):
    state = ControlState(max_failures=0, idle_timeout_s=10.0, clock=clock)
    state.set_room("old")
    state.submit(task("one"))
    state.join()
    state.set_command(Command.MOVE)
    assert state.report_deaths(WorkerDeaths(causes={1: "its node went"}))
    assert state.room() is None
    state.join()
    assert state.fail(record(state)) is Answer.STOP


def test_an_error_while_workers_are_to_move_is_a_failure(clock):
    state = ControlState(max_failures=0, idle_timeout_s=10.0, clock=clock)
    state.submit(task("one"))
    state.join()
    state.set_command(Command.MOVE)
    assert state.fail(record(state)) is Answer.STOP


def test_a_stop_is_more_urgent_than_a_move(state):
    state.submit(task("one"))
    state.join()
    state.set_command(Command.STOP_AFTER_SAVE)
    state.set_command(Command.MOVE)
    assert state.command(Command.NONE) is Command.STOP_AFTER_SAVE


def test_workers_that_fail_before_they_join_are_counted(state):
    state.submit(task("one"))
    reports = [state.report_deaths(WorkerDeaths(causes={0: f"death {number}"})) for number in range(4)]
    assert reports == [True, True, False, False]
    assert "3 times in a row" in state.snapshot().reason


def test_rank_that_cannot_be_set_up_ends_the_run(state):
    state.submit(task("one"))
    failed = replace(
        record(state, "ModuleNotFoundError", attempt=0), attempt=None, base_names=("ImportError",)
    )
    assert state.fail(failed) is Answer.STOP
    assert state.snapshot().failures == [failed]


def test_last_commit_is_remembered(state):
    state.join()
    state.push(0, [commit(3), commit(6)])
    assert state.snapshot().last_commit.step == 6


def test_workers_wait_where_the_driver_has_no_room_for_them_yet(state):
    state.set_room("lost")
    state.join()
    state.set_room(None)
    assert state.room() is None
    assert not state.snapshot().needs_room, "they have not left it by themselves"
    state.set_room("new")
    assert state.room() == "new"


def test_without_a_driver_a_training_run_is_asked_to_save_and_then_it_is_over(state):
    state.join()
    state.submit(task("one"))
    state.next_task(0, 0)
    state.lose_driver()
    assert state.command(Command.NONE) is Command.STOP_AFTER_SAVE
    assert state.is_open()
    state.finish(TaskResult(task_id="one", payload=None))
    assert state.next_task(0, 0) is Answer.STOP
    assert state.is_over(0)


def test_without_a_driver_what_does_not_train_ends_at_once(state):
    state.join()
    state.submit(replace(task("one"), method="evaluate"))
    state.lose_driver()
    assert state.next_task(0, 0) is Answer.STOP


def test_without_a_driver_idle_workers_leave_at_once(state):
    state.join()
    state.lose_driver()
    assert state.next_task(0, 0) is Answer.STOP


def test_without_a_driver_failed_workers_are_not_started_again(state):
    state.join()
    state.submit(task("one"))
    state.lose_driver()
    assert state.fail(record(state)) is Answer.STOP
    assert state.snapshot().reason == "the driver has ended"


def test_workers_that_were_to_start_again_do_not_when_the_driver_has_ended(state):
    state.join()
    state.submit(task("one"))
    assert state.fail(record(state)) is Answer.RETRY
    state.lose_driver()
    assert state.join().is_over


def test_a_step_of_a_later_attempt_is_seen_and_none_of_an_earlier_one(state):
    def begin(first_step):
        attempt = state.join().attempt
        state.push(
            attempt,
            [TrainStarted(max_steps=9, first_step=first_step, num_epochs=1, attempt=attempt, rows=[])],
        )
        return attempt

    def progress(attempt, step):
        state.push(attempt, [StepDone(step=step, max_steps=9, epoch=0.0, samples_per_s=[])])

    state.submit(task("a"))
    before = state.attempt
    first = begin(4)
    progress(first, 4)  # what a run says of itself before its first step
    assert not state.has_stepped_after(before)
    progress(first, 5)
    assert state.has_stepped_after(before)
    assert not state.has_stepped_after(first)
    state.fail(record(state))
    progress(begin(4), 5)
    assert state.has_stepped_after(first)
