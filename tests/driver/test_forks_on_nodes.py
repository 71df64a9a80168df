"""Restarted workers of a cluster are forked on their node, by a process that reserves nothing and ends with the run."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raytrainer.driver import forks_on_nodes
from raytrainer.driver.fork_server import ForkServer
from raytrainer.driver.forks_on_nodes import ForksOnNodes, KeepsForkServer
from raytrainer.runtimes import ray_calls

LIMIT_S = 30.0
MODULE = "tabnanny"
"""Stands for what takes long to import."""


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


class Worker:
    """An actor in place of Ray Train's."""

    def execute(self, function: Any) -> Any:
        return function()

    def origin(self) -> tuple[int, int, bool, int, str | None]:
        return os.getpid(), os.getppid(), MODULE in sys.modules, os.nice(0), os.environ.get("OMP_NUM_THREADS")


def start_worker(runtime_env: dict[str, Any]) -> Any:
    kind: Any = ray.remote(Worker)
    here: Any = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return kind.options(num_cpus=1, scheduling_strategy=here, runtime_env=runtime_env).remote()


@pytest.mark.ray
@pytest.mark.timeout(120)
@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_that_is_started_again_is_forked_and_differs_in_nothing(monkeypatch):
    node = ray.get_runtime_context().get_node_id()
    environment = {"env_vars": {"RAYTRAINER_TEST": "1"}}
    first = start_worker(environment)
    record = SimpleNamespace(
        metadata=SimpleNamespace(node_id=node), execute_async=lambda function: first.execute.remote(function)
    )
    forks = ForksOnNodes([MODULE])
    has_begun = ray.put(True)
    try:
        assert forks.python_on({node}) is None, "no server has been asked for"
        forks.follow([record], environment, has_begun)
        wait_until(lambda: forks.python_on({node}) is not None)
        assert forks.python_on({node, "another"}) is None, "each node needs one"
        python = forks.python_on({node})
        _, _, was_imported, niceness, threads = ray.get(first.origin.remote(), timeout=LIMIT_S)
        second = start_worker({**environment, "py_executable": python})
        pid, server, is_imported, *same = ray.get(second.origin.remote(), timeout=LIMIT_S)
        assert (was_imported, is_imported) == (False, True)
        assert "fork_server" in " ".join(psutil.Process(server).cmdline())
        assert same == [niceness, threads]
        directory = Path(psutil.Process(server).cmdline()[3])
        assert directory.stat().st_mode & 0o777 == 0o700
        assert directory.parent.name.startswith("session_"), "what a killed server leaves is Ray's"

        keeper = psutil.Process(server).parent()
        assert keeper is not None
        keeper.kill()
        wait_until(lambda: not psutil.pid_exists(server) or psutil.Process(server).status() == "zombie")
        assert psutil.pid_exists(pid), "workers do not end with it"
        wait_until(lambda: forks.python_on({node}) is None)
        for worker in (first, second):
            ray_calls.kill(worker)
        third = start_worker({**environment, "py_executable": python})
        assert not ray.get(third.origin.remote(), timeout=LIMIT_S)[2], "Ray starts it where no server answers"
    finally:
        for server in forks._servers.values():
            ray_calls.kill(server.actor)


class Actors:
    """Takes the place of Ray: actors that answer at once, or have ended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[str] = []
        self.killed: list[object] = []
        self.answers: dict[str, Any] = {}
        monkeypatch.setattr(ray, "remote", lambda _: self)
        monkeypatch.setattr(forks_on_nodes, "NodeAffinitySchedulingStrategy", lambda node, soft: node)
        monkeypatch.setattr(ray_calls, "is_ready", lambda answer, *_: answer() is not KeyError)
        monkeypatch.setattr(ray_calls, "get", self.get)
        monkeypatch.setattr(ray_calls, "kill", self.killed.append)

    def options(self, *, num_cpus: int, scheduling_strategy: str, runtime_env: dict[str, Any]) -> Any:
        assert num_cpus == 0, "it reserves nothing"
        assert runtime_env == {"env_vars": {}}, "its own server is started by Ray"
        return SimpleNamespace(remote=lambda *_: self.start(scheduling_strategy))

    def start(self, node: str) -> Any:
        self.started.append(node)
        ask = SimpleNamespace(remote=lambda: lambda: self.answers.get(node, KeyError))
        return SimpleNamespace(python=ask, node=node)

    def get(self, answer: Any, *_: object) -> Any:
        found = answer()
        if isinstance(found, Exception):
            raise found
        return found


def follow(forks: ForksOnNodes, *nodes: str) -> None:
    workers = [
        SimpleNamespace(metadata=SimpleNamespace(node_id=node), execute_async=lambda _: None)
        for node in nodes
    ]
    forks.follow(workers, {"env_vars": {}, "py_executable": "python"}, None)


def test_each_node_of_the_workers_has_one_server_and_no_other_node_has(monkeypatch):
    actors, forks = Actors(monkeypatch), ForksOnNodes([MODULE])
    follow(forks, "a", "a", "b")
    follow(forks, "b", "c", "b")
    assert actors.started == ["a", "b", "c"]
    assert [actor.node for actor in actors.killed] == ["a"]


def test_workers_are_forked_only_where_each_node_has_a_server_with_the_same_python(monkeypatch):
    actors, forks = Actors(monkeypatch), ForksOnNodes([MODULE])
    follow(forks, "a", "b")
    assert forks.python_on({"a", "b"}) is None, "they have not started yet"
    actors.answers = {"a": "python x", "b": "python y"}
    assert forks.python_on({"a", "b"}) is None
    assert forks.python_on({"a"}) == "python x"
    actors.answers["b"] = "python x"
    assert forks.python_on({"a", "b"}) == "python x"


@pytest.mark.parametrize("answer", [ray.exceptions.ActorDiedError(), None])
def test_a_server_that_has_ended_is_started_again_with_the_next_workers(monkeypatch, answer):
    actors, forks = Actors(monkeypatch), ForksOnNodes([MODULE])
    follow(forks, "a")
    actors.answers["a"] = answer
    assert forks.python_on({"a"}) is None
    follow(forks, "a")
    assert actors.started == ["a", "a"]


def test_a_node_without_memory_has_no_server(monkeypatch):
    started: list[object] = []
    monkeypatch.setattr(forks_on_nodes, "estimate_available_memory", lambda: 1 << 30)
    monkeypatch.setattr(forks_on_nodes, "ForkServer", started.append)
    assert KeepsForkServer("none", [MODULE], {}, True).python() is None
    assert started == []


def test_a_server_sees_the_devices_of_the_workers_of_its_node(monkeypatch, tmp_path):
    made: list[dict[str, Any]] = []

    class Server(ForkServer):
        def __init__(self, modules: Any, **how: Any) -> None:
            made.append(how)

        def wait(self) -> None: ...

        def end(self) -> None: ...

    monkeypatch.setattr(forks_on_nodes, "ForkServer", Server)
    monkeypatch.setenv("RAY_RAYLET_PID", "77")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(forks_on_nodes, "directory_of_session", lambda: str(tmp_path))
    KeepsForkServer("a", [MODULE], {"CUDA_VISIBLE_DEVICES": "0,1"}, True)
    assert made[0]["environment"]["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert made[0]["directory"] == tmp_path / "fork-a-77"
