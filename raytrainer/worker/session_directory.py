"""Where Ray keeps the files of its session on this machine; they end with Ray."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import ray


def directory_for_copies() -> str:
    """Where copies of the driver's modules go."""
    return os.path.join(directory_of_session(), "raytrainer_modules")


def directory_of_session() -> str:
    """Where Ray's session keeps its files on this machine."""
    # Ray has no public way to ask. If this one goes away, what is kept here outlives Ray.
    node: Any = getattr(getattr(getattr(ray, "_private", None), "worker", None), "_global_node", None)
    return node.get_session_dir_path() if node is not None else tempfile.gettempdir()
