"""How a worker group is started and kept, and what follows from that for each worker."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from raytrainer.driver.capacity import Allocation
from raytrainer.driver.cluster import Cluster
from raytrainer.worker.main import WorkerConfig

DEFAULT_SESSION = "raytrainer.worker.session:open_session"


@dataclass(frozen=True, kw_only=True)
class GroupOptions:
    """How a group is started and kept."""

    args: Any
    """Arguments with the fields of ``RayOptions``, and ``output_dir``, ``ddp_backend``, ``ddp_timeout``,
    ``full_determinism``."""
    open_session: str = DEFAULT_SESSION
    """``module:function`` that binds the trainer on a worker."""

    def for_workers(
        self, cluster: Cluster, control: Any, trainer: Any, allocation: Allocation
    ) -> WorkerConfig:
        """What each worker is told.

        Args:
            cluster: The Ray that the workers run on.
            control: The control actor.
            trainer: Reference to the shipped trainer.
            allocation: What the workers have.
        """
        args = self.args
        return WorkerConfig(
            control=control,
            trainer=[trainer],
            open_session=self.open_session,
            output_dir=_for_workers(args.output_dir),
            num_threads=allocation.num_threads,
            use_gpu=allocation.use_gpu,
            backend=args.ddp_backend or _backend(args, allocation),
            timeout_s=float(args.ddp_timeout),
            directory=os.getcwd() if cluster.is_private else None,
        )


def _backend(args: Any, allocation: Allocation) -> str:
    if not allocation.use_gpu:
        return "gloo"
    sharding = getattr(args, "sharding", None)
    # The norm of gradients that lie in CPU memory is reduced there.
    return "cpu:gloo,cuda:nccl" if sharding is not None and sharding.cpu_offload else "nccl"


def _for_workers(path: str | os.PathLike[str] | None) -> str | None:
    """A path that means the same in a process with another working directory."""
    if path is None or "://" in str(path):
        return None if path is None else str(path)
    return os.path.abspath(path)
