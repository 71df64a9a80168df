"""NEFTune and compiled models on two ranks: each is really on, and gives the numbers of DDP."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sharding.launch import launch

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(300)]
TOLERANCE = 1e-5
NOISE = {"neftune_noise_alpha": 5.0}
RUNS: dict[str, dict[str, Any]] = {
    "ddp": {},
    "noise_ddp": NOISE,
    "noise_full_shard": {**NOISE, "fsdp": True},
    "noise_zero3": {**NOISE, "deepspeed": {"zero_optimization": {"stage": 3}}},
    "compiled_ddp": {"torch_compile_backend": "eager"},
    "compiled_full_shard": {"torch_compile_backend": "eager", "fsdp": True},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    short = {"max_steps": 3, "eval_steps": 3}
    return launch(
        2, tmp_path_factory.mktemp("extras"), {name: {**run, **short} for name, run in RUNS.items()}
    )


def assert_equal_runs(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert len(found["rows"]) == len(expected["rows"]) == 3
    for mine, other in zip(found["rows"], expected["rows"], strict=True):
        assert mine == pytest.approx(other, abs=TOLERANCE)
    assert found["eval"] == pytest.approx(expected["eval"], abs=TOLERANCE)


@pytest.mark.parametrize("name", ["noise_full_shard", "noise_zero3"])
def test_noise_on_embeddings_is_that_of_ddp(results: dict[str, Any], name: str) -> None:
    assert results["noise_ddp"]["is_ddp"]
    assert results[name].get("is_fsdp") or results[name].get("stage") == 3
    assert_equal_runs(results[name], results["noise_ddp"])
    assert results[name]["rows"][0][1] != pytest.approx(results["ddp"]["rows"][0][1], abs=1e-4), "no noise"


@pytest.mark.parametrize("name", ["compiled_ddp", "compiled_full_shard"])
def test_a_compiled_model_gives_the_numbers_of_ddp(results: dict[str, Any], name: str) -> None:
    assert results[name]["is_compiled"]
    assert not results["ddp"]["is_compiled"]
    assert results[name]["is_ddp"] or results[name]["is_fsdp"]
    assert_equal_runs(results[name], results["ddp"])
