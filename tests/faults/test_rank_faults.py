"""A save on two ranks of which one is killed, or loses its storage, at any operation on the disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
WHOLE = os.environ.get("RAYTRAINER_RANK_FAULTS") == "all"
"""All operations take half an hour: make ranks."""
TIMEOUT_S = 5400 if WHOLE else 540
SEED = os.environ.get("RAYTRAINER_SEED", "2026")
pytestmark = [pytest.mark.faults, pytest.mark.timeout(TIMEOUT_S + 60)]

KINDS = ("kill", "ENOSPC", "EROFS")
TRIED: dict[str, dict[str, int]] = (
    {name: dict.fromkeys(KINDS, 0) for name in ("fsdp", "zero3", "ddp")}
    if WHOLE
    else {"fsdp": {"kill": 3, "ENOSPC": 2}, "zero3": {"kill": 3, "EROFS": 2}}
)
"""How many operations of each kind, about half of them on each rank; 0 is all."""
WRAPPERS = {"fsdp": "FSDPLlamaForCausalLM", "zero3": "DeepSpeedEngine", "ddp": "DistributedDataParallel"}


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    directory = tmp_path_factory.mktemp("rank_faults")
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.rank_faults", str(directory), SEED, json.dumps(TRIED)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def seen(lines: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    found = [line for line in lines if "point" in line and line["point"]["kind"] in kinds]
    expected = {
        (name, rank) for name, counts in TRIED.items() if counts.keys() & set(kinds) for rank in (0, 1)
    }
    assert {(line["backend"], line["point"]["rank"]) for line in found} == expected
    return found


def mistakes(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in found if line["mistakes"]]


def test_both_ranks_write_shards(lines: list[dict[str, Any]]) -> None:
    engaged = {line["backend"]: line for line in lines if "wrapper" in line}
    assert {name: line["wrapper"] for name, line in engaged.items()} == {
        name: WRAPPERS[name] for name in TRIED
    }
    for name in ("fsdp", "zero3"):
        for rank in (0, 1):
            operations = engaged[name]["operations"][rank]
            assert f"write model-0000{rank + 1}-of-00002.safetensors" in operations
            assert f"write shard-0000{rank + 1}.safetensors" in operations
            assert f"write rng_state_{rank}.pth" in operations


def test_after_a_rank_is_killed_in_a_save_the_newest_checkpoint_is_whole_and_the_run_goes_on_bit_by_bit(
    lines: list[dict[str, Any]],
) -> None:
    assert not mistakes(seen(lines, "kill"))


def test_a_disk_that_is_full_or_read_only_on_one_rank_ends_the_save_on_all_and_keeps_the_earlier_checkpoints(
    lines: list[dict[str, Any]],
) -> None:
    assert not mistakes(seen(lines, "ENOSPC", "EROFS"))
