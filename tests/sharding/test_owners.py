"""State held by owner ranks is read by other numbers of ranks; norms are measured in a separate pass."""

from __future__ import annotations

from typing import Any

import pytest

from raytrainer.optim import catalogue
from tests.sharding.launch import launch
from tests.sharding.test_optimizers import options
from tests.sharding.test_reshard import BACKENDS

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(400)]
NAMES = ["galore_adamw", "adafactor", "adalomo", "muon"]


def run_of(name: str, world_size: int, **changes: Any) -> dict[str, Any]:
    entry = catalogue.look_up(name)
    run = options(entry, "fsdp" if world_size > 1 else "ddp") | changes
    if entry.traits.updates_in_backward:
        run["per_device_train_batch_size"] = 12 // world_size
    return run


def clipped(world_size: int, optimizer: dict[str, Any]) -> dict[str, Any]:
    batch = {"gradient_accumulation_steps": 1, "per_device_train_batch_size": 12 // world_size}
    return {
        **batch,
        **optimizer,
        "learning_rate": 0.1,
        "max_grad_norm": 0.5,
        "max_steps": 3,
        "weight_decay": 0.0,
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("owners")
    measured = {"optim": "lomo", "optim_args": "grad_norm=true"}
    alone = {name: run_of(name, 1) for name in NAMES} | {"sgd": clipped(1, {"optim": "sgd"})}
    found = {f"one-{name}": value for name, value in launch(1, directory / "one", alone).items()}

    def resumed(name: str, source: str, world_size: int) -> dict[str, Any]:
        place = str(directory / source / name / "checkpoint-2")
        return run_of(name, world_size, save_strategy="no", resume=place)

    two = {name: run_of(name, 2) for name in NAMES}
    two |= {f"{name}-from-one": resumed(name, "one", 2) for name in NAMES}
    two |= {"lomo-ddp": clipped(2, measured), "lomo-fsdp": clipped(2, measured) | BACKENDS["fsdp"]}
    found |= launch(2, directory / "two", two)
    found |= launch(3, directory / "three", {f"{n}-two-to-three": resumed(n, "two", 3) for n in NAMES})
    found |= launch(1, directory / "again", {f"{n}-two-to-one": resumed(n, "two", 1) for n in NAMES})
    return found


@pytest.mark.parametrize("way", ["from-one", "two-to-three", "two-to-one"])
@pytest.mark.parametrize("name", NAMES)
def test_another_number_of_ranks_goes_on_with_the_state(results: dict[str, Any], name: str, way: str) -> None:
    expected, found = results[f"one-{name}"], results[f"{name}-{way}"]
    assert (found["dtensors"] > 0) == (way != "two-to-one")
    assert len(found["rows"]) == 3
    for mine, other in zip(found["rows"], expected["rows"], strict=True):
        assert mine[1] == pytest.approx(other[1], abs=2e-4 if name == "muon" else 1e-5)


@pytest.mark.parametrize("backend", ["ddp", "fsdp"])
def test_lomo_clips_by_a_norm_that_a_first_pass_measures(results: dict[str, Any], backend: str) -> None:
    found, expected = results[f"lomo-{backend}"], results["one-sgd"]
    assert all(row[2] > 0.5 for row in found["rows"]), "something is clipped"
    for mine, other in zip(found["rows"], expected["rows"], strict=True):
        assert mine[1:3] == pytest.approx(other[1:3], abs=1e-5)
