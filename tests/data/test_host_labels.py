"""What is known of labels after they were copied to a device, without asking it."""

from __future__ import annotations

import gc

import pytest
import torch

import raytrainer
from raytrainer.data.host_labels import holds_target, note_targets
from raytrainer.data.loader import RankDataLoader, build_loader, to_device

ELSEWHERE = torch.device("meta")
"""A device whose values nobody can read."""

EMPTY, FIRST_ONLY, SOME = [-100] * 4, [1, -100, -100, -100], [-100, 2, -100, -100]


def copied(labels: torch.Tensor) -> torch.Tensor:
    batch = {"input_ids": torch.arange(4), "labels": labels}
    on_device = to_device(batch, ELSEWHERE)
    note_targets(batch, on_device)
    return on_device["labels"]


@pytest.mark.parametrize(
    ("row", "plain", "shifted"), [(EMPTY, False, False), (FIRST_ONLY, True, False), (SOME, True, True)]
)
def test_a_copy_is_known_by_what_was_copied(row: list[int], plain: bool, shifted: bool) -> None:
    labels = torch.tensor([row, EMPTY])
    for one in (labels, copied(labels)):
        assert holds_target(one, shifted=False) == plain
        assert holds_target(one, shifted=True) == shifted


def test_of_another_tensor_on_a_device_nothing_is_known() -> None:
    known = copied(torch.tensor([EMPTY]))
    assert not holds_target(known, shifted=False)
    assert holds_target(known.clone(), shifted=False)


def test_real_numbers_are_targets() -> None:
    assert holds_target(copied(torch.tensor([-100.0])), shifted=False)


def test_a_copy_that_is_gone_is_forgotten() -> None:
    from raytrainer.data import host_labels

    gc.collect()
    before = len(host_labels._KNOWN)
    known = copied(torch.tensor([EMPTY]))
    assert len(host_labels._KNOWN) == before + 1
    del known
    assert len(host_labels._KNOWN) == before


def test_a_loader_looks_at_what_it_copies() -> None:
    rows = [{"labels": torch.tensor(row)} for row in (EMPTY, SOME)]
    loader = build_loader(
        rows,  # type: ignore[arg-type]
        args=raytrainer.TrainingArguments(use_cpu=True, report_to="none"),
        collate=torch.utils.data.default_collate,
        batch_size=1,
        sampler=None,
        training=False,
    )
    assert isinstance(loader, RankDataLoader)
    loader._device = ELSEWHERE
    assert [holds_target(batch["labels"], shifted=True) for batch in loader] == [False, True]
