"""Who holds what in a cluster, as Ray's tables have it: nodes, what is free on them, placement groups, actors, jobs.

Ray's state API answers through the dashboard, which a local Ray does not serve. So these are the tables behind it, read
from Ray's control store. A table that this Ray does not have reads as empty: the tables explain a wait, and decide how
large a default share is, but no run needs them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import ray

from raytrainer.driver.capacity import Node

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class GroupRow:
    """A placement group."""

    id: str
    name: str
    job: str
    is_placed: bool
    bundles: list[dict[str, float]]
    nodes: list[str] = field(default_factory=list[str])
    """Ids of the nodes of its bundles, as far as they are placed."""


@dataclass(frozen=True, kw_only=True)
class DrainedNode:
    """A node that gets no new work, because it is about to go."""

    id: str
    address: str
    goes_at_s: float
    """When [s since the epoch]; 0.0 where nobody has said when."""


@dataclass(frozen=True, kw_only=True)
class ActorRow:
    """An actor that lives."""

    class_name: str
    name: str
    job: str
    pid: int
    resources: dict[str, float]
    """What it reserves, outside of placement groups."""


@dataclass(frozen=True, kw_only=True)
class JobRow:
    """A driver, with all that it started."""

    pid: int
    entrypoint: str


@dataclass(frozen=True, kw_only=True)
class Tables:
    """A cluster at one moment."""

    nodes: list[Node] = field(default_factory=list[Node])
    """Those that are alive and not drained, as ``ray.nodes()`` gives them."""
    free: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    """Node -> what is free there."""
    groups: list[GroupRow] = field(default_factory=list[GroupRow])
    actors: list[ActorRow] = field(default_factory=list[ActorRow])
    jobs: dict[str, JobRow] = field(default_factory=dict[str, JobRow])
    is_growing: bool = False
    """Nodes are being started."""
    can_grow: bool = True
    """An autoscaler may start nodes, as far as Ray tells."""

    @property
    def free_nodes(self) -> list[Node]:
        """The nodes with what is free on them in place of what they have."""
        return [{**node, "Resources": self.free.get(node.get("NodeID", ""), {})} for node in self.nodes]


def read_tables() -> Tables:
    """Ray's tables as they are now."""
    return Tables(
        nodes=usable_nodes(),
        free=_read(_free, {}),
        groups=_read(_groups, []),
        actors=_read(_actors, []),
        jobs=_read(_jobs, {}),
        is_growing=is_growing(),
        can_grow=_read(_can_grow, True),
    )


def usable_nodes() -> list[Node]:
    """The nodes that are alive and take new work, as ``ray.nodes()`` gives them."""
    list_nodes: Callable[[], list[Node]] = ray.nodes
    drained = {node.id for node in read_drained()}
    return [node for node in list_nodes() if node.get("Alive", True) and node.get("NodeID") not in drained]


def read_drained() -> list[DrainedNode]:
    """Nodes that are alive and about to go."""
    return _read(_drained, [])


def is_growing() -> bool:
    """Whether nodes are being started."""
    return _read(_first_autoscaler_is_busy, False) or _read(_second_autoscaler_is_busy, False)


def reserved_by_this_process() -> dict[str, float]:
    """What the actor or task that runs here reserved for itself; nothing in a driver."""
    return _read(_reserved_here, {})


def runs_in_actor_or_task() -> bool:
    """Whether this process is not a driver. What it reserves outlives it, until its driver ends."""
    return _read(_is_worker, False)


def _read(table: Callable[[], T], absent: T) -> T:
    try:
        return table()
    except Exception:  # Private names; see the module's docstring.
        logger.debug("Ray's table %s could not be read.", table.__name__, exc_info=True)
        return absent


def _accessor() -> Any:
    from ray._private import state

    return cast("Any", state).state._connect_and_get_accessor()


def _free() -> dict[str, dict[str, float]]:
    from ray._private import state

    free: Mapping[str, Mapping[str, float]] = cast("Any", state).available_resources_per_node()
    return {node: _plain(there) for node, there in free.items()}


