"""Which nodes of a cluster keep a process that restarted workers are forked from, and which restarts use it.

On a Ray of this process' own machine all workers are forked (``driver/fork_server.py``). In a cluster a worker's Python
and environment are made by others, node by node, so the first workers are started by Ray. When they train, each of
their nodes gets an actor with the same runtime environment, which reserves nothing and keeps a fork server beside
training: it imports at the lowest priority, and not where memory is short. Workers that are started again are forked
from it, if every node of their room has one with the same Python. If one of them has died meanwhile, its workers are
started as ever.

The actors are Ray Train's controller's, and end with it. A node that the workers have left loses its own, because for
an autoscaler a node on which an actor lives is not idle.

The controller imports this module, which must stay free of torch.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
from ray._private.utils import estimate_available_memory
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raytrainer.driver.fork_server import ForkServer
from raytrainer.runtimes import ray_calls
from raytrainer.runtimes.ray_calls import Ref
from raytrainer.worker.session_directory import directory_of_session

logger = logging.getLogger(__name__)

ROOM_BYTES = 2 << 30
"""Memory that must be free on a node. A fork server takes 0.3 to 0.5 GB, which its workers share."""
ANSWER_S = 0.5
"""How long a restart waits for all of the actors."""
NICENESS = 19
"""Of the thread that imports, beside training."""
RAYLET = "RAY_RAYLET_PID"
"""Variable that Ray's processes of one node share, and those of two nodes on one machine do not."""


class KeepsForkServer:
    """An actor that keeps the fork server of its node.

    Args:
        name: Of the server, the same on all nodes.
        modules: What it imports.
        devices: Variables of a worker on this node that name its devices.
        has_begun: The workers train. Ray starts the actor when it is there.
    """

    def __init__(
        self, name: str, modules: Sequence[str], devices: Mapping[str, str], has_begun: bool
    ) -> None:
        del has_begun
        self._server: ForkServer | None = None
        if estimate_available_memory() < ROOM_BYTES:
            return
        # In Ray's session, because a server that is killed leaves it.
        prefix = os.path.join(directory_of_session(), f"fork-{name}-")
        # Ray has a shell start workers, in which the variable has the number of that node.
        self._anywhere = f"{prefix}${RAYLET}"
        directory = Path(prefix + os.environ[RAYLET])
        # Whoever else had made it could pass itself off as the server.
        directory.mkdir(mode=0o700)
        environment = {key: value for key, value in os.environ.items() if not names_devices(key)}
        self._server = ForkServer(
            modules, directory=directory, environment={**environment, **devices}, niceness=NICENESS
        )
        threading.Thread(target=_tidy_up_after, args=(self._server,), daemon=True).start()

    def python(self) -> str | None:
        """What Ray starts on this node in place of Python; None if there is no server."""
        if self._server is None or not self._server.is_alive:
            return None
        return self._server.py_executable.replace(str(self._server.directory), self._anywhere)


def _tidy_up_after(server: ForkServer) -> None:
    """Remove what a server leaves that ends before its actor does, because it must not be forked."""
    server.wait()
    server.end()


def names_devices(name: str) -> bool:
    """Whether an environment variable says which accelerators a process sees."""
    return "VISIBLE_" in name


def devices_here() -> dict[str, str]:
    """On a worker: the variables that name its node's devices."""
    return {name: value for name, value in os.environ.items() if names_devices(name)}


@dataclass(frozen=True)
class _Server:
    actor: Any
    began: Ref[str | None]
    """Its first answer."""


class ForksOnNodes:
    """The fork servers of one worker group, in the controller's process.

    Args:
        modules: What each of them imports.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self._modules = list(modules)
        self._name = uuid.uuid4().hex[:12]  # short: a socket's path has 107 characters at most
        self._servers: dict[str, _Server] = {}

    def follow(self, workers: Iterable[Any], runtime_env: Mapping[str, Any], has_begun: object) -> None:
        """Workers have been started: give each of their nodes a server, and take it from all others.

        Args:
            workers: Ray Train's records of them.
            runtime_env: Theirs.
            has_begun: Reference to what is there when they train.
        """
        nodes = {worker.metadata.node_id: worker for worker in workers}
        for node in self._servers.keys() - nodes.keys():
            ray_calls.kill(self._servers.pop(node).actor)
        environment = {name: value for name, value in runtime_env.items() if name != "py_executable"}
        for node, worker in nodes.items():
            if node not in self._servers:
                self._servers[node] = self._start(node, worker, environment, has_begun)

    def _start(self, node: str, worker: Any, environment: dict[str, Any], has_begun: object) -> _Server:
        here: Any = NodeAffinitySchedulingStrategy(node, soft=False)
        actor_class: Any = ray.remote(KeepsForkServer)
        actor = actor_class.options(num_cpus=0, scheduling_strategy=here, runtime_env=environment).remote(
            self._name, self._modules, worker.execute_async(devices_here), has_begun
        )
        return _Server(actor, actor.python.remote())

    def python_on(self, nodes: Iterable[str]) -> str | None:
        """What Ray starts in place of Python for workers on these nodes; None if some of them must be started by Ray.

        Forgets servers that have ended, so that ``follow`` starts others.

        Args:
            nodes: Ids of the nodes of the room.
        """
        asked = {node: self._ask(node) for node in set(nodes)}
        if not asked or None in asked.values():
            return None
        until_s = time.monotonic() + ANSWER_S
        found = {self._answer(node, call, until_s) for node, call in asked.items() if call is not None}
        return found.pop() if len(found) == 1 else None

    def _ask(self, node: str) -> Ref[str | None] | None:
        server = self._servers.get(node)
        if server is None or not ray_calls.is_ready(server.began):
            return None
        call: Ref[str | None] = server.actor.python.remote()
        return call

    def _answer(self, node: str, call: Ref[str | None], until_s: float) -> str | None:
        try:
            python = ray_calls.get(call, max(0.0, until_s - time.monotonic()))
        except ray.exceptions.GetTimeoutError:
            return None
        except ray.exceptions.RayError:
            logger.debug("The fork server of a node has ended.", exc_info=True)
            python = None
        if python is None:
            ray_calls.kill(self._servers.pop(node).actor)
        return python
