"""Asks every node of a cluster something, each by a task of Ray that runs there and reserves nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar, cast

import ray
import ray.exceptions
from ray import cloudpickle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raytrainer.driver.cluster import connect
from raytrainer.runtimes import ray_calls
from raytrainer.runtimes.ray_calls import Ref

T = TypeVar("T")

ANSWER_S = 90.0
"""How long all nodes together may take [s]: the first task on one starts a process, which imports torch."""


@contextmanager
def joined(address: str) -> Generator[None]:
    """Join a cluster that is there, for the length of a block.

    Args:
        address: Of its head, or ``auto``.

    Raises:
        ConfigurationError: If none answers.
    """
    was_there = ray.is_initialized()
    connect(address)
    try:
        yield
    finally:
        if not was_there:
            ray.shutdown()


def ask_every_node(
    question: Callable[..., T], *arguments: object, timeout_s: float = ANSWER_S
) -> dict[str, T | str]:
    """Run a function on each node that is alive.

    Args:
        question: A function that runs there; importable there, like all that it returns, unless its module was
            registered with ``by_value``.
        arguments: What it is called with.
        timeout_s: How long all of them may take [s].

    Returns:
        Address of a node, with its number where several have one address -> its answer, or in words why there is none.
    """
    calls: dict[str, Ref[T]] = {}
    for node in sorted(cast("list[dict[str, Any]]", ray.nodes()), key=_place):
        if not node.get("Alive"):
            continue
        name = str(node.get("NodeManagerAddress", ""))
        if name in calls:
            name = f"{name} ({node['NodeID'][:6]})"
        there: Any = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task: Any = ray.remote(question)
        calls[name] = task.options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(*arguments)
    deadline = time.monotonic() + timeout_s
    return {name: _answer(call, max(0.0, deadline - time.monotonic())) for name, call in calls.items()}


@contextmanager
def by_value(module: ModuleType) -> Generator[None]:
    """Within the block, functions of a module travel whole, also to nodes that do not have it.

    Args:
        module: Needs no other module of ours.
    """
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def _place(node: dict[str, Any]) -> tuple[bool, str]:
    """The head comes first."""
    resources = cast("dict[str, float]", node.get("Resources") or {})
    return "node:__internal_head__" not in resources, str(node.get("NodeManagerAddress", ""))


def _answer(call: Ref[T], timeout_s: float) -> T | str:
    try:
        return ray_calls.get(call, timeout_s)
    except ray.exceptions.GetTimeoutError:
        return "it did not answer in time"
    except ray.exceptions.RayError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        return lines[-1].strip() if lines else type(error).__name__
