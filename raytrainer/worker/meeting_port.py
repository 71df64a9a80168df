"""The port at which ranks of one machine meet, which listens from the moment that it is picked.

All ranks are called at the same time. A rank that is a few milliseconds ahead of rank 0 would find the port closed, and
torch tries again only after 0.25 to 0.75 s. At a port that listens already the kernel keeps the rank's connection until
rank 0 has opened the store. And nobody else can take the port meanwhile.

Free of torch, because it is called before ranks import that.
"""

from __future__ import annotations

import socket

LOOPBACK = "127.0.0.1"
_listening: dict[int, socket.socket] = {}
"""Port -> what listens there; one at most."""


def open_port() -> int:
    """On rank 0, before any rank is told of it: listen at a free port of the loopback."""
    close_port()
    listener = socket.create_server((LOOPBACK, 0), backlog=socket.SOMAXCONN)
    port: int = listener.getsockname()[1]
    _listening[port] = listener
    return port


def take_listener(port: int) -> socket.socket:
    """On rank 0, once: what listens at the port, which is the caller's to close.

    Args:
        port: That of ``open_port``.

    Raises:
        KeyError: If nothing of this process listens there.
    """
    return _listening.pop(port)


def close_port() -> None:
    """Close what nobody took: the ranks of an earlier start never met."""
    while _listening:
        _listening.popitem()[1].close()
