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
KILLED = ("sft", "dpo", "reward") if os.environ.get("RAYTRAINER_ALL_CLIENTS") else ("sft",)
TIMEOUT_S = 280
pytestmark = pytest.mark.serial  # so that one process runs all of them, and each fixture once


def run(mode: str, directory: Path, *names: str) -> dict[str, Any]:
    subprocess.run(
        [sys.executable, "-m", "tests.clients.libraries", mode, str(directory), *names],
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


@pytest.mark.ray
@pytest.mark.parametrize("name", NAMES)
def test_two_workers_train_it(on_workers: Any, directory: Path, name: str) -> None:
    found = on_workers[name]
    assert found["world_size"] == 2
    assert len(found["losses"]) == NUM_STEPS
    assert "checkpoint-4" in found["checkpoints"]


@pytest.mark.ray
def test_a_killed_worker_changes_no_weight(on_workers: Any, directory: Path) -> None:
    killed = run("killed", directory, *KILLED)
    for name in KILLED:
        assert killed[name]["died"]
        assert killed[name]["losses"] == on_workers[name]["losses"]
        expected = weights(directory, "workers", name)
        for key, value in weights(directory, "killed", name).items():
            assert torch.equal(value, expected[key]), f"{name}: {key}"
