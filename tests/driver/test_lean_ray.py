"""A local Ray starts without what a run does not use; whoever asks for a dashboard gets Ray's own start."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import ray
from ray._private import services
from ray._private.node import Node

from raytrainer.driver import lean_ray
from raytrainer.driver.lean_ray import lean
from raytrainer.worker.fork_server import setup_worker


@pytest.fixture
def started(monkeypatch):
    """What Ray's own functions were called with."""
    calls = []

    def start_raylet(redis_address, *, setup_worker_path, other=1):
        calls.append(("raylet", redis_address, setup_worker_path, other))

    monkeypatch.setattr(
        Node, "start_api_server", lambda node, **options: calls.append(("dashboard", options))
    )
    monkeypatch.setattr(Node, "start_monitor", lambda node: calls.append(("monitor",)))
    monkeypatch.setattr(services, "start_raylet", start_raylet)
    return calls


def test_neither_dashboard_nor_monitor_starts_without_usage_statistics(started, monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    node = SimpleNamespace()
    with lean():
        Node.start_api_server(node, include_dashboard=False, raise_on_failure=False)
        Node.start_monitor(node)
    assert started == []
    assert node._webui_url == ""


def test_usage_statistics_that_are_on_start_later(started, monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    timers = []

    class Timer:
        def __init__(self, after_s, function, args):
            timers.append((after_s, function, args))

        def start(self):
            pass

    monkeypatch.setattr(lean_ray.threading, "Timer", Timer)
    with lean():
        Node.start_api_server(SimpleNamespace(), include_dashboard=False, raise_on_failure=False)
    assert started == []
    ((after_s, function, args),) = timers
    function(*args)
    assert after_s == lean_ray.LATER_S
    assert started == [("dashboard", {"include_dashboard": False, "raise_on_failure": False})]


def test_a_dashboard_that_is_asked_for_starts_as_ever(started):
    with lean():
        Node.start_api_server(SimpleNamespace(), include_dashboard=True, raise_on_failure=True)
    assert started == [("dashboard", {"include_dashboard": True, "raise_on_failure": True})]


def test_workers_are_set_up_without_importing_ray(started):
    with lean():
        services.start_raylet("none", setup_worker_path="/ray/setup_worker.py", other=2)
    assert started == [("raylet", "none", setup_worker.__file__, 2)]


def test_afterwards_ray_starts_as_ever(started):
    before = (Node.start_api_server, Node.start_monitor, services.start_raylet)
    with lean():
        assert Node.start_monitor is not before[1]
    assert (Node.start_api_server, Node.start_monitor, services.start_raylet) == before


def test_a_ray_without_these_functions_starts_as_it_does(monkeypatch):
    monkeypatch.delattr(Node, "start_monitor")
    with lean():
        assert not hasattr(Node, "start_monitor")


CONTEXT = '--serialized-runtime-env-context={"env_vars": {"A": "${HOME}/x${MISSING}"}, "py_executable": "py -I \'a b\'"'


def test_a_worker_starts_with_its_variables_and_its_python():
    arguments = ["/ray/default_worker.py", "--port=1", CONTEXT + "}", "--language=PYTHON"]
    found = setup_worker.command(arguments, {"HOME": "/mine", "B": "1"})
    assert found == (
        ["py", "-I", "a b", "/ray/default_worker.py", "--port=1"],
        {"HOME": "/mine", "B": "1", "A": "/mine/x"},
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["/ray/default_worker.py", CONTEXT + ', "command_prefix": ["nice"]}', "--language=PYTHON"],
        ["java", CONTEXT + "}", "--language=JAVA"],
        ["/ray/default_worker.py", "--serialized-runtime-env-context={}", "--language=PYTHON"],
    ],
)
def test_whatever_is_more_than_that_is_left_to_ray(arguments):
    assert setup_worker.command(arguments, {}) is None


def test_variables_expand_as_ray_expands_them(monkeypatch):
    from ray._private.utils import update_envs

    monkeypatch.setenv("KNOWN", "here")
    monkeypatch.delenv("UNKNOWN", raising=False)
    monkeypatch.delenv("unknown", raising=False)
    for value in ("$KNOWN/x", "${KNOWN}:y", "${UNKNOWN}z", "$UNKNOWN", "${unknown}", "plain", "$", "a$b"):
        monkeypatch.setenv("RESULT", "before")
        found = setup_worker._expanded(value, dict(setup_worker.os.environ))
        update_envs({"RESULT": value})
        assert setup_worker.os.environ["RESULT"] == found, value
