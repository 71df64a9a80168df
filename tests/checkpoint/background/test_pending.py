"""On several ranks, each of which writes its share, a save beside training is the synchronous one, or fails on all."""

from __future__ import annotations

import json

import pytest

from raytrainer.checkpoint.names import INCOMPLETE_NAME, list_checkpoints, list_leftovers, step_of
from raytrainer.checkpoint.verify import verify_checkpoint
from tests.loop.saves import content
from tests.torchrun import torchrun

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(300)]

BACKENDS = {
    "ddp": {},
    "fsdp": {"fsdp": True},
    "zero2": {"deepspeed": {"zero_optimization": {"stage": 2}}},
    "zero3": {"deepspeed": {"zero_optimization": {"stage": 3}}},
}
WRAPPERS = {
    "ddp": "DistributedDataParallel",
    "fsdp": "FSDPLlamaForCausalLM",
    "zero2": "DeepSpeedEngine",
    "zero3": "DeepSpeedEngine",
}
RUNS = {
    f"{name}{'_beside' if beside else ''}": {**options, "async_save": beside}
    for name, options in BACKENDS.items()
    for beside in (False, True)
} | {
    "full_on_rank_1": {"async_save": True},
    "late_on_rank_1": {"fsdp": True, "async_save": True, "max_steps": 8, "save_steps": 4},
    "late_on_rank_1_bucket": {"fsdp": True, "async_save": True, "max_steps": 8, "save_steps": 4},
    "removed": {"fsdp": True, "async_save": True},
    "removed_in_part": {"fsdp": True, "async_save": True},
    "merged": {"async_save": True, "async_save_overlap": "merge"},
    "asked_on_rank_1": {
        "async_save": True,
        "async_save_overlap": "merge",
        "eval_strategy": "steps",
        "eval_steps": 2,
    },
    "ddp_bucket": {"async_save": True},
    "fsdp_bucket": {"fsdp": True, "async_save": True},
    "denied_on_rank_1_bucket": {"async_save": True},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The results of all runs, and where they are."""
    root = tmp_path_factory.mktemp("ranks")
    target = root / "results.json"
    found = torchrun("loop/saves_rank.py", [str(target), json.dumps(RUNS)], target=target, timeout_s=280)
    return found, root


@pytest.mark.parametrize("name", BACKENDS)
def test_the_shards_of_all_ranks_are_bitwise_those_of_a_synchronous_save(name, runs):
    found, root = runs
    sync, beside = found[name], found[f"{name}_beside"]
    assert sync["wrapper"] == beside["wrapper"] == WRAPPERS[name]
    assert beside["steps_before_first"] >= 5, "no step ran while the save was pending"
    assert sync["saves"] == beside["saves"] == [3, 6, 9]
    assert sync["rows"] == beside["rows"]
    for step in (3, 6, 9):
        expected = content(root / name / f"checkpoint-{step}")
        written = content(root / f"{name}_beside" / f"checkpoint-{step}")
        assert written.keys() == expected.keys()
        assert {"rng_state_0.pth", "rng_state_1.pth"} < written.keys()
        for file, value in expected.items():
            assert written[file] == value, file
    assert list_leftovers(root / f"{name}_beside") == []


@pytest.mark.parametrize("name", ["late_on_rank_1", "late_on_rank_1_bucket"])
def test_a_rank_hashes_what_its_own_process_writes_however_late_that_is(name, runs):
    found, root = runs
    assert found[name]["steps_before_first"] >= 7, "rank 0 did not write before rank 1"
    for step in (4, 8):
        manifest = verify_checkpoint(root / name / f"checkpoint-{step}")
        assert {
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        } < manifest.files.keys()


@pytest.mark.parametrize("name", ["removed", "removed_in_part"])
def test_all_ranks_make_a_save_again_whose_files_were_removed(name, runs):
    found, root = runs
    assert found[name]["saves"][0] in (5, 6)
    assert found[name]["saves"][-1] == 9
    assert found[name]["rows"] == found["fsdp"]["rows"]
    steps = [step_of(path) for path in list_checkpoints(root / name)]
    assert steps == found[name]["saves"]
    for step in steps:
        verify_checkpoint(root / name / f"checkpoint-{step}")
    assert list_leftovers(root / name) == []


def test_all_ranks_put_off_the_same_save_and_make_it_at_the_same_later_step(runs):
    found, root = runs
    merged = found["merged"]
    assert merged["wrapper"] == "DistributedDataParallel"
    assert merged["steps_before_first"] >= 7, "training waited at the save of step 6"
    assert merged["saves"] in ([3, 7, 9], [3, 8, 9], [3, 9])
    assert merged["rows"] == found["ddp"]["rows"]
    for step in merged["saves"]:
        assert {"rng_state_0.pth", "rng_state_1.pth"} < content(root / f"merged/checkpoint-{step}").keys()
    assert list_leftovers(root / "merged") == []


def test_what_one_rank_asks_for_in_an_evaluation_all_ranks_do(runs):
    found, root = runs
    asked = found["asked_on_rank_1"]
    assert asked["steps_before_first"] == 6, "the save of step 6 was not due amid that of step 2"
    assert asked["saves"] == [2, 6]
    assert list_leftovers(root / "asked_on_rank_1") == []


def test_storage_that_fails_on_one_rank_fails_the_save_on_all(runs):
    found, root = runs
    directory = root / "full_on_rank_1"
    assert found["full_on_rank_1"]["error"].startswith(
        f"{directory / 'checkpoint-3'} was not saved, because rank 1 failed: "
    )
    assert "No space left on device" in found["full_on_rank_1"]["error"]
    assert [step_of(path) for path in list_checkpoints(directory)] == []
    assert list_leftovers(directory) == []


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_in_a_bucket_each_process_uploads_what_its_rank_would_have_written(name, runs):
    found, root = runs
    sync, beside = found[name], found[f"{name}_bucket"]
    assert beside["wrapper"] == WRAPPERS[name]
    assert beside["uploads"] == [], "a rank uploaded itself"
    assert beside["steps_before_first"] >= 5, "no step ran while the save was pending"
    assert sync["saves"] == beside["saves"] == [3, 6, 9]
    assert sync["rows"] == beside["rows"]
    for step in (3, 6, 9):
        expected = content(root / name / f"checkpoint-{step}")
        written = content(root / f"{name}_bucket" / f"checkpoint-{step}")
        assert written.keys() == expected.keys()
        for file, value in expected.items():
            assert written[file] == value, file
        assert not (root / f"{name}_bucket" / f"checkpoint-{step}" / INCOMPLETE_NAME).exists()


def test_a_store_that_fails_on_one_rank_fails_the_save_on_all_and_nothing_is_left(runs):
    found, root = runs
    error = found["denied_on_rank_1_bucket"]["error"]
    location = f"local://{root}/denied_on_rank_1_bucket/checkpoint-3"
    assert error.startswith(
        f"{location} was not saved, because rank 1 failed: {location} could not be uploaded"
    )
    assert "Access Denied" in error
    assert not [path for path in (root / "denied_on_rank_1_bucket/checkpoint-3").rglob("*") if path.is_file()]
