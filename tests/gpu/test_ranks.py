"""Under a launcher, on one rank with NCCL, DDP and FSDP2 train as one process does, and resume with the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import raytrainer
from tests.gpu.rank import RUNS
from tests.gpu.twins import make_gpu_trainer
from tests.parity.twins import rows
from tests.torchrun import torchrun

pytestmark = pytest.mark.timeout(240)
WRAPPERS = {
    "rank": "LlamaForCausalLM",
    "ddp": "DistributedDataParallel",
    "fsdp": "FSDP",
    "zero": "DeepSpeedEngine",
}
TOLERANCE = {
    "fsdp bf16": 2e-2,
    "fsdp offload": 1e-5,
    "zero2": 1e-5,
    "zero3": 1e-5,
    "zero2 bf16": 2e-2,
    "zero2 fp16": 2e-2,
}
"""FSDP2 and DeepSpeed round all parameters, norms among them, where autocast does not; offloaded, a CPU updates."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("ranks")
    target = directory / "results.json"
    return torchrun("gpu/rank.py", [str(target), str(directory)], target=target, num_ranks=1, timeout_s=200)


def of(results: dict[str, Any], name: str) -> dict[str, Any]:
    assert "error" not in results[name], results[name]["error"]
    return results[name]


@pytest.mark.parametrize("name", RUNS)
def test_it_is_engaged(name: str, results: dict[str, Any]) -> None:
    seen = of(results, name)["engaged"]
    assert "nccl" in seen["group"]
    assert seen["devices"] == (["cpu"] if "offload" in name else ["cuda"])
    kind = name.split()[0]
    assert seen["wrapped"].startswith(WRAPPERS[kind.rstrip("23")])
    if kind == "fsdp":
        assert seen["dtensors"] == seen["parameters"] > 0


@pytest.mark.parametrize("name", RUNS)
def test_its_losses_are_those_of_one_process(name: str, results: dict[str, Any], tmp_path: Path) -> None:
    options = {key: value for key, value in RUNS[name].items() if key not in ("fsdp", "deepspeed")}
    alone = make_gpu_trainer(raytrainer, tmp_path, max_steps=8, optim="adamw_torch_fused", **options)
    alone.train()
    tolerance = TOLERANCE.get(name, 1e-6)
    found = of(results, name)["rows"]
    assert len(found) == 8
    for mine, other in zip(found, rows(alone), strict=True):
        assert mine[:2] == pytest.approx(other[:2], abs=tolerance, rel=tolerance)
    assert found[0] == pytest.approx(rows(alone)[0], abs=tolerance, rel=tolerance)


@pytest.mark.parametrize("name", RUNS)
def test_it_resumes_with_the_same_bits(name: str, results: dict[str, Any]) -> None:
    whole, resumed = of(results, name), of(results, f"{name} resumed")
    assert resumed["rows"][-4:] == whole["rows"][-4:]
    assert resumed["weights"] == whole["weights"]
