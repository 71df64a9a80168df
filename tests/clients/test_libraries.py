"""TRL, sentence-transformers and setfit train on raytrainer after patch_transformers()."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

ROOT = Path(__file__).parents[2]
NAMES = ("sft", "dpo", "reward", "grpo", "sentence", "setfit")
NUM_STEPS = 4
ALL = bool(os.environ.get("RAYTRAINER_ALL_CLIENTS"))
KILLED = ("sft", "dpo", "reward", "sentence", "setfit") if ALL else ("sft",)
ON_TWO_RANKS = ("sft", "dpo", "reward", "grpo", "sentence")
"""Those that transformers trains on two ranks when torchrun starts their recipe; setfit's arguments stay on one."""
TIMEOUT_S = 280
pytestmark = pytest.mark.serial  # so that one process runs all of them, and each fixture once


def run(mode: str, directory: Path, *names: str, launcher: tuple[str, ...] = ()) -> dict[str, Any]:
    subprocess.run(
        [sys.executable, "-m", *launcher, "tests.clients.libraries", mode, str(directory), *names],
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CI": "1", "RAY_AUTH_MODE": "disabled"},
        timeout=TIMEOUT_S,
    )
    return json.loads((directory / f"{mode}.json").read_text(encoding="utf-8"))


def weights(directory: Path, mode: str, name: str) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(directory / mode / name / "weights.safetensors")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("libraries")


@pytest.fixture(scope="module")
def in_process(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return run("stock", directory, *NAMES), run("in_process", directory, *NAMES)


@pytest.fixture(scope="module")
def on_workers(directory: Path) -> dict[str, Any]:
    return run("workers", directory, *NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_losses_and_weights_in_process_are_those_of_transformers(
    in_process: Any, directory: Path, name: str
) -> None:
    stock, ours = (found[name] for found in in_process)
    assert "transformers.trainer" in stock["bases"]
    assert "raytrainer.trainer" in ours["bases"]
    assert "transformers.trainer" not in ours["bases"]
    assert len(ours["losses"]) == NUM_STEPS
    assert ours["losses"] == pytest.approx(stock["losses"], abs=1e-6)
    assert ours["rewards"] == stock["rewards"]
    assert ours["checkpoints"] == stock["checkpoints"]
    expected = weights(directory, "stock", name)
    found = weights(directory, "in_process", name)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6, msg=key)


@pytest.fixture(scope="module")
def resumed(in_process: Any, directory: Path) -> dict[str, Any]:
    return run("resumed", directory, *NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_is_resumed_is_the_uninterrupted_one(
    in_process: Any, resumed: dict[str, Any], directory: Path, name: str
) -> None:
    assert resumed[name]["first_step"] == 2
    assert resumed[name]["losses"] == in_process[1][name]["losses"]
    assert resumed[name]["rewards"] == in_process[1][name]["rewards"]
    expected = weights(directory, "in_process", name)
    for key, value in weights(directory, "resumed", name).items():
        assert torch.equal(value, expected[key]), key


@pytest.mark.ray
@pytest.mark.parametrize("name", NAMES)
def test_two_workers_train_it(on_workers: Any, directory: Path, name: str) -> None:
    found = on_workers[name]
    assert found["world_size"] == 2
    assert len(found["losses"]) == NUM_STEPS
    assert "checkpoint-4" in found["checkpoints"]


@pytest.mark.ray
@pytest.mark.skipif(not ALL, reason="set RAYTRAINER_ALL_CLIENTS=1")
def test_losses_on_two_workers_are_those_of_transformers_on_two_ranks(
    in_process: Any, on_workers: dict[str, Any], directory: Path
) -> None:
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")
    stock = run("stock_ranks", directory, *ON_TWO_RANKS, launcher=torchrun)
    for name in ON_TWO_RANKS:
        assert stock[name]["world_size"] == 2
        assert on_workers[name]["losses"] == pytest.approx(stock[name]["losses"], abs=1e-6), name
        assert on_workers[name]["rewards"] == stock[name]["rewards"], name


@pytest.mark.ray
def test_a_killed_worker_changes_no_weight(on_workers: Any, directory: Path) -> None:
    killed = run("killed", directory, *KILLED)
    for name in KILLED:
        assert killed[name]["died"]
        assert killed[name]["losses"] == on_workers[name]["losses"]
        expected = weights(directory, "workers", name)
        for key, value in weights(directory, "killed", name).items():
            assert torch.equal(value, expected[key]), f"{name}: {key}"
