"""Which rows of a parameter each rank holds, and which rank owns a parameter; one process plays every rank."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from raytrainer.layout import rows
from raytrainer.layout.rows import RowShards, assign_owners, is_row_sharded, local_rows, local_tensor


class Placement:
    def __init__(self, *, shards: bool):
        self.shards = shards

    def is_shard(self) -> bool:
        return self.shards


def sharded(shape: tuple[int, ...], *, size: int, rank: int, replicas: int = 1, replica: int = 0):
    """What ``RowShards`` asks a DTensor, as one rank of a mesh ``[replicas, size]`` sees it."""
    sizes, coordinate = (replicas, size), (replica, rank)
    mesh = SimpleNamespace(
        get_coordinate=lambda: list(coordinate),
        get_group=lambda dimension: f"group of dimension {dimension}",
        size=lambda dimension: sizes[dimension],
        get_local_rank=lambda dimension: coordinate[dimension],
        device_type="cpu",
    )
    return SimpleNamespace(
        device_mesh=mesh,
        placements=(Placement(shards=False), Placement(shards=True)),
        shape=torch.Size(shape),
        numel=lambda: torch.Size(shape).numel(),
    )


@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 5, 7, 8, 9])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_ranks_hold_the_rows_that_torch_chunk_gives_them(num_rows, size):
    chunks = list(torch.arange(num_rows).chunk(size))
    for rank in range(size):
        expected = chunks[rank].tolist() if rank < len(chunks) else []
        held = RowShards(sharded((num_rows, 2), size=size, rank=rank)).rows
        assert list(range(num_rows))[held] == expected


def test_a_rank_beyond_the_last_row_holds_an_empty_slice_at_the_end():
    assert RowShards(sharded((3, 2), size=4, rank=3)).rows == slice(3, 3)


def test_only_the_first_replica_counts_the_rows():
    found = [RowShards(sharded((4, 2), size=2, rank=1, replicas=2, replica=n)) for n in (0, 1)]
    assert [one.is_replica for one in found] == [False, True]
    assert found[0].rows == found[1].rows == slice(2, 4)


def test_local_rows_are_padded_to_the_length_of_a_chunk():
    shards = RowShards(sharded((5, 2), size=2, rank=1))
    padded = shards._padded(torch.ones(2, 2))
    assert padded.tolist() == [[1, 1], [1, 1], [0, 0]]


def test_a_full_tensor_is_not_sharded_and_is_its_own_local_part():
    tensor = torch.ones(3, 2)
    assert not is_row_sharded(tensor)
    assert local_rows(tensor) is None
    assert local_tensor(tensor) is tensor
    assert assign_owners([tensor]) == {}


def test_large_parameters_get_the_least_loaded_rank_first(monkeypatch):
    monkeypatch.setattr(rows, "is_row_sharded", lambda parameter: True)
    monkeypatch.setattr(rows, "RowShards", lambda parameter: SimpleNamespace(size=2))
    small, large, middle, other = (torch.empty(n) for n in (3, 10, 6, 3))
    owners = assign_owners([small, large, middle, other])
    assert owners[large] == 0
    assert owners[middle] == 1
    assert owners[small] == 1
    assert owners[other] == 1


def test_equal_parameters_keep_the_order_of_the_model(monkeypatch):
    monkeypatch.setattr(rows, "is_row_sharded", lambda parameter: True)
    monkeypatch.setattr(rows, "RowShards", lambda parameter: SimpleNamespace(size=3))
    equal = [torch.empty(4) for _ in range(5)]
    owners = assign_owners(equal)
    assert [owners[one] for one in equal] == [0, 1, 2, 0, 1]
