"""What a record of a run says about the machine and the versions that it ran with, and about memory."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import socket
import sys
from typing import Any

import psutil

PACKAGES = (
    "raytrainer",
    "torch",
    "transformers",
    "ray",
    "accelerate",
    "datasets",
    "safetensors",
    "numpy",
    "deepspeed",
    "peft",
)


@functools.cache
def environment() -> dict[str, object]:
    """Versions and the machine of this process; looked up once."""
    facts: dict[str, object] = {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "versions": _versions(),
    }
    cuda = _cuda()
    if cuda is not None:
        facts["gpus"] = [cuda.get_device_name(index) for index in range(cuda.device_count())]
        facts["cuda"] = sys.modules["torch"].version.cuda
    return facts


def memory() -> dict[str, int]:
    """What this process holds [bytes]: ``rss``; where it uses a GPU ``gpu`` now, and ``gpu_peak`` since its start."""
    found = {"rss": _process(os.getpid()).memory_info().rss}
    cuda = _cuda()
    if cuda is not None:
        found["gpu"] = cuda.memory_allocated()
        found["gpu_peak"] = cuda.max_memory_allocated()
    return found


@functools.cache
def _process(pid: int) -> psutil.Process:
    return psutil.Process(pid)


def _cuda() -> Any:
    """``torch.cuda`` if this process uses a GPU, else None. Imports nothing, and initializes nothing."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "cuda") or not torch.cuda.is_initialized():
        return None
    return torch.cuda


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
