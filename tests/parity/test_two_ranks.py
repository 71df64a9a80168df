"""Two gloo ranks under torchrun, uneven lengths and accumulation: the same numbers as ``transformers.Trainer``."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.parity.twins import LIBRARIES, TOLERANCE, make_model
from tests.torchrun import torchrun

RUNS: dict[str, dict[str, Any]] = {
    # 50 samples on two ranks make 7 rounds of 8: the last is padded, and the last accumulation window of 3 is partial.
    "accumulation": {"num_train_epochs": 2, "gradient_accumulation_steps": 3},
    "smoothing": {"max_steps": 5, "label_smoothing_factor": 0.1, "gradient_accumulation_steps": 2},
    "mean_of_ranks": {"max_steps": 5, "average_tokens_across_devices": False},
}
STEPS = {"accumulation": 6, "smoothing": 5, "mean_of_ranks": 5}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Library -> run -> results of its ranks."""
    directory = tmp_path_factory.mktemp("parity")
    found = {}
    for library in LIBRARIES:
        target = directory / f"{library}.json"
        arguments = [library, str(target), json.dumps(RUNS)]
        found[library] = torchrun("parity/rank.py", arguments, target=target)
    return found


@pytest.mark.distributed
@pytest.mark.parametrize("run", RUNS)
def test_two_ranks_train_like_transformers(results: dict[str, dict[str, Any]], run: str) -> None:
    ours, theirs = results["ours"][run], results["theirs"][run]
    for one in (ours, theirs):
        assert one["is_ddp"], one["wrappers"]
        assert one["wrappers"] == ["DistributedDataParallel"]
        assert one["group_size"] == one["world_size"] == 2
        assert len(set(one["digests"])) == 1, "the ranks' weights went apart"
    assert len(ours["rows"]) == len(theirs["rows"]) == STEPS[run]
    for mine, other in zip(ours["rows"], theirs["rows"], strict=True):
        assert mine == pytest.approx(other, abs=TOLERANCE)
    start = make_model().state_dict()
    assert ours["weights"].keys() == theirs["weights"].keys() == start.keys()
    for name, value in theirs["weights"].items():
        assert np.allclose(ours["weights"][name], value, rtol=0, atol=TOLERANCE), name
        assert not np.allclose(start[name].numpy(), value, rtol=0, atol=TOLERANCE), f"{name} was not trained"
