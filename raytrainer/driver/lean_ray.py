"""A local Ray that starts without what a run does not use, or without waiting for it.

* The dashboard's process, which serves nothing here but Ray's usage statistics: ``ray.init()`` waits a second or more
  until it has started. It starts later, if usage statistics are on.
* The autoscaler's monitor, which has no nodes to add.
* Ray's own set-up of a worker in a runtime environment, a Python that imports Ray to set variables and start another
  Python. ``worker/fork_server/setup_worker.py`` does that without Ray, and leaves what is more than that to Ray's.

None of the three has a public switch. Each stays as Ray does it where it is not found.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import threading
from collections.abc import Callable, Generator
from typing import Any

from raytrainer.worker.fork_server import setup_worker

logger = logging.getLogger(__name__)

LATER_S = 20.0
"""When the process for usage statistics starts: it computes for a second, which is the workers' at first [s]."""


@contextlib.contextmanager
def lean() -> Generator[None]:
    """A Ray that is started within the block starts fewer processes."""
    with contextlib.ExitStack() as stack:
        for owner, name, replace in _REPLACED:
            holder = _find(owner)
            original = getattr(holder, name, None)
            if callable(original):
                setattr(holder, name, replace(original))
                stack.callback(setattr, holder, name, original)
        yield


def _without_waiting(original: Callable[..., None]) -> Callable[..., None]:
    """In place of ``Node.start_api_server``."""

    def start_api_server(node: Any, **options: Any) -> None:
        if options.get("include_dashboard") is not False:
            original(node, **options)
            return
        node._webui_url = ""
        if _reports_usage():
            timer = threading.Timer(LATER_S, _start_later, [functools.partial(original, node, **options)])
            timer.daemon = True
            timer.start()

    return start_api_server


def _start_later(start: Callable[[], None]) -> None:
    import ray

    if ray.is_initialized():
        try:
            start()
        except Exception:  # Ray ends at the same time.
            logger.debug("Could not start the process for usage statistics.", exc_info=True)


def _reports_usage() -> bool:
    try:
        from ray._common.usage.usage_lib import usage_stats_enabled
    except ImportError:
        return True
    return bool(usage_stats_enabled())


def _nothing(original: Callable[..., None]) -> Callable[..., None]:
    """In place of ``Node.start_monitor``."""
    return lambda *_, **__: None


def _with_own_set_up(original: Callable[..., Any]) -> Callable[..., Any]:
    """In place of ``services.start_raylet``."""
    signature = inspect.signature(original)

    def start_raylet(*args: Any, **options: Any) -> Any:
        bound = signature.bind(*args, **options)
        if "setup_worker_path" in bound.arguments:
            bound.arguments["setup_worker_path"] = setup_worker.__file__
        return original(*bound.args, **bound.kwargs)

    return start_raylet


_REPLACED: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("_private.node.Node", "start_api_server", _without_waiting),
    ("_private.node.Node", "start_monitor", _nothing),
    ("_private.services", "start_raylet", _with_own_set_up),
)


def _find(path: str) -> object:
    import ray

    found: object = ray
    for name in path.split("."):
        found = getattr(found, name, None)
    return found
