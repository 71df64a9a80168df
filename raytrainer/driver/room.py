"""Where the workers of a group run: in a placement group that was reserved before Ray Train starts.

Ray Train would reserve one itself, and try for ever. A group that is reserved on the driver's side is all there or not
at all, so two trainers that start at the same moment never hold a part each; the driver sees what it waits for; and
workers that are started again find their room still theirs.

Ray Train's controller imports this module, which must stay free of torch.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, cast

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group_table,  # pyright: ignore[reportUnknownVariableType]
    remove_placement_group,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """A placement group, and which of its bundles are for workers."""

    group: PlacementGroup
    first: int = 0
    """Index of the bundle of the first worker; the others follow."""
    num_workers: int | None = None
    """How many workers run there; None: as many as Ray Train was told at first."""

    @property
    def id(self) -> str:
        """Ray's id of the placement group."""
        return group_id(self.group)

    def bundle_of(self, worker: int) -> int:
        """Index of the bundle in which a worker runs."""
        return self.first + worker


def group_id(group: PlacementGroup) -> str:
    """Ray's id of a placement group."""
    return cast("Any", group).id.hex()


def nodes_of(room: Room) -> set[str]:
    """Ids of the nodes on which the workers of a room run."""
    table = cast("dict[str, Any]", placement_group_table(room.group))
    nodes: dict[int, str] = table["bundles_to_node_id"]
    last = None if room.num_workers is None else room.first + room.num_workers
    return {
        node for bundle, node in nodes.items() if room.first <= bundle and (last is None or bundle < last)
    }


def remove(group: PlacementGroup) -> None:
    """Remove a placement group, and end what runs there. Does nothing when Ray has ended."""
    if ray.is_initialized():  # or else Ray would be started for it
        with contextlib.suppress(Exception):
            remove_placement_group(group)
