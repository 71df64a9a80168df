"""Changes between two calls travel to workers that stand already, here without Ray."""

from __future__ import annotations

from pathlib import Path

from tests.driver.same_process import SameProcessGroup, same_process
from tests.driver.test_standing_workers import changed_in_all_ways, make_trainer

__all__ = ["same_process"]


def test_every_change_counts_on_the_same_workers_as_in_one_process(
    tmp_path: Path, same_process: list[SameProcessGroup]
) -> None:
    expected = changed_in_all_ways(make_trainer(tmp_path / "alone", 0))
    seen = changed_in_all_ways(make_trainer(tmp_path / "ray", 1))
    assert seen == expected
    assert len(same_process) == 1, "the workers were started once"
