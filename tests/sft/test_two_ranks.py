"""Two ranks fine-tune as one process with twice the batch does, on every backend, and resume."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sft.runs import WAYS, adapter, fine_tune, logged
from tests.torchrun import torchrun

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(300)]
WRAPPERS = {"ddp": "DistributedDataParallel", "zero2": "DeepSpeedEngine", "zero3": "DeepSpeedEngine"}


@pytest.fixture(scope="module")
def on_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    target = tmp_path_factory.mktemp("ranks") / "ranks.json"
    return torchrun("sft/rank.py", [str(target)], target=target, timeout_s=280)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[float]]]:
    directory = tmp_path_factory.mktemp("alone")
    return {
        kind: logged(fine_tune(directory / kind, per_device_train_batch_size=4, peft_config=peft))
        for kind, peft in (("whole", None), ("adapter", adapter()))
    }


@pytest.mark.parametrize("kind", ["whole", "adapter"])
@pytest.mark.parametrize("way", WAYS)
def test_two_ranks_train_and_count_like_one_with_twice_the_batch(
    on_two: dict[str, Any], alone: dict[str, list[list[float]]], way: str, kind: str
) -> None:
    found = on_two[f"{way} {kind}"]
    assert found["wrapper"] == WRAPPERS.get(way, found["wrapper"])
    assert (found["dtensors"] > 0) == (way == "fsdp")
    assert found["stage"] == (int(way[-1]) if way.startswith("zero") else 0)
    assert len(found["rows"]) == len(alone[kind]) == 3
    for mine, other in zip(found["rows"], alone[kind], strict=True):
        assert mine == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize("kind", ["whole", "adapter"])
@pytest.mark.parametrize("way", WAYS)
def test_a_run_goes_on_and_holds_of_an_adapter_the_adapter_alone(
    on_two: dict[str, Any], way: str, kind: str
) -> None:
    whole, resumed = on_two[f"{way} {kind}"], on_two[f"{way} {kind} resumed"]
    assert resumed["rows"] == whole["rows"]
    weights = [name for name in whole["files"] if name.endswith(".safetensors")]
    assert weights
    assert all(name.startswith("adapter") for name in weights) == (kind == "adapter")
