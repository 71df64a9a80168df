"""The benchmark for GPUs works, and counts what it says."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark_of_gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("benchmark_of_gpus", BENCHMARKS / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    threads = torch.get_num_threads()
    spec.loader.exec_module(module)
    yield module
    torch.set_num_threads(threads)


def test_the_gpu_benchmark_prints_a_row_for_each_side(
    benchmark_of_gpus: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = ["bare", "raytrainer", "transformers"]
    monkeypatch.setattr(
        "sys.argv", ["gpu.py", "--tiny", "--steps", "2", "--peak-tflops", "1", "--sides", *sides]
    )
    benchmark_of_gpus.main()
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines if "ms/step" in line}
    assert list(rows) == sides
    assert all("tokens/s  MFU" in line and "x bare" in line for line in rows.values())
    assert "1.000 x bare" in rows["bare"]


def test_its_model_has_the_operations_of_palms_formula(
    benchmark_of_gpus: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu.py"])
    options = benchmark_of_gpus.parse()
    matrices = 24 * (4 * 2048 * 2048 + 3 * 2048 * 5504) + 32000 * 2048
    norms = (2 * 24 + 1) * 2048
    assert benchmark_of_gpus.flops_per_token(options) == 6 * (matrices + norms) + 12 * 24 * 2048 * 2048