def _drained() -> list[DrainedNode]:
    from ray._private import state

    deadlines_ms: Mapping[str, int] = cast("Any", state).state.get_draining_nodes()
    if not deadlines_ms:
        return []
    list_nodes: Callable[[], list[Node]] = ray.nodes
    address_of = {node.get("NodeID", ""): node.get("NodeManagerAddress", "") for node in list_nodes()}
    return [
        DrainedNode(id=node, address=str(address_of.get(node) or node), goes_at_s=deadline / 1000)
        for node, deadline in deadlines_ms.items()
    ]


def _groups() -> list[GroupRow]:
    from ray.core.generated import gcs_pb2

    messages: Any = gcs_pb2
    rows = [
        messages.PlacementGroupTableData.FromString(row) for row in _accessor().get_placement_group_table()
    ]
    created = messages.PlacementGroupTableData.PlacementGroupState.CREATED
    removed = messages.PlacementGroupTableData.PlacementGroupState.REMOVED
    return [
        GroupRow(
            id=row.placement_group_id.hex(),
            name=row.name,
            job=row.creator_job_id.hex(),
            is_placed=row.state == created,
            bundles=[dict(bundle.unit_resources) for bundle in row.bundles],
            nodes=[bundle.node_id.hex() for bundle in row.bundles if bundle.node_id],
        )
        for row in rows
        if row.state != removed
    ]


def _actors() -> list[ActorRow]:
    from ray.core.generated import gcs_pb2

    messages: Any = gcs_pb2
    rows = [messages.ActorTableData.FromString(row) for row in _accessor().get_actor_table(None, "ALIVE")]
    return [
        ActorRow(
            class_name=row.class_name,
            name=row.name,
            job=row.job_id.hex(),
            pid=row.pid,
            resources={} if row.HasField("placement_group_id") else _plain(row.required_resources),
        )
        for row in rows
    ]


def _jobs() -> dict[str, JobRow]:
    from ray._private import state

    jobs: Iterable[Mapping[str, Any]] = cast("Any", state).jobs()
    return {job["JobID"]: JobRow(pid=job["DriverPid"], entrypoint=job["Entrypoint"]) for job in jobs}


def _first_autoscaler_is_busy() -> bool:
    """Ray has two autoscalers; this one writes a report for ``ray status``."""
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.experimental.internal_kv import _internal_kv_get

    text = cast("bytes | None", _internal_kv_get(DEBUG_AUTOSCALING_STATUS))
    written: dict[str, dict[str, Any]] = json.loads(text) if text else {}
    report = written.get("autoscaler_report", {})
    return bool(report.get("pending_nodes") or report.get("pending_launches"))


def _second_autoscaler_is_busy() -> bool:
    status = _cluster_status()
    return bool(status.pending_nodes or status.pending_launches)


def _can_grow() -> bool:
    """Nodes that no autoscaler knows have a type of their own, which is named after the node."""
    status = _cluster_status()
    nodes: list[Any] = [*status.active_nodes, *status.idle_nodes]
    return any(node.ray_node_type_name not in ("", f"node_{node.node_id}") for node in nodes)


def _cluster_status() -> Any:
    from ray.autoscaler.v2.sdk import get_cluster_status

    context: Any = ray.get_runtime_context()
    return get_cluster_status(context.gcs_address, timeout=2)


def _is_worker() -> bool:
    context: Any = ray.get_runtime_context()
    return context.worker.mode == ray.WORKER_MODE


def _reserved_here() -> dict[str, float]:
    context: Any = ray.get_runtime_context()
    if not _is_worker():
        return {}
    return _plain(cast("Mapping[str, float]", context.get_assigned_resources()))


def _plain(resources: Mapping[str, float]) -> dict[str, float]:
    """Ray also lists the resources by which it finds a bundle of a placement group."""
    return {
        name: float(amount)
        for name, amount in resources.items()
        if amount and "_group_" not in name and not name.startswith("bundle_group")
    }
