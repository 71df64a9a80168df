"""Sharded training gives the numbers of DDP and of one process; each test first asserts that sharding is on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import LlamaForCausalLM

import raytrainer
from tests.parity.twins import make_model, make_trainer, rows
from tests.sharding.launch import launch

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(300)]
TOLERANCE = 1e-5
BF16_TOLERANCE = 0.02  # of losses near 4.6; bf16 has three digits

TWO_RANKS: dict[str, dict[str, Any]] = {
    "ddp": {},
    "full_shard": {"fsdp": True},
    "shard_grad_op": {"fsdp": "shard_grad_op"},
    "by_size": {"fsdp": True, "fsdp_config": {"min_num_params": 5000}},
    "whole_model": {"fsdp": True, "fsdp_config": {"auto_wrap_policy": "NO_WRAP"}},
    "recomputed": {"fsdp": True, "fsdp_config": {"activation_checkpointing": True}},
    "bf16": {"fsdp": True, "bf16": True},
    "drifts": {"drifts": True, "rank_check_steps": 3},
    "drifts_unseen": {"drifts": True, "rank_check_steps": 0},
    "zero1": {"deepspeed": {"zero_optimization": {"stage": 1}}},
    "zero2": {"deepspeed": {"zero_optimization": {"stage": 2}}},
    "zero3": {"deepspeed": {"zero_optimization": {"stage": 3}}},
    "zero3_offloaded": {
        "deepspeed": {
            "zero_optimization": {
                "stage": 3,
                "offload_optimizer": {"device": "cpu", "pin_memory": False},
                "offload_param": {"device": "cpu", "pin_memory": False},
            }
        }
    },
    "zero3_bf16": {"deepspeed": {"zero_optimization": {"stage": 3}}, "bf16": True},
    "classifier_zero3": {"classifies": True, "deepspeed": {"zero_optimization": {"stage": 3}}},
    "classifier_ddp": {"classifies": True},
    "classifier_full_shard": {"classifies": True, "fsdp": True},
    "classifier_bf16": {"classifies": True, "fsdp": True, "bf16": True},
}


WHOLE: dict[str, Any] = {
    "per_device_train_batch_size": 12,
    "max_steps": 6,
    "weight_decay": 0.1,
}
"""In one process, the first four steps of 50 samples are those of two ranks."""


LOADED: dict[str, dict[str, Any]] = {
    "in_shards": {"fsdp": True, "fsdp_config": {"cpu_ram_efficient_loading": True}},
    "in_shards_tied": {"fsdp": True, "fsdp_config": {"cpu_ram_efficient_loading": True}},
    "cut": {"deepspeed": {"zero_optimization": {"stage": 3}}},
}
"""Models that workers load in parts, from a directory of the run's name."""


def model_of(name: str) -> LlamaForCausalLM:
    """The files in the directory of a run."""
    model = make_model(dropout=0.0)
    model.config.tie_word_embeddings = name.endswith("tied")
    model.tie_weights()
    return model


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("sharding")
    two = dict(TWO_RANKS)
    for name, options in LOADED.items():
        model_of(name).save_pretrained(directory / "models" / name)
        two[name] = {**options, "model": str(directory / "models" / name)}
    return {
        # 50 samples: the last accumulation window of an epoch is partial, and padded.
        **launch(
            2, directory, {name: {**run, "num_samples": 50} for name, run in two.items()} | {"even": {}}
        ),
        **launch(
            4,
            directory,
            {
                "hybrid": {
                    "fsdp": "hybrid_shard",
                    "fsdp_config": {"hybrid_shard_size": 2},
                    "per_device_train_batch_size": 3,
                    "gradient_accumulation_steps": 1,
                }
            },
        ),
        **launch(1, directory, {"one": {}, "one_shard": {"fsdp": True}}),
    }


def assert_sharded(run: dict[str, Any], share: int) -> None:
    assert run["is_fsdp"]
    assert run["dtensors"] == run["parameters"] > 0
    for what, copies in (("local", 1), ("local_gradients", 1), ("local_moments", 2)):
        # A tensor of few rows is cut unevenly.
        assert run[what] == pytest.approx(copies * run["elements"] / share, rel=0.02), what


def assert_zero(run: dict[str, Any], stage: int) -> None:
    assert (run["engine"], run["stage"]) == ("DeepSpeedEngine", stage)
    assert run["local_moments"] == pytest.approx(run["elements"], rel=0.02), "half of two moments"
    share = 2 if stage == 3 else 1
    assert run["local"] == pytest.approx(run["elements"] / share, rel=0.02)


def assert_equal_runs(found: dict[str, Any], expected: dict[str, Any], tolerance: float = TOLERANCE) -> None:
    assert len(found["rows"]) == len(expected["rows"]) == 6
    for mine, other in zip(found["rows"], expected["rows"], strict=True):
        assert mine == pytest.approx(other, abs=tolerance)
    assert len(found["eval"]) == 2
    assert found["eval"] == pytest.approx(expected["eval"], abs=tolerance)
    assert found["weights"].keys() == expected["weights"].keys()


def assert_equal_weights(found: dict[str, Any], expected: dict[str, Any]) -> None:
    # Adam divides by the root of the squared gradient: an element whose gradients are nearly zero moves by their
    # rounding, which depends on the CPU's kernels. Seen: one of 27,040 elements off by 1.2e-5, none on another CPU.
    differences = np.concatenate(
        [
            np.abs(np.asarray(found["weights"][name]) - np.asarray(value)).ravel()
            for name, value in expected["weights"].items()
        ]
    )
    assert (differences > TOLERANCE).mean() < 1e-3
    assert differences.max() < 10 * TOLERANCE, "a hundredth of the learning rate"


