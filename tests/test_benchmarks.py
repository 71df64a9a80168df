"""The benchmark for GPUs counts what it says, and the table of figures has the readings of its scripts."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    monkeypatch.syspath_prepend(BENCHMARKS)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def benchmark_of_gpus(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load("gpu", monkeypatch)


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


def test_the_table_has_the_medians_of_both_versions_beside_the_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    table = load("table", monkeypatch)
    now = table.Readings(
        ours={"recovery": [3.0, 2.0, 9.0]},
        peers={"recovery": [10.0, 15.0]},
        ratios={"recovery": [0.3, 0.2, 0.5]},
    )
    before = table.Readings(ours={"recovery": [8.0]}, peers={"recovery": [20.0]}, ratios={"recovery": [0.4]})
    head, row = table.rows([table.BENCHMARKS["recovery"]], now, before)
    assert head == ["what you wait for", "before", "now", "peer", "before / peer", "now / peer", "wanted"]
    assert row[1:] == ["8.00 s", "3.00 s", "by hand 15.00 s", "0.40", "0.30", "0.40"]


def test_a_ratio_is_that_to_the_peer_of_the_same_round(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = load("table", monkeypatch)
    rounds = iter([(1.0, 10.0), (30.0, 100.0)])

    def run(command: list[str], env: dict[str, str], **_: object) -> SimpleNamespace:
        values = dict(zip(("raytrainer", "by hand"), next(rounds), strict=True))
        lines = [
            json.dumps({"figure": "recovery", "side": side, "value": value}) for side, value in values.items()
        ]
        Path(env[table.VARIABLE]).write_text("\n".join(lines))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(table.subprocess, "run", run)
    readings = table.Readings()
    for _ in range(2):
        table.measure(table.BENCHMARKS["recovery"], tmp_path, readings)
    assert readings.ours == {"recovery": [1.0, 30.0]}
    assert readings.ratios == {"recovery": [0.1, 0.3]}


def test_a_reading_whose_peer_ran_in_its_own_process_is_compared_with_that(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = load("table", monkeypatch)

    def run(command: list[str], env: dict[str, str], **_: object) -> SimpleNamespace:
        sides = [("raytrainer", 11.0, 10.0), ("bare loop", 10.0, None), ("bare loop", 12.0, None)]
        lines = [
            json.dumps({"figure": "step", "side": side, "value": value, "beside": beside})
            for side, value, beside in sides
        ]
        Path(env[table.VARIABLE]).write_text("\n".join(lines))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(table.subprocess, "run", run)
    readings = table.Readings()
    table.measure(table.BENCHMARKS["loop"], tmp_path, readings)
    assert readings.ratios == {"step": [1.1]}


def test_the_table_says_that_a_benchmark_has_no_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    table = load("table", monkeypatch)
    _, row = table.rows([table.BENCHMARKS["recovery"]], table.Readings())
    assert row[1:] == ["-", "by hand -", "-", "0.40"]


def test_the_benchmark_of_the_loop_notes_each_figure_that_the_table_shows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table, loop = load("table", monkeypatch), load("loop_overhead", monkeypatch)
    monkeypatch.setenv("RAYTRAINER_BENCHMARK_READINGS", str(tmp_path / "readings.jsonl"))
    monkeypatch.setattr("sys.argv", ["loop_overhead.py", "--steps", "16", "--rounds", "1"])
    loop.main()
    found = {(one["figure"], one["side"]) for one in table.noted(tmp_path / "readings.jsonl")}
    shown = table.BENCHMARKS["loop"].figures
    assert {(figure.name, side) for figure in shown for side in ("raytrainer", figure.peer)} <= found
