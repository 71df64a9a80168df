from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from raytrainer.worker.stacks import StackWriter, place_of


def wait_for(event: threading.Event) -> None:
    event.wait(30)


def place_while(target: Any, *args: Any) -> Any:
    """Where a thread is that is stuck in a function until ``args[-1]`` is set."""
    thread = threading.Thread(target=target, args=args, daemon=True)
    thread.start()
    place = place_of(thread.ident or 0, 3)
    while "wait_for" not in place.at:
        place = place_of(thread.ident or 0, 3)
    args[-1].set()
    thread.join()
    return place


@pytest.mark.timeout(20)
def test_a_rank_outside_of_a_collective_says_its_line() -> None:
    place = place_while(wait_for, threading.Event())
    assert (place.rank, place.collective) == (3, None)
    assert place.at.startswith("worker/test_stacks.py:")
    assert place.at.endswith(" in wait_for")


@pytest.mark.timeout(20)
def test_a_rank_in_a_collective_says_which_and_who_called_it(monkeypatch: pytest.MonkeyPatch) -> None:
    event = threading.Event()
    # The innermost frame of a real collective is in C; here it is a wait that the test can end.
    source = "def all_reduce(*args, **kwargs):\n    return _wait()\ndef _wait():\n    return EVENT.wait(30)\n"
    names: dict[str, Any] = {"EVENT": event}
    exec(compile(source, dist.distributed_c10d.__file__, "exec"), names)
    monkeypatch.setattr(dist, "all_reduce", names["all_reduce"])

    def step() -> None:
        dist.all_reduce(torch.ones(1))

    thread = threading.Thread(target=step, daemon=True)
    thread.start()
    place = place_of(thread.ident or 0, 0)
    while place.collective is None:
        place = place_of(thread.ident or 0, 0)
    event.set()
    thread.join()
    assert place.collective == "all_reduce"
    assert place.at.endswith(" in step")


def test_stacks_of_all_threads_go_to_the_log(tmp_path: Path) -> None:
    event = threading.Event()
    thread = threading.Thread(target=wait_for, args=(event,), daemon=True)
    thread.start()
    writer = StackWriter(tmp_path / "rank-0.log")
    writer.write()
    writer.close()
    event.set()
    text = (tmp_path / "rank-0.log").read_text()
    assert "stacks of all threads, as the driver asked" in text
    assert "in wait_for" in text
    assert "in test_stacks_of_all_threads_go_to_the_log" in text