def test_ddp_is_ddp_and_equals_one_process(results: dict[str, Any]) -> None:
    for name in ("ddp", "even"):
        assert results[name]["is_ddp"]
        assert results[name]["dtensors"] == 0
    assert_equal_runs(results["even"], results["one"])


@pytest.mark.parametrize("name", ["full_shard", "shard_grad_op", "by_size", "whole_model", "recomputed"])
def test_two_shards_give_the_numbers_of_ddp(results: dict[str, Any], name: str) -> None:
    assert_sharded(results[name], share=2)
    assert results[name]["mesh"] == [2]
    assert_equal_runs(results[name], results["ddp"])
    assert_equal_weights(results[name], results["ddp"])


def assert_trains_as_loaded_whole(found: dict[str, Any], name: str, directory: Path) -> None:
    whole = make_trainer(raytrainer, directory, model=model_of(name), **WHOLE)
    whole.train()
    assert len(found["rows"]) == len(rows(whole)) == 6
    for mine, other in zip(found["rows"][:4], rows(whole)[:4], strict=True):
        assert mine[:4] == pytest.approx(other[:4], abs=TOLERANCE)


@pytest.mark.parametrize("name", ["in_shards", "in_shards_tied"])
def test_a_model_loaded_in_shards_trains_as_one_loaded_whole(
    results: dict[str, Any], name: str, tmp_path: Path
) -> None:
    assert_sharded(results[name], share=2)
    assert_trains_as_loaded_whole(results[name], name, tmp_path)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_gives_the_numbers_of_ddp(results: dict[str, Any], stage: int) -> None:
    found = results[f"zero{stage}"]
    assert_zero(found, stage)
    assert_equal_runs(found, results["ddp"])
    assert_equal_weights(found, results["ddp"])


def test_offloaded_zero_gives_the_numbers_of_ddp(results: dict[str, Any]) -> None:
    found = results["zero3_offloaded"]
    assert_zero(found, 3)
    assert found["offloads"] == [True, True]
    assert_equal_runs(found, results["ddp"])


def test_a_classifier_trains_under_zero_3_as_under_ddp(results: dict[str, Any]) -> None:
    assert_zero(results["classifier_zero3"], 3)
    assert_equal_runs(results["classifier_zero3"], results["classifier_ddp"])


def test_bf16_under_zero_computes_in_bf16_and_stays_near(results: dict[str, Any]) -> None:
    found = results["zero3_bf16"]
    assert_zero(found, 3)
    assert found["dtypes"] == ["torch.bfloat16", "torch.float32"], "computed in, stepped in"
    losses, exact = ([row[1] for row in run["rows"]] for run in (found, results["zero3"]))
    assert losses != pytest.approx(exact, abs=1e-6), "bf16 was not on"
    assert losses == pytest.approx(exact, abs=BF16_TOLERANCE)


def test_a_model_that_is_cut_while_it_is_loaded_trains_as_one_loaded_whole(
    results: dict[str, Any], tmp_path: Path
) -> None:
    assert_zero(results["cut"], 3)
    assert results["cut"]["was_cut_when_made"]
    assert_trains_as_loaded_whole(results["cut"], "cut", tmp_path)


def test_ranks_that_drift_apart_are_noticed(results: dict[str, Any]) -> None:
    assert results["drifts"]["step"] == 3, "the next comparison"
    assert "model.layers.1.mlp.up_proj.weight differs" in results["drifts"]["error"]


def test_drift_is_not_looked_for_when_the_comparison_is_off(results: dict[str, Any]) -> None:
    assert len(results["drifts_unseen"]["rows"]) == 6
    assert not results["drifts_unseen"]["ranks_are_equal"]


def test_hybrid_shards_in_groups_and_replicates_between_them(results: dict[str, Any]) -> None:
    assert_sharded(results["hybrid"], share=2)
    assert results["hybrid"]["mesh"] == [2, 2]
    assert_equal_runs(results["hybrid"], results["even"])


def test_one_shard_gives_the_numbers_of_one_process(results: dict[str, Any]) -> None:
    assert_sharded(results["one_shard"], share=1)
    assert_equal_runs(results["one_shard"], results["one"])
    assert_equal_weights(results["one_shard"], results["one"])


def test_a_model_that_hands_the_item_count_on_and_ignores_it_is_scaled_as_under_ddp(
    results: dict[str, Any],
) -> None:
    assert_sharded(results["classifier_full_shard"], share=2)
    assert results["classifier_ddp"]["rows"][0][1] == pytest.approx(1.1, abs=0.2), "near log(3)"
    assert_equal_runs(results["classifier_full_shard"], results["classifier_ddp"])
    # In bf16 FSDP2 looks at every input of every unit, to cast it.
    losses, exact = (
        [row[1] for row in results[name]["rows"]] for name in ("classifier_bf16", "classifier_full_shard")
    )
    assert losses == pytest.approx(exact, abs=BF16_TOLERANCE)


def test_bf16_computes_in_bf16_and_stays_near(results: dict[str, Any]) -> None:
    assert_sharded(results["bf16"], share=2)
    losses, exact = ([row[1] for row in results[name]["rows"]] for name in ("bf16", "full_shard"))
    assert losses != pytest.approx(exact, abs=1e-6), "bf16 was not on"
    assert losses == pytest.approx(exact, abs=BF16_TOLERANCE)
