"""Backend x optimizer: each combination trains as one worker does, or is refused with a reason."""

from __future__ import annotations

from typing import Any

import pytest

from raytrainer.errors import ConfigurationError
from raytrainer.optim import catalogue
from raytrainer.optim.traits import Entry
from tests.optim.test_catalogue import ON_CPU, needs, options_of
from tests.sharding.launch import launch
from tests.sharding.test_reshard import BACKENDS

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(600)]
NAMES = {"ddp": "ddp", "fsdp": "fsdp2", "zero1": "zero1", "zero2": "zero2", "zero3": "zero3"}
OPTIONS: dict[str, dict[str, Any]] = {
    "ddp": {},
    "fsdp": BACKENDS["fsdp"],
    "zero1": {"deepspeed": {"zero_optimization": {"stage": 1}}},
    "zero2": {"deepspeed": {"zero_optimization": {"stage": 2}}},
    "zero3": {"deepspeed": {"zero_optimization": {"stage": 3}}},
}
TOLERANCE = 1e-5
TOLERANCES = {"muon": 1e-4}  # torch orthogonalizes in bf16
QUANTIZED_TOLERANCE = 0.02
"""Of losses near 4.6: gradients that differ in the last bit may fall into another of few values."""


def options(entry: Entry, backend: str, *, is_shared: bool = True) -> dict[str, Any]:
    options = {**options_of(entry), **OPTIONS[backend], "max_steps": 3, "eval_strategy": "no"}
    options |= {"save_strategy": "steps", "save_steps": 2} if is_shared else {}
    if entry.traits.updates_in_backward:
        options |= {"gradient_accumulation_steps": 1, "per_device_train_batch_size": 6 if is_shared else 12}
    return options


def said(entry: Entry, backend: str) -> dict[str, bool]:
    """Words that the optimizer, as it was built, has for itself, and whether it should have them here."""
    in_backward = entry.traits.updates_in_backward
    is_low_rank = entry.traits.can_reduce and not in_backward
    return {
        "in the backward pass": in_backward,
        "GaLore(": is_low_rank,
        "at rank 8, each on its owner": is_low_rank and backend == "fsdp",
        "this rank owns": entry.traits.steps_whole and not in_backward and backend == "fsdp",
        "Muon for": entry.name == "muon",
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    pytest.importorskip("bitsandbytes")
    directory = tmp_path_factory.mktemp("optimizers")
    cells: dict[str, Any] = {}
    for backend in OPTIONS:
        for entry in ON_CPU:
            if NAMES[backend] in entry.traits.backends:
                name, cell = f"{backend}-{entry.name}", options(entry, backend)
                cells[name] = cell
                cells[f"{name}-resumed"] = {**cell, "save_strategy": "no"} | {
                    "resume": str(directory / name / "checkpoint-2")
                }
    alone = {f"one-{entry.name}": options(entry, "ddp", is_shared=False) for entry in ON_CPU}
    return {**launch(2, directory, cells, timeout_s=500), **launch(1, directory, alone)}


@pytest.mark.parametrize("backend", OPTIONS)
@pytest.mark.parametrize("entry", ON_CPU, ids=lambda entry: entry.name)
def test_a_cell_trains_as_one_worker_or_is_refused(
    results: dict[str, Any], entry: Entry, backend: str
) -> None:
    needs(entry)
    if NAMES[backend] not in entry.traits.backends:
        with pytest.raises(ConfigurationError, match="does not train under"):
            catalogue.check_backend(entry, NAMES[backend])
        return
    found, expected = results[f"{backend}-{entry.name}"], results[f"one-{entry.name}"]
    assert found["is_ddp"] == (backend == "ddp" and not entry.traits.updates_in_backward)
    assert found["ranks_are_equal"]
    assert all((word in found["optimizer"]) == is_said for word, is_said in said(entry, backend).items())
    assert (found["dtensors"] > 0) == (backend == "fsdp")
    if entry.traits.updates_in_backward:
        assert (found["cut_by_zero"] > 0) == (backend == "zero3")
    else:
        assert found.get("stage") == {"zero1": 1, "zero2": 2, "zero3": 3}.get(backend)
    tolerance = QUANTIZED_TOLERANCE if "bit" in entry.state else TOLERANCES.get(entry.name, TOLERANCE)
    assert len(found["rows"]) == 3
    for mine, other in zip(found["rows"], expected["rows"], strict=True):
        assert mine[1] == pytest.approx(other[1], abs=tolerance)
    resumed = results[f"{backend}-{entry.name}-resumed"]
    assert resumed["rows"] == found["rows"], "it goes on from the second step as if nothing had happened"
    assert resumed["weights"] == found["weights"]
