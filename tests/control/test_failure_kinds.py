from __future__ import annotations

import pytest
import torch
from torch import nn

from raytrainer.control.failure_kinds import FailureKind, kind_of
from raytrainer.errors import CheckpointError, ConfigurationError, DispatchError, EngagementError
from raytrainer.wire.failure_record import record_failure


def raised(call):
    try:
        call()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def recorded(error):
    return record_failure(error, rank=1, attempt=0, step=3, method="train", log_file=None)


DETERMINISTIC = [
    TypeError("no"),
    ValueError("no"),
    KeyError("labels"),
    IndexError("no"),
    AttributeError("no"),
    AssertionError(),
    NameError("no"),
    ModuleNotFoundError("No module named 'x'"),
    NotImplementedError(),
    ZeroDivisionError(),
    UnicodeDecodeError("utf-8", b"", 0, 1, "no"),
    ConfigurationError("no"),
    EngagementError("no"),
    CheckpointError("no"),
    raised(lambda: torch.ones(2, 3) @ torch.ones(2, 3)),
    raised(lambda: torch.ones(2) + torch.ones(3)),
    raised(lambda: nn.Linear(2, 2)(torch.ones(1, 3))),
    raised(lambda: nn.Linear(2, 2)(torch.ones(1, 2, dtype=torch.float64))),
    raised(lambda: nn.Linear(2, 2).load_state_dict({})),
    raised(lambda: torch.ones(1).backward()),
    raised(lambda: torch.stack([torch.ones(1), torch.ones(2)])),
    raised(lambda: torch.ones(4).view(3)),
    raised(lambda: nn.functional.cross_entropy(torch.ones(2, 3), torch.tensor([0, 7]))),
]
COLLATERAL = [
    RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:3456"),
    RuntimeError("Connection reset by peer"),
    torch.distributed.DistBackendError("NCCL error"),
    DispatchError("rank 0 could not read"),
    torch.distributed.DistNetworkError("broken pipe"),
    RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation"),
]
TRANSIENT = [
    OSError(5, "Input/output error"),
    ConnectionError("storage"),
    MemoryError(),
    torch.cuda.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("CUDA error: unspecified launch failure"),
    RuntimeError("something new"),
    type("VendorError", (Exception,), {})("?"),
    SystemExit(3),
]


@pytest.mark.parametrize("error", DETERMINISTIC, ids=lambda e: f"{type(e).__name__}-{str(e)[:30]}")
def test_programming_and_data_errors_would_come_back(error):
    assert kind_of(recorded(error)) is FailureKind.DETERMINISTIC


@pytest.mark.parametrize("error", COLLATERAL, ids=lambda e: f"{type(e).__name__}-{str(e)[:30]}")
def test_lost_peers_are_echoes(error):
    assert kind_of(recorded(error)) is FailureKind.COLLATERAL


@pytest.mark.parametrize("error", TRANSIENT, ids=lambda e: f"{type(e).__name__}-{str(e)[:30]}")
def test_everything_else_may_be_bad_luck(error):
    assert kind_of(recorded(error)) is FailureKind.TRANSIENT


def test_what_was_being_handled_does_not_say_what_kind_a_failure_is():
    error = RuntimeError("something new")
    error.__cause__ = ConnectionError("connection reset by peer")
    assert kind_of(recorded(error)) is FailureKind.TRANSIENT
