"""Where the ranks of a worker group meet: Ray Train's part in setting up the process group.

Ray's own ``TorchConfig`` makes its controller import torch, which blocks everything else for more than a second. Here
the controller only has rank 0 pick an address and passes it to the others; each worker opens the process group itself,
while all of them import torch at the same time. This module must stay free of torch.
"""

from __future__ import annotations

import os
import socket
from typing import Any, cast

import psutil
from ray import util
from ray.train.backend import Backend, BackendConfig

from raytrainer.runtimes.termination import save_on_sigterm

LOOPBACK = "127.0.0.1"


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
        addresses = worker_group.execute(node_address)
        port = worker_group.execute_single(0, pick_port)
        worker_group.execute(note_address, addresses[0], port, is_spread=len(set(addresses)) > 1)
        if backend_config.saves_on_sigterm:
            worker_group.execute(save_on_sigterm)


def node_address() -> str:
    """On each rank: the address at which other nodes of the cluster reach its node."""
    return cast("str", util.get_node_ip_address())


def pick_port() -> int:
    """On rank 0: a free port of its node."""
    family = socket.AF_INET6 if ":" in node_address() else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as found:
        found.bind(("", 0))
        return cast("int", found.getsockname()[1])


def note_address(address: str, port: int, *, is_spread: bool) -> None:
    """On each rank, before it imports torch: note where rank 0 is, and how other nodes reach this one.

    Ranks that are all on one node meet on its loopback, which other machines do not reach.

    Args:
        address: Address of rank 0's node.
        port: A free port there.
        is_spread: The ranks are on several nodes.
    """
    os.environ["MASTER_ADDR"] = address if is_spread else LOOPBACK
    os.environ["MASTER_PORT"] = str(port)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # as a local Ray has it; see driver/cluster.py
    if "GLOO_SOCKET_IFNAME" not in os.environ:
        interface = interface_of(node_address() if is_spread else LOOPBACK)
        if interface is not None:
            os.environ["GLOO_SOCKET_IFNAME"] = interface


def interface_of(address: str) -> str | None:
    """The network interface of this machine that has an address; None if none has, as behind a translated address.

    Gloo looks its own address up by the host's name, which is often 127.0.1.1 in ``/etc/hosts``: ranks on other nodes
    would connect to themselves. NCCL never picks the loopback interface.
    """
    for interface, found in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == address for each in found):
            return interface
    return None
