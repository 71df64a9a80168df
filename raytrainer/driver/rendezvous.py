"""Where the ranks of a worker group meet: Ray Train's part in setting up the process group.

Ray's own ``TorchConfig`` makes its controller import torch, which blocks everything else for more than a second. Here
the controller only has rank 0 pick an address and passes it to the others; each worker opens the process group itself,
while all of them import torch at the same time. This module must stay free of torch.
"""

from __future__ import annotations

import os
import socket
from typing import Any, cast

from ray import util
from ray.train.backend import Backend, BackendConfig

from raytrainer.runtimes.termination import save_on_sigterm


class Rendezvous(BackendConfig):
    """Gives all ranks the address of rank 0, in the variables that torch reads.

    Args:
        backend: Backend of ``torch.distributed``; ``TorchTrainer`` reads it.
        saves_on_sigterm: A worker that gets SIGTERM saves before it ends.
    """

    def __init__(self, backend: str, *, saves_on_sigterm: bool = False) -> None:
        self.backend = backend
        self.saves_on_sigterm = saves_on_sigterm

    @property
    def backend_cls(self) -> type[Backend]:
        return _RendezvousBackend


class _RendezvousBackend(Backend):
    # GPUs of one node reach each other directly only when each process sees all of them.
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        address, port = worker_group.execute_single(0, pick_address)
        worker_group.execute(note_address, address, port)
        if backend_config.saves_on_sigterm:
            worker_group.execute(save_on_sigterm)


def pick_address() -> tuple[str, int]:
    """On rank 0: the address of its node, and a free port."""
    address = cast("str", util.get_node_ip_address())
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as found:
        found.bind(("", 0))
        return address, found.getsockname()[1]


def note_address(address: str, port: int) -> None:
    """On each rank: remember where rank 0 is."""
    os.environ["MASTER_ADDR"] = address
    os.environ["MASTER_PORT"] = str(port)
