"""Which Ray a run uses: the one that is there, or a local one that is started for it and ends with the script.

In this order: a Ray that this process has joined already; the address in the arguments; the one in ``RAY_ADDRESS``,
which is also how a job that was submitted to a cluster finds it; else a local Ray. A Ray that merely happens to run on
this machine is never joined, and a Ray that was not started here is never ended.

The local Ray serves no dashboard, which would cost a second of start-up and 140 MB. Call ``ray.init()`` or run
``ray start --head`` first to have one.
"""

from __future__ import annotations

import atexit
import importlib
import logging
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raytrainer.driver import tokens
from raytrainer.driver.lean_ray import lean
from raytrainer.driver.loopback import on_loopback
from raytrainer.errors import ConfigurationError

logger = logging.getLogger(__name__)

ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
"""Set for Ray unless the user has set them: see failures sooner; print lines once; start no process that watches for
preemption notices, which nothing here acts on; stay in the working directory; behave like later versions, without the
notice about it. For torch: hide DDP's warning on every rank that its search for unused parameters, which transformers
turns on by default, found none."""


KNOCK_S = 5.0
"""How long the head of a cluster may take to accept a connection."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """The Ray that this process uses."""

    is_private: bool
    """This process started it, here or in the user's own ``ray.init()``: it is one machine, nothing joins it, and it
    ends with this process."""


_lock = threading.Lock()


def connect(ray_address: str | None = None) -> Cluster:
    """Join the cluster that a run is meant for, or start a local Ray.

    Args:
        ray_address: Address of a cluster, when one is asked for.

    Raises:
        ConfigurationError: If no Ray answers at the address.
    """
    with _lock:
        return _connect(ray_address)


def will_be_private(ray_address: str | None) -> bool:
    """Whether ``connect`` finds or starts a Ray that is this process' own.

    Args:
        ray_address: Address of a cluster, when one is asked for.
    """
    import ray

    if ray.is_initialized():
        return is_private()
    return (ray_address or os.environ.get("RAY_ADDRESS") or "local") == "local"


def _connect(ray_address: str | None) -> Cluster:
    import ray

    from raytrainer.driver.own_raylet import is_gone
    from raytrainer.driver.ray_output import tidy_ray_output

    tidy_ray_output()
    _set_environment(ENVIRONMENT)
    tokens.warn_of_empty_mode()
    if ray.is_initialized() and is_gone():
        _leave_dead()
    if ray.is_initialized():
        _warn_of_other_address(ray_address)
        return Cluster(is_private=is_private())
    address = ray_address or os.environ.get("RAY_ADDRESS")
    # Ray Train takes seconds to import. Most of ray.init() is waiting for processes, so both fit into one time.
    imports = threading.Thread(target=_import_ray_train, name="raytrainer-import", daemon=True)
    imports.start()
    options: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": True}
    if address and address != "local":
        _join(address, options)
    else:
        _start(options)
    imports.join()
    return Cluster(is_private=is_private())


def _warn_of_other_address(asked: str | None) -> None:
    """Say that the Ray of this process is another one than the address in the arguments; ports tell them apart."""
    import ray

    if not asked or asked == "auto" or "://" in asked:
        return
    context: Any = ray.get_runtime_context()
    joined: str = context.gcs_address
    is_same = is_private() if asked == "local" else asked.rpartition(":")[2] == joined.rpartition(":")[2]
    if not is_same:
        logger.warning(
            "ray_address=%r is not used: this process has joined the Ray at %s, and stays in it until ray.shutdown().",
            asked,
            joined,
        )


def _join(address: str, options: dict[str, Any]) -> None:
    import ray

    is_open = False
    try:
        # Ray itself keeps trying for most of a minute, and may end the process then.
        host, _, port = address.rpartition(":")
        if port.isdigit() and "/" not in host:
            socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()
            is_open = True
        ray.init(address=address, **options)
        _joined_here.add(_session())
    except Exception as error:
        raise ConfigurationError(_unanswered(address, error, is_open=is_open)) from error


def _unanswered(address: str, error: Exception, *, is_open: bool) -> str:
    """What a person reads when a cluster cannot be joined.

    Args:
        address: As it was given.
        error: What came instead.
        is_open: Something accepts connections there.
    """
    import ray.exceptions

    said = f"{type(error).__name__}: {str(error)[:200]}"
    # A cluster that refuses a token tells its own log, and whoever connects only that it could not.
    if isinstance(error, ray.exceptions.AuthenticationError) or is_open:
        return (
            f"The Ray cluster at {address!r} could not be joined ({said}). Something answers there, so it may be a "
            f"cluster that wants a token, and {tokens.sent()}. Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to what "
            "`ray get-auth-token` prints on its head, or RAY_AUTH_TOKEN_PATH to a file with it. If that is not it, "
            "check that the port is that of the head, and that the versions of Ray and Python are the same there."
        )
    return (
        f"No Ray cluster answers at {address!r} ({said}). Check ray_address and RAY_ADDRESS, and that `ray status` "
        "works there; leave both out to train on a local Ray."
    )


def _start(options: dict[str, Any]) -> None:
    import ray

    environment = dict(os.environ)
    with on_loopback(), lean():
        ray.init(address="local", include_dashboard=False, **options)
    _joined_here.add(_session())
    _environments[_session()] = environment


_joined_here: set[str] = set()
"""Sessions of Ray that this file started or joined."""
_environments: dict[str, dict[str, str]] = {}
"""Of those that it started: what their processes have from this one."""


def not_inherited(variables: dict[str, str]) -> dict[str, str]:
    """Those variables that processes of the Ray that was joined do not have by themselves."""
    theirs = _environments.get(_session(), {})
    return {name: value for name, value in variables.items() if theirs.get(name) != value}


def _session() -> str:
    import ray

    # Ray has no public way to ask. If this one goes away, a Ray that died is left too where the user joined it.
    worker: Any = getattr(getattr(ray, "_private", None), "worker", None)
    return str(getattr(getattr(worker, "_global_node", None), "session_name", ""))


def _leave_dead() -> None:
    """Ray on this machine has died: leave it, so that another one can be started or joined.

    Raises:
        ConfigurationError: If the script started or joined it itself.
    """
    import ray

    if _session() not in _joined_here:
        raise ConfigurationError(
            "The Ray that this process joined has ended on this machine: its raylet was killed or crashed. Call "
            "ray.shutdown() and ray.init() again, or run the script again."
        )
    ray.shutdown()


def is_private() -> bool:
    """Whether the Ray that this process has joined is its own: see ``Cluster``."""
    import ray

    # Ray has no public way to ask. If this one goes away, the cluster counts as shared, which is only slower.
    worker = getattr(getattr(ray, "_private", None), "worker", None)
    return bool(getattr(getattr(worker, "_global_node", None), "head", False))


def _set_environment(defaults: dict[str, str]) -> None:
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def _import_ray_train() -> None:
    try:
        importlib.import_module("raytrainer.driver.ray_train")
    except Exception:  # The import that needs it raises again.
        logger.debug("Could not import Ray Train ahead of time.", exc_info=True)


def at_exit(function: Callable[[], object]) -> None:
    """Call a function before Ray's own end: handlers run in reverse order, and importing ray registers its own."""
    importlib.import_module("ray")
    atexit.register(function)
