"""Where the next micro-batch is held, its targets are counted in the message that ranks send anyway."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.torchrun import torchrun


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    target: Path = tmp_path_factory.mktemp("counted") / "found.json"
    return torchrun("loop/counted_rank.py", [str(target)], target=target, timeout_s=180)


@pytest.mark.distributed
def test_a_step_takes_one_message_less(ranks: Any) -> None:
    for rank in ranks:
        ahead, not_ahead = rank["one"]["messages"], rank["one, not ahead"]["messages"]
        # 19 samples, two on each of two ranks: 5 steps an epoch, of which the first has nothing held before it.
        assert [less - more for less, more in zip(ahead, not_ahead, strict=True)] == [0, -1, -1, -1, -1] * 2


@pytest.mark.distributed
@pytest.mark.parametrize("way", ["one", "two", "uneven"])
def test_losses_and_weights_are_the_same_to_the_last_bit(ranks: Any, way: str) -> None:
    for rank in ranks:
        ahead, not_ahead = rank[way], rank[f"{way}, not ahead"]
        assert len(ahead["losses"]) == len(ahead["messages"])
        assert (ahead["losses"], ahead["weights"]) == (not_ahead["losses"], not_ahead["weights"])


@pytest.mark.distributed
def test_steps_of_several_micro_batches_and_methods_of_a_users_own_count_as_before(ranks: Any) -> None:
    for rank in ranks:
        ahead, not_ahead = rank["two"]["messages"], rank["two, not ahead"]["messages"]
        # Five micro-batches an epoch: the last step has one.
        assert [less - more for less, more in zip(ahead, not_ahead, strict=True)] == [0, 0, -1] * 2
        assert rank["own"]["messages"] == rank["one, not ahead"]["messages"]
        assert rank["own"]["weights"] == rank["one"]["weights"]
