from __future__ import annotations

import dataclasses
import threading

import pytest

from raytrainer.control.failure_policy import root_cause
from raytrainer.driver.failure_message import MAX_LINES, Failure, training_failed
from raytrainer.wire.failure_record import record_failure


def raised(call):
    try:
        call()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def users_own_loss():
    raise ValueError("expected 3 classes, got 4")


def make_record(error=None, *, rank=1, time=1.0, attempt=0, **changes):
    record = record_failure(
        error or raised(users_own_loss),
        rank=rank,
        attempt=attempt,
        step=12,
        method="train",
        log_file="out/logs/rank-1.log",
    )
    return dataclasses.replace(record, time=time, **changes)


def echo(**changes):
    return make_record(RuntimeError("Connection closed by peer [127.0.0.1]:3456"), **changes)


def test_cause_is_the_first_failure_that_is_not_an_echo():
    cause = make_record(rank=3, time=2.0)
    assert root_cause([echo(rank=0, time=1.0), make_record(rank=2, time=3.0), cause]) is cause


def test_message_leads_with_the_users_exception_and_frames():
    failure = Failure(records=[make_record(), echo(rank=0)], last_checkpoint="out/checkpoint-10")
    error = training_failed(failure)
    lines = str(error).splitlines()
    assert lines[0] == "ValueError: expected 3 classes, got 4"
    assert any("users_own_loss" in line for line in lines[1:5])
    text = str(error)
    assert "rank 1" in text
    assert "after step 12" in text
    assert "attempt 1" in text
    assert "last committed checkpoint: out/checkpoint-10" in text
    assert "log: out/logs/rank-1.log" in text
    assert "failed as a consequence: rank 0 (RuntimeError)" in text
    assert isinstance(error.__cause__, ValueError)


def test_message_fits_on_one_screen():
    def deep(n):
        if n:
            deep(n - 1)
        raise ValueError("line\n" * 50)

    error = training_failed(Failure(records=[make_record(raised(lambda: deep(60)))]))
    assert len(str(error).splitlines()) <= MAX_LINES


def test_notes_of_an_exception_are_told():
    error = ValueError("no")
    error.add_note("raised by MyCallback.on_step_end")
    assert "raised by MyCallback.on_step_end" in str(training_failed(Failure(records=[make_record(error)])))


def test_exception_that_survives_no_pickle_is_told_all_the_same():
    class Local(Exception):
        lock = threading.Lock()

    error = training_failed(Failure(records=[make_record(Local("xy"))]))
    assert error.__cause__ is None
    assert "Local: xy" in str(error).splitlines()[0]


def test_frames_below_the_users_code_are_left_out():
    from raytrainer.wire.spec import receive

    class Bad:
        def __reduce__(self):
            return (users_own_loss, ())

    from raytrainer.wire.spec import ship

    shipped = ship(Bad())
    frames = make_record(raised(lambda: receive(shipped))).user_frames
    assert "users_own_loss" in frames


def test_death_is_told_in_rays_words_with_a_hint():
    died = type("ActorDiedError", (Exception,), {})(
        "The actor died.\nWorker exit detail: Worker unexpectedly exits with a connection error code 2. Possible OOM"
    )
    fit_error = type("WorkerGroupError", (Exception,), {})("x")
    fit_error.worker_failures = {1: died}
    text = str(training_failed(Failure(records=[echo(rank=0)], fit_error=fit_error)))
    assert text.startswith("The worker of rank 1 died without an exception: Worker unexpectedly exits")
    assert "why it ended: Ray Train did not start the workers again" in text
    assert "hint: if memory ran out" in text


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (OSError(28, "No space left on device"), "save_total_limit"),
        (OSError(98, "Address already in use"), "holds the port"),
        (ModuleNotFoundError("No module named 'mine'"), "'mine' cannot be imported by the driver either"),
    ],
)
def test_hint_for_what_is_known(error, hint):
    assert hint in str(training_failed(Failure(records=[make_record(error)])))


@pytest.mark.parametrize("text", ["boom", "no room left in the zoom", "the head of the loom"])
def test_words_that_contain_oom_are_no_hint_at_memory(text):
    assert "hint" not in str(training_failed(Failure(records=[make_record(RuntimeError(text))])))


@pytest.mark.parametrize("text", ["CUDA out of memory.", "killed: OOM", "Node is low on memory"])
def test_lack_of_memory_is_hinted_at(text):
    assert "hint: if memory ran out" in str(
        training_failed(Failure(records=[make_record(RuntimeError(text))]))
    )


def test_ranks_that_waited_in_vain_are_not_told_as_a_death():
    record = make_record(RuntimeError("Timed out waiting 1800000ms for recv operation to complete"), rank=0)
    text = str(training_failed(Failure(records=[record])))
    assert text.startswith(
        "Rank 0 waited for the others in a collective for longer than ddp_timeout, and none"
    )
    assert "died" not in text


def test_notes_and_the_end_of_a_long_message_are_shown():
    error = raised(users_own_loss)
    error.args = (
        "Caught in a loading process\n" + "\n".join(f"frame {i}" for i in range(20)) + "\nthe cause",
    )
    error.add_note("Its samples in the data: 4, 5.")
    lines = str(training_failed(Failure(records=[make_record(error)]))).splitlines()
    assert lines[0].startswith("ValueError: Caught in a loading process")
    assert "the cause" in lines[:10]
    assert "Its samples in the data: 4, 5." in lines[:10]


def test_the_death_of_a_node_has_a_hint_about_the_node():
    cause = "its node 10.0.0.2 (7aa86e) is lost: Ray hears nothing from it any more"
    text = str(training_failed(Failure(records=[], deaths={1: cause})))
    assert text.startswith(f"The worker of rank 1 died without an exception: {cause}")
    assert "hint: look at that machine" in text
    assert "per_device_train_batch_size" not in text


def test_of_a_long_line_the_end_is_shown_where_the_advice_stands():
    text = f"This was found: {'x' * 3000}. Do that."
    line = str(training_failed(Failure(records=[make_record(ValueError(text))]))).splitlines()[0]
    assert line.startswith("ValueError: This was found: xxx")
    assert " ... " in line
    assert line.endswith("Do that.")
    whole = f"This was found: {'x' * 500}. Do that."
    assert whole in str(training_failed(Failure(records=[make_record(ValueError(whole))])))
