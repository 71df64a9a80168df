"""What is handed over is written as it would have been in place, whatever happens to it afterwards."""

from __future__ import annotations

import collections
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from raytrainer import CheckpointError
from raytrainer.checkpoint.background.arena import SMALLEST_SEGMENT
from raytrainer.checkpoint.background.messages import WriteOrder
from raytrainer.checkpoint.background.writer import BackgroundWriter
from raytrainer.checkpoint.state_files import allowed_objects, save_state
from raytrainer.checkpoint.tensor_files import read_tensors, write_tensors

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
    order = WriteOrder(target=directory, files=stage.files, names=[name], allowed=allowed_objects())
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


def test_an_object_of_the_script_is_refused_with_what_to_do(writer, tmp_path, monkeypatch):
    class Local:
        pass

    Local.__module__, Local.__qualname__ = "__main__", "Local"
    monkeypatch.setattr(sys.modules["__main__"], "Local", Local, raising=False)
    with writer.staging() as stage:
        save_state(tmp_path / "s.pt", State({"x": Local()}))
    with pytest.raises(CheckpointError, match=r"The state of State holds .*Put the class into a module"):
        write(writer, tmp_path, stage, "s.pt")


def test_outside_of_a_stage_files_are_written_in_place(writer, tmp_path):
    with writer.staging():
        pass
    write_tensors(tmp_path / "w.safetensors", {"a": torch.ones(2)})
    assert read_tensors(tmp_path / "w.safetensors")["a"].tolist() == [1.0, 1.0]


def test_the_process_has_a_lower_priority_and_no_gpu(writer, tmp_path):
    with writer.staging() as stage:
        write_tensors(tmp_path / "w.safetensors", {"a": torch.ones(2)})
    write(writer, tmp_path, stage, "w.safetensors")
    niceness = os.getpriority(os.PRIO_PROCESS, writer.pid)
    assert niceness > os.getpriority(os.PRIO_PROCESS, 0) or niceness == 19
    environment = Path(f"/proc/{writer.pid}/environ").read_bytes()
    assert b"\0CUDA_VISIBLE_DEVICES=\0" in environment


def test_the_process_imports_no_transformers():
    code = "import sys, raytrainer.checkpoint.background.process; print('transformers' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"
