"""Where the ranks of a worker group meet: Ray Train's part in setting up the process group.

Ray's own ``TorchConfig`` has its controller import torch, which takes more than a second in which nothing else can
happen. Here the controller only has rank 0 pick an address and tells it to the others; each worker opens the process
group itself, while all of them import torch at the same time. This module must stay free of torch.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from ray.train.backend import Backend, BackendConfig
from ray.util import get_node_ip_address


class Rendezvous(BackendConfig):
    """Tells all ranks the address of rank 0, in the variables that torch reads.

    Args:
        backend: Of ``torch.distributed``; ``TorchTrainer`` wants to read it.
    """

    def __init__(self, backend: str) -> None:
        self.backend = backend

    @property
    def backend_cls(self) -> type[Backend]:
        return _RendezvousBackend


class _RendezvousBackend(Backend):
    # GPUs of one node reach each other directly only when each process sees all of them.
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        address, port = worker_group.execute_single(0, pick_address)
        worker_group.execute(note_address, address, port)


def pick_address() -> tuple[str, int]:
    """On rank 0: its node, and a port that is free."""
    address = get_node_ip_address()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as found:
        found.bind(("", 0))
        return address, found.getsockname()[1]


def note_address(address: str, port: int) -> None:
    """On each rank: where rank 0 is."""
    os.environ["MASTER_ADDR"] = address
    os.environ["MASTER_PORT"] = str(port)
