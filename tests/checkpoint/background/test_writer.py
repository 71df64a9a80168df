"""What is handed over is written as it would have been in place, whatever happens to it afterwards."""

from __future__ import annotations

import collections
import json
import mmap
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from raytrainer import CheckpointError
from raytrainer.checkpoint.background import process
from raytrainer.checkpoint.background import writer as writer_module
from raytrainer.checkpoint.background.arena import SMALLEST_SEGMENT
from raytrainer.checkpoint.background.messages import FollowOrder, Hurry, Reply, WriteOrder, send
from raytrainer.checkpoint.background.writer import BackgroundWriter
from raytrainer.checkpoint.state_files import save_state
from raytrainer.checkpoint.tensor_files import read_tensors, write_tensors
from tests.checkpoint.background import odd_process
from tests.checkpoint.background.follow_ups import RaiseVariables, SayPolicy, Warn

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def writer():
    writer = BackgroundWriter()
    writer.start()
    yield writer
    writer.close()


class State:
    def __init__(self, value):
        self.value = value

    def state_dict(self):
        return self.value

    def load_state_dict(self, state_dict):
        raise NotImplementedError


def write(writer, directory: Path, stage, name: str):
    """Have what was handed over written; return the record of a file."""
    order = WriteOrder(target=directory, files=stage.files, names=[name])
    writer.order(order)
    return writer.result().records[name]


