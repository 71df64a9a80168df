"""Who holds the resources that a group of workers waits for, in words: one line for each trainer, group and actor.

Trainers are known by the name of their placement group, in which they say who they are. What Ray's tables do not list,
such as running tasks, is the rest.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from raytrainer.driver.capacity import listed
from raytrainer.driver.ray_tables import ActorRow, GroupRow, Tables

_MARK = "raytrainer-"
_NAME = re.compile(rf"({_MARK}[0-9a-f]+): (.*) \(pid (\d+) on (\S+)\)")
_HOSTS = {
    "default_worker.py": "a trainer in an actor or task",
    "ipykernel_launcher.py": "a notebook",
    "": "an interactive Python",
    "-c": "an interactive Python",
}
"""Name of the program -> what people call it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerName:
    """What the name of a placement group says about the trainer whose workers run there."""

    control: str
    """Name of its control actor."""
    program: str
    pid: int
    host: str

    @property
    def controller(self) -> str:
        """Name of Ray Train's controller, where that has one."""
        return f"{self.control}-controller"

    @property
    def is_here(self) -> bool:
        """It is a trainer of this process."""
        return self.pid == os.getpid() and self.host == socket.gethostname()

    @property
    def for_more_workers(self) -> TrainerName:
        """The name of a second placement group of the trainer: Ray refuses two of the same name."""
        return replace(self, program=f"{self.program}, for more workers")

    def __str__(self) -> str:
        return f"{self.control}: {self.program} (pid {self.pid} on {self.host})"


def new_name() -> TrainerName:
    """A name for a group of workers of this process."""
    program = os.path.basename(sys.argv[0] if sys.argv else "")
    return TrainerName(
        control=f"{_MARK}{uuid.uuid4().hex[:8]}",
        program=_HOSTS.get(program, program),
        pid=os.getpid(),
        host=socket.gethostname(),
    )


def read_name(name: str) -> TrainerName | None:
    """The trainer that a placement group is of, by its name; None if it is not of a trainer."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    control, program, pid, host = found.groups()
    return TrainerName(control=control, program=program, pid=int(pid), host=host)


def holders(tables: Tables, *, waiting: str, idle_s: Callable[[str], float | None]) -> list[str]:
    """Who holds what, one line each, the largest first.

    Args:
        tables: The cluster.
        waiting: Id of the placement group that is waited for.
        idle_s: Seconds for which the workers of the trainer with this control actor have had no task; None if they
            have one, or if it cannot be told.
    """
    lines = [
        (_weight(_sum(group.bundles)), _group_line(group, tables, idle_s))
        for group in tables.groups
        if group.is_placed and group.id != waiting
    ]
    lines += [
        (_weight(actor.resources), _actor_line(actor, tables))
        for actor in tables.actors
        if _weight(actor.resources)
    ]
    rest = unlisted(tables)
    if rest:
        lines.append((_weight(rest), f"running tasks, or what Ray's tables do not list: {listed(rest)}"))
    return [line for _, line in sorted(lines, key=lambda one: -one[0])]


def unlisted(tables: Tables) -> dict[str, float]:
    """CPUs and GPUs that are taken, and of which no table says by whom."""
    has = _sum([node.get("Resources") or {} for node in tables.nodes])
    known = [
        *(tables.free.get(node.get("NodeID", ""), {}) for node in tables.nodes),
        *(bundle for group in tables.groups if group.is_placed for bundle in group.bundles),
        *(actor.resources for actor in tables.actors),
    ]
    rest = {name: has.get(name, 0.0) - _sum(known).get(name, 0.0) for name in ("CPU", "GPU")}
    return {name: amount for name, amount in rest.items() if amount >= 0.01}


def _group_line(group: GroupRow, tables: Tables, idle_s: Callable[[str], float | None]) -> str:
    each = Counter(listed(bundle) for bundle in group.bundles)
    has = " and ".join(f"{number} x {what}" if number > 1 else what for what, number in each.items())
    trainer = read_name(group.name)
    if trainer is None:
        return f"placement group {group.name or group.id[:12]!r} of {_job(group.job, tables)}: {has}"
    who = f"{trainer.program} (pid {trainer.pid} on {trainer.host})"
    if trainer.is_here:
        who = "another trainer of this process"
    idle = idle_s(trainer.control)
    return f"{who}: {has}, {'busy' if idle is None else f'idle for {idle:.0f} s'}"


def _actor_line(actor: ActorRow, tables: Tables) -> str:
    if actor.pid == os.getpid():
        return f"the actor in which this trainer runs ({actor.class_name}): {listed(actor.resources)}"
    named = f" {actor.name!r}" if actor.name else ""
    of = _job(actor.job, tables)
    return f"actor {actor.class_name}{named} (pid {actor.pid}) of {of}: {listed(actor.resources)}"


def _job(job: str, tables: Tables) -> str:
    row = tables.jobs.get(job)
    if row is None:
        return f"job {job}"
    return f"{row.entrypoint or 'a driver'} (pid {row.pid})"


def _sum(resources: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = {name for one in resources for name in one}
    return {name: sum(one.get(name, 0.0) for one in resources) for name in names}


def _weight(resources: Mapping[str, float]) -> float:
    """GPUs before CPUs; 0 for what only traces of other resources are taken of."""
    return 1000 * resources.get("GPU", 0.0) + resources.get("CPU", 0.0)
