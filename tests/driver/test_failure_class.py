"""The error of a run that failed on workers is caught by the clause that catches its cause."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import cloudpickle
import pytest
import torch

from raytrainer import CheckpointError, TrainingFailed
from raytrainer.driver.failure_class import failed_by
from raytrainer.driver.failure_message import original
from raytrainer.wire.failure_record import record_failure


class OfTheUser(Exception):
    """Needs two arguments, and has attributes."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class Unmakeable(Exception):
    """No other class can be made from it."""

    def __init_subclass__(cls) -> None:
        raise TypeError("no subclasses")


CAUSES: list[Exception] = [
    ValueError("no"),
    KeyError("name"),
    OSError(5, "disk is sulking"),
    UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
    ImportError("no", name="module"),
    torch.OutOfMemoryError("memory"),
    CheckpointError("damaged"),
    OfTheUser(3, "no"),
]


def recorded(error: BaseException) -> BaseException | None:
    """An exception as it arrives from a worker."""
    return original(record_failure(error, rank=1, attempt=0, step=1, method="train", log_file=None))


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: type(cause).__name__)
def test_it_is_of_both_classes_and_has_the_message(cause: Exception) -> None:
    error = failed_by("What a person reads\nwhere: rank 1", recorded(cause))
    assert isinstance(error, TrainingFailed)
    assert isinstance(error, type(cause))
    assert str(error) == "What a person reads\nwhere: rank 1"
    assert type(error).__name__ == f"TrainingFailed({type(cause).__name__})"
    assert type(error.__cause__) is type(cause)
    assert str(error.__cause__) == str(cause)


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
def test_it_can_be_pickled(pickler: Any) -> None:
    error = pickle.loads(pickler.dumps(failed_by("What a person reads", OSError(5, "disk is sulking"))))
    assert isinstance(error, TrainingFailed)
    assert isinstance(error, OSError)
    assert str(error) == "What a person reads"
    assert str(error.__cause__) == "[Errno 5] disk is sulking"


def test_an_exception_arrives_without_what_cannot_be_pickled() -> None:
    cause = OfTheUser(3, "no")
    vars(cause)["lock"] = threading.Lock()
    arrived = recorded(cause)
    assert isinstance(arrived, OfTheUser)
    assert str(arrived) == "3: no"
    assert not hasattr(arrived, "lock")


def test_attributes_of_the_cause_are_there() -> None:
    with pytest.raises(OfTheUser) as caught:
        raise failed_by("text", recorded(OfTheUser(3, "no")))
    assert caught.value.code == 3


@pytest.mark.parametrize(
    "cause", [None, KeyboardInterrupt(), SystemExit(3), Unmakeable(), Exception("plain")]
)
def test_what_ends_a_process_and_what_cannot_be_made_is_a_plain_failure(cause: BaseException | None) -> None:
    error = failed_by("text", cause)
    assert type(error) is TrainingFailed
    assert error.__cause__ is cause
