"""The installed Ray has every name that raytrainer uses; a missing one is reported with the file that needs it."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "raytrainer").rglob("*.py"))

USED_WITHOUT_IMPORT = [
    # File, where it is, name: a method that is overridden or called, an attribute that is read.
    ("driver/lean_ray.py", "ray._private.node:Node", "start_api_server"),
    ("driver/lean_ray.py", "ray._private.node:Node", "start_monitor"),
    ("driver/lean_ray.py", "ray._private.services", "start_raylet"),
    ("driver/ray_train.py", "ray.train.torch:TorchTrainer", "_create_default_callbacks"),
    ("driver/ray_train.py", "ray.train.torch:TorchTrainer", "_initialize_and_run_controller"),
    ("driver/ray_train.py", "ray.train.v2._internal.execution.controller:TrainController", "run"),
    ("driver/ray_train.py", "ray.train.v2._internal.execution.controller:TrainController", "get_result"),
    ("driver/ray_train.py", "ray.train.v2._internal.execution.controller:TrainController", "abort"),
    (
        "driver/ray_controller.py",
        "ray.train.v2._internal.execution.failure_handling:FailureDecision",
        "RETRY",
    ),
    (
        "driver/ray_controller.py",
        "ray.train.v2._internal.execution.failure_handling:FailureDecision",
        "RAISE",
    ),
    (
        "driver/ray_controller.py",
        "ray.train.v2._internal.execution.failure_handling:DefaultFailurePolicy",
        "make_decision",
    ),
    (
        "driver/ray_controller.py",
        "ray.train.v2._internal.execution.controller:TrainController",
        "worker_group_cls",
    ),
    (
        "driver/ray_controller.py",
        "ray.train.v2._internal.execution.worker_group:WorkerGroup",
        "_create_placement_group",
    ),
    (
        "driver/ray_controller.py",
        "ray.train.v2._internal.execution.worker_group:WorkerGroup",
        "_create_workers",
    ),
    ("driver/ray_controller.py", "ray.train.v2._internal.execution.worker_group:WorkerGroup", "_start_impl"),
    (
        "driver/ray_controller.py",
        "ray.train.v2._internal.execution.worker_group:WorkerGroup",
        "_get_worker_runtime_env",
    ),
    (
        "driver/sync_on_use.py",
        "ray.train.v2._internal.execution.worker_group.worker_group",
        "SynchronizationActor",
    ),
    ("driver/sync_on_use.py", "ray.train.v2._internal.execution.worker_group.state", "_shutdown_sync_actor"),
    ("driver/ray_tables.py", "ray._private.state", "available_resources_per_node"),
    ("driver/ray_tables.py", "ray._private.state", "jobs"),
    ("driver/ray_tables.py", "ray._private.state:GlobalState", "_connect_and_get_accessor"),
    ("driver/ray_tables.py", "ray._raylet:GlobalStateAccessor", "get_placement_group_table"),
    ("driver/ray_tables.py", "ray._raylet:GlobalStateAccessor", "get_actor_table"),
    ("driver/ray_deaths.py", "ray.exceptions:RayActorError", "preempted"),
    ("driver/rendezvous.py", "ray.train.backend:BackendConfig", "backend_cls"),
    ("driver/rendezvous.py", "ray.train.backend:Backend", "on_start"),
    ("driver/rendezvous.py", "ray.train.backend:Backend", "share_cuda_visible_devices"),
    ("driver/rendezvous.py", "ray.train.v2._internal.execution.worker_group:WorkerGroup", "execute_single"),
    ("driver/rendezvous.py", "ray.train.v2._internal.execution.worker_group:WorkerGroup", "execute"),
    ("driver/cluster.py", "ray._private.worker", "_global_node"),
    ("driver/cluster.py", "ray._private.node:Node", "session_name"),
    ("driver/own_raylet.py", "ray._private.worker", "_global_node"),
    ("driver/own_raylet.py", "ray._private.node:Node", "raylet_socket_name"),
    ("driver/ray_tables.py", "ray._private.state:GlobalState", "get_draining_nodes"),
    ("worker/session_directory.py", "ray._private.node:Node", "get_session_dir_path"),
]
PARAMETERS = [
    ("driver/ray_train.py", "ray.train.v2._internal.execution.controller:TrainController", "failure_policy"),
    (
        "driver/ray_controller.py",
        "ray.train.v2._internal.execution.worker_group:WorkerGroup._create_workers",
        "placement_group_bundle_indices",
    ),
    ("driver/ray_deaths.py", "ray.train:WorkerGroupError", "worker_failures"),
    ("driver/cluster.py", "ray._private.node:Node", "head"),
]
"""Parameters of a constructor that are passed, or read as an attribute of the same name."""


def ray_names(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Modules and names in them: what a file imports of ray, and chains of attributes such as ``ray.train.report``."""
    aliases = {"ray": "ray"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "ray":
                    yield alias.name, ""
        elif (
            isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ray" and not node.level
        ):
            for alias in node.names:
                yield node.module or "", alias.name
                aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            yield aliases[node.value.id], node.attr


def resolve(path: str) -> object:
    """A module, or what a dotted path names in one."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        parent, _, name = path.rpartition(".")
        if not parent:
            raise
        return getattr(resolve(parent), name)


def has(path: str, name: str) -> bool:
    try:
        owner = resolve(path)
        return not name or hasattr(owner, name) or resolve(f"{path}.{name}") is not None
    except (ImportError, AttributeError):
        return False


def test_every_name_of_ray_that_a_file_imports_exists():
    missing = {
        f"{file.relative_to(ROOT)}: {module}.{name}".rstrip(".")
        for file in FILES
        for module, name in ray_names(ast.parse(file.read_text()))
        if not has(module, name)
    }
    assert not missing, f"the installed Ray lacks {sorted(missing)}"


def test_files_that_use_internals_are_seen():
    found = {name for file in FILES for _, name in ray_names(ast.parse(file.read_text()))}
    assert {"TrainController", "DefaultFailurePolicy", "get_or_create_autoscaling_coordinator"} <= found


@pytest.mark.parametrize(("file", "where", "name"), USED_WITHOUT_IMPORT, ids=lambda value: value)
def test_method_or_attribute_that_a_file_uses_exists(file, where, name):
    assert (ROOT / "raytrainer" / file).read_text().count(name), f"raytrainer/{file} no longer uses {name}"
    assert has(where.replace(":", "."), name), (
        f"the installed Ray lacks {where}.{name}, used in raytrainer/{file}"
    )


@pytest.mark.parametrize(("file", "where", "name"), PARAMETERS, ids=lambda value: value)
def test_parameter_that_a_file_uses_exists(file, where, name):
    assert (ROOT / "raytrainer" / file).read_text().count(name), f"raytrainer/{file} no longer uses {name}"
    parameters = inspect.signature(resolve(where.replace(":", "."))).parameters
    assert name in parameters, f"the installed Ray's {where} lacks {name}, used in raytrainer/{file}"


def test_callbacks_that_are_left_out_exist():
    from ray.train.torch import TorchTrainer

    from raytrainer.driver.ray_train import _UNUSED_WITH_OWN_ROOM

    found = {type(callback).__name__ for callback in TorchTrainer(lambda: None)._create_default_callbacks()}
    missing = _UNUSED_WITH_OWN_ROOM - found
    assert not missing, f"Ray Train no longer has {sorted(missing)}, named in raytrainer/driver/ray_train.py"


def test_death_in_rays_own_error_is_read():
    from ray.exceptions import RayActorError
    from ray.train import WorkerGroupError
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    from raytrainer.driver.ray_deaths import deaths_in

    for preempted in (False, True):
        failure = RayActorError(error_msg="Worker exit detail: killed.", preempted=preempted)
        died = WorkerHealthCheckFailedError("no answer", failure=failure)
        deaths = deaths_in(WorkerGroupError("failed", {0: ValueError("no"), 1: died}))
        assert deaths.causes == {1: "killed."}
        assert deaths.was_preempted is preempted


def test_missing_name_is_named(monkeypatch):
    from ray.train.v2._internal.execution import controller

    monkeypatch.delattr(controller, "TrainController")
    with pytest.raises(AssertionError, match=r"driver/ray_controller.py: ray\.train.*TrainController"):
        test_every_name_of_ray_that_a_file_imports_exists()
