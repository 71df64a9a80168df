"""Two ranks log what one process with a batch twice as large logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sft.runs import fine_tune, logged
from tests.torchrun import torchrun


@pytest.mark.distributed
def test_two_ranks_train_and_count_like_one_with_twice_the_batch(tmp_path: Path) -> None:
    ranks = torchrun(
        "sft/rank_script.py", [str(tmp_path / "ranks.json")], target=tmp_path / "ranks.json", timeout_s=280
    )
    assert ranks["group_size"] == 2
    alone = logged(fine_tune(tmp_path / "alone", per_device_train_batch_size=4))
    assert len(ranks["rows"]) == len(alone) == 3
    for mine, other in zip(ranks["rows"], alone, strict=True):
        assert mine == pytest.approx(other, abs=1e-5)