def odd_state():
    base = torch.randn(100)
    return {
        "whole": base,
        "view": base[10:20],
        "strided": base.view(10, 10).t(),
        "again": base,
        "parameter": torch.nn.Parameter(torch.randn(3, dtype=torch.bfloat16)),
        "number": torch.tensor(3),
        "empty": torch.empty(0, 4),
        "flags": torch.tensor([True, False]),
        "large": torch.randn(SMALLEST_SEGMENT // 4 + 1000),
        "plain": collections.OrderedDict(lr=np.float64(0.1), betas=(0.9, 0.999), names=["a", "b"]),
    }


def test_a_file_of_torch_save_is_bitwise_that_of_one_process(writer, tmp_path):
    state = odd_state()
    (tmp_path / "direct").mkdir()
    save_state(tmp_path / "direct/optimizer.pt", State(state))
    (tmp_path / "beside").mkdir()
    with writer.staging() as stage:
        save_state(tmp_path / "beside/optimizer.pt", State(state))
    assert (tmp_path / "beside/optimizer.pt").stat().st_size == 0
    with torch.no_grad():
        for name in ("whole", "parameter", "large"):
            state[name].zero_()
    record = write(writer, tmp_path / "beside", stage, "optimizer.pt")
    content = (tmp_path / "beside/optimizer.pt").read_bytes()
    assert content == (tmp_path / "direct/optimizer.pt").read_bytes()
    assert record.size == len(content)


def test_a_safetensors_file_holds_the_values_of_the_moment(writer, tmp_path):
    tensors = {
        "a": torch.randn(7, 3),
        "b": torch.arange(5, dtype=torch.int64),
        "half": torch.randn(9).to(torch.float16),
        "part": torch.randn(10)[4:8],
        "number": torch.tensor(1.5),
        "nothing": torch.empty(0),
    }
    expected = {name: value.clone() for name, value in tensors.items()}
    with writer.staging() as stage:
        write_tensors(tmp_path / "w.safetensors", tensors)
    for value in tensors.values():
        value.zero_()
    write(writer, tmp_path, stage, "w.safetensors")
    found = read_tensors(tmp_path / "w.safetensors")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name


def test_a_tensor_that_safetensors_would_refuse_is_refused_at_once(writer, tmp_path):
    with writer.staging(), pytest.raises(ValueError, match="w is not contiguous"):
        write_tensors(tmp_path / "w.safetensors", {"w": torch.randn(4, 4).t()})


def test_a_state_that_could_not_be_read_back_is_refused_at_once(writer, tmp_path):
    with writer.staging(), pytest.raises(CheckpointError, match=r"The state of State holds pathlib"):
        save_state(tmp_path / "s.pt", State({"x": Path("/")}))


def test_outside_of_a_stage_files_are_written_in_place(writer, tmp_path):
    with writer.staging():
        pass
    write_tensors(tmp_path / "w.safetensors", {"a": torch.ones(2)})
    assert read_tensors(tmp_path / "w.safetensors")["a"].tolist() == [1.0, 1.0]


def test_the_process_writes_in_idle_time_until_training_waits_for_it(tmp_path, monkeypatch):
    gate = tmp_path / "gate"
    monkeypatch.setattr(writer_module, "PROCESS", odd_process.NAME)
    monkeypatch.setenv(odd_process.VARIABLE, json.dumps({"gate": str(gate)}))
    own = BackgroundWriter()
    own.start()
    with own.staging() as stage:
        write_tensors(tmp_path / "w.safetensors", {"a": torch.ones(2)})
    own.order(WriteOrder(target=tmp_path, files=stage.files, names=["w.safetensors"]))
    policies = policies_of(own.pid)
    while os.SCHED_IDLE not in policies:
        policies = policies_of(own.pid)
    assert os.SCHED_OTHER in policies, "nobody hears that training waits"
    assert not own.has_ended()
    gate.touch()
    assert own.result().records
    assert policies_of(own.pid) == {os.SCHED_OTHER}
    environment = Path(f"/proc/{own.pid}/environ").read_bytes()
    assert b"\0CUDA_VISIBLE_DEVICES=\0" in environment
    own.close()


def test_memory_is_touched_before_the_first_save_and_then_used(tmp_path):
    own = BackgroundWriter()
    size = 64 << 20
    own.prepare(size)
    own.result()
    assert allocated(own) == [own.memory]
    assert size < own.memory < 1.1 * size
    with own.staging() as stage:
        write_tensors(tmp_path / "w.safetensors", {"a": torch.arange(size // 8)})
    write(own, tmp_path, stage, "w.safetensors")
    assert len(own.segments) == 1
    assert torch.equal(read_tensors(tmp_path / "w.safetensors")["a"], torch.arange(size // 8))
    own.close()


def test_a_save_that_comes_before_all_memory_is_touched_waits_for_that(tmp_path, monkeypatch):
    own = BackgroundWriter()
    own.prepare(256 << 20)
    with own.staging() as stage:
        assert allocated(own) == [own.memory]
        write_tensors(tmp_path / "w.safetensors", {"a": torch.ones(2)})
    assert write(own, tmp_path, stage, "w.safetensors").size > 0
    own.close()


def test_variables_that_change_reach_the_process_before_its_next_order(tmp_path, monkeypatch):
    """In them a run may renew the credentials of its bucket."""
    monkeypatch.setenv("RENEWED", "old")
    monkeypatch.setenv("REMOVED", "old")
    own = BackgroundWriter()
    own.start()
    for value in ("new", "newer"):
        monkeypatch.setenv("RENEWED", value)
        monkeypatch.delenv("REMOVED", raising=False)
        own.order(FollowOrder(what=RaiseVariables(names=("RENEWED", "REMOVED", "CUDA_VISIBLE_DEVICES"))))
        with pytest.raises(RuntimeError, match=rf"\['{value}', None, ''\]"):
            own.result()
    own.close()


def test_what_the_process_has_not_touched_yet_the_rank_touches_when_it_maps_it():
    own = BackgroundWriter()
    own._arena.map(own._arena.reserve(9 << 20))
    assert allocated(own) == [9 << 20]
    own.close()


def test_kernels_that_do_not_populate_memory_have_it_touched_page_by_page(monkeypatch):
    monkeypatch.setattr(process, "_MAP", 4711)
    descriptor = os.memfd_create("touched")
    os.ftruncate(descriptor, 9 << 20)
    with mmap.mmap(descriptor, 9 << 20, prot=mmap.PROT_READ) as memory:
        assert len(list(process._touched(memory))) == 3
    assert os.fstat(descriptor).st_blocks * 512 == 9 << 20
    os.close(descriptor)


def allocated(writer):
    """What the kernel has allocated of each segment [bytes]."""
    return [os.fstat(segment.descriptor).st_blocks * 512 // 4096 * 4096 for segment in writer.segments]


def policies_of(pid):
    return {os.sched_getscheduler(int(task)) for task in os.listdir(f"/proc/{pid}/task")}


@pytest.mark.parametrize("hurries", [False, True])
def test_an_order_is_done_once_whoever_does_it(hurries, tmp_path):
    """A rank that waits takes over between any two steps."""
    ours, theirs = socket.socketpair()
    seen: list[tuple[int, int]] = []

    def steps():
        for number in range(200):
            seen.append((number, os.sched_getscheduler(0)))
            if number == 100 and hurries:
                send(ours, Hurry())
            yield
        return Reply(committed_bytes=7)

    assert process._ended(steps(), theirs).committed_bytes == 7
    assert [number for number, _ in seen] == list(range(200))
    assert seen[100][1] == os.SCHED_IDLE
    assert hurries or {policy for _, policy in seen} == {os.SCHED_IDLE}
    ours.close()
    theirs.close()


def test_a_rank_that_is_gone_stops_the_work_without_a_word():
    """Its death resets the connection if it had not read everything."""
    ours, theirs = socket.socketpair()
    seen: list[int] = []

    def steps():
        for number in range(10**9):
            seen.append(number)
            yield
        return Reply()

    threading.Timer(0.05, ours.close).start()
    with pytest.raises((EOFError, ConnectionError)):
        process._ended(steps(), theirs)
    for thread in threading.enumerate():
        if thread.name == "idle":
            thread.join(10)
            assert not thread.is_alive()
    theirs.close()


@pytest.mark.parametrize(("is_remote", "policy"), [(True, os.SCHED_OTHER), (False, os.SCHED_IDLE)])
def test_what_talks_to_a_store_is_not_left_to_idle_time(is_remote, policy, writer):
    writer.order(FollowOrder(what=SayPolicy(is_remote=is_remote)))
    while not writer.has_ended():  # without a word that it is waited for
        time.sleep(0.001)
    assert writer.result().committed_bytes == policy


def test_what_the_process_warns_of_is_heard_before_the_order_has_ended(writer, tmp_path, caplog):
    writer.order(FollowOrder(what=Warn(gate=tmp_path / "gate")))
    while not caplog.messages:
        assert not writer.has_ended()
    assert caplog.messages == ["the store does not answer"]
    (tmp_path / "gate").touch()
    assert writer.result().committed_bytes is None
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("name", ["background.process", "background.to_directory", "remote.orders"])
def test_the_process_imports_neither_torch_nor_transformers(name):
    module = f"raytrainer.checkpoint.{name}"
    code = f"import sys, {module}; print({{'torch', 'transformers', 'numpy'}} & {{*sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "set()"
