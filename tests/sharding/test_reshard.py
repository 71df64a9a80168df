"""A checkpoint of any backend and world size resumes under any other as if uninterrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from transformers import AutoModelForCausalLM

from raytrainer.checkpoint.verify import verify_checkpoint
from tests.sharding.launch import launch
from tests.sharding.test_parity import TOLERANCE

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(300)]
SAVES = {"save_strategy": "steps", "save_steps": 3}
FSDP = {"fsdp": True}
BACKENDS: dict[str, dict[str, Any]] = {
    "one": {},
    "ddp": {},
    "fsdp": FSDP,
    "zero1": {"deepspeed": {"zero_optimization": {"stage": 1}}},
    "zero3": {"deepspeed": {"zero_optimization": {"stage": 3}}},
}
WRITERS: dict[str, tuple[int, dict[str, Any]]] = {
    "one": (1, {}),
    "ddp2": (2, {}),
    "fsdp2": (2, FSDP),
    "fsdp3": (3, FSDP),
    "zero2": (2, {"deepspeed": {"zero_optimization": {"stage": 2}}}),
    "zero3": (2, {"deepspeed": {"zero_optimization": {"stage": 3}}}),
}


READERS = {1: ["one"], 2: ["ddp", "fsdp", "zero1"], 3: ["fsdp", "zero3"]}


def readers(num_ranks: int, directory: Path) -> dict[str, dict[str, Any]]:
    """Runs that resume from each writer's checkpoint."""
    return {
        f"{backend}{num_ranks}-from-{writer}": {
            **BACKENDS[backend],
            "resume": str(directory / writer / "checkpoint-3"),
        }
        for backend in READERS[num_ranks]
        for writer in WRITERS
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Each writer's directory with a checkpoint of step 3 and the whole run, and the resumed runs of two ranks."""
    directory = tmp_path_factory.mktemp("writers")
    results: dict[str, Any] = {}
    for num_ranks in (1, 3, 2):
        runs = {
            name: {**SAVES, **options} for name, (ranks, options) in WRITERS.items() if ranks == num_ranks
        }
        # The last ones read what all have written, in the same processes.
        results |= launch(num_ranks, directory, runs | (readers(2, directory) if num_ranks == 2 else {}))
    return directory, results


@pytest.mark.parametrize("num_ranks", READERS)
def test_losses_go_on_under_another_backend_and_world_size(
    written: tuple[Path, dict[str, Any]], tmp_path: Path, num_ranks: int
) -> None:
    directory, whole = written
    runs = readers(num_ranks, directory)
    results = whole if num_ranks == 2 else launch(num_ranks, tmp_path, runs)
    for name in runs:
        found, backend = results[name], name.partition(f"{num_ranks}-from-")[0]
        assert (found["dtensors"] > 0) == (backend == "fsdp"), name
        assert f"zero{found.get('stage')}" == backend or not backend.startswith("zero"), name
        expected = whole[name.rpartition("-")[2]]["rows"]
        assert [row[0] for row in found["rows"]] == [1, 2, 3, 4, 5, 6], name
        for mine, other in zip(found["rows"], expected, strict=True):
            assert mine == pytest.approx(other, abs=TOLERANCE), name


@pytest.mark.parametrize("writer", WRITERS)
def test_every_checkpoint_loads_with_from_pretrained_and_gives_the_same_logits(
    written: tuple[Path, dict[str, Any]], writer: str
) -> None:
    directory, whole = written
    model = AutoModelForCausalLM.from_pretrained(directory / writer / "checkpoint-6")
    expected = AutoModelForCausalLM.from_config(model.config)
    expected.load_state_dict({name: torch.tensor(value) for name, value in whole[writer]["weights"].items()})
    tokens = torch.arange(12).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(model.eval()(tokens).logits, expected.eval()(tokens).logits)


def test_a_sharded_checkpoint_is_committed_and_holds_every_byte_once(
    written: tuple[Path, dict[str, Any]],
) -> None:
    directory, whole = written
    path = directory / "fsdp2" / "checkpoint-6"
    verify_checkpoint(path)
    listed = set(json.loads((path / "manifest.json").read_text())["files"])
    assert listed == {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()} - {
        "manifest.json"
    }
    sizes = {}
    for part in path.glob("model-*.safetensors"):
        with safetensors.safe_open(part, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  it is no dict
                assert name not in sizes, f"{name} is in two files"
                sizes[name] = torch.Size(file.get_slice(name).get_shape()).numel()
    assert len(list(path.glob("model-*.safetensors"))) == 2
    assert sum(sizes.values()) == whole["fsdp2"]["elements"]
    assert not list(path.glob("**/.metadata")), "no pickle"
