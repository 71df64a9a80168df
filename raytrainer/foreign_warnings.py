"""Which messages of other libraries are expected and harmless, and so go to the log file alone.

transformers imports torchao, and accelerate imports DeepSpeed and bitsandbytes, wherever they are installed. Each then
says what it lacks on this machine, also in runs that use none of them, on the driver and on every worker. A newcomer
cannot tell such lines from one that matters. Each entry names one message of one logger; all others of that logger are
shown as before. A logger that itself is set to INFO shows them too; Ray Train sets the root logger of workers to that.

The messages come while modules are imported, before a worker knows where its log file is, so they are kept until then.
"""

from __future__ import annotations

import logging
from collections import deque

EXPECTED = {
    "torchao": "Failed to load ",
    "torchao.kernel.intmm": "Warning: Detected no triton",
    "torch.utils._pytree": " is an Enum subclass and is now natively supported by torch.compile",
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward from kernels-community",
    "DeepSpeed": "Setting accelerator to CPU.",
    "ray.widgets.util": "Missing packages: ['ipywidgets']",
    "ray._private.authentication.authentication_token_setup": "Token authentication is enabled for this Ray cluster.",
}
"""Name of a logger -> a part of its message.

torchao: kernels for other GPUs and versions of Python. torch: how torchao registers its own enumerations. bitsandbytes:
a faster kernel of another package. DeepSpeed: the table at the start says which device is used. Ray: a local Ray of a
run is closed to others, as docs/security.md says; its own output in notebooks could be richer.
"""
_MOST_KEPT = 64


class _OnlyToFile(logging.Filter):
    """Takes one message of one logger out of what is shown."""

    def __init__(self, logger: logging.Logger, part: str) -> None:
        super().__init__()
        self._logger = logger
        self._part = part

    def filter(self, record: logging.LogRecord) -> bool:
        if self._part not in record.getMessage() or 0 < self._logger.level <= logging.INFO:
            return True
        if _file is not None:
            _file.handle(record)
        else:
            _kept.append(record)
        return False


_filters: dict[str, _OnlyToFile] = {}
_kept: deque[logging.LogRecord] = deque(maxlen=_MOST_KEPT)
_file: logging.Handler | None = None


def send_to_file() -> None:
    """From now on the messages of ``EXPECTED`` go to the log file of this process alone."""
    for name, part in EXPECTED.items():
        if name not in _filters:
            logger = logging.getLogger(name)
            _filters[name] = _OnlyToFile(logger, part)
            logger.addFilter(_filters[name])


def use_file(handler: logging.Handler | None) -> None:
    """Write them to a file from now on, and those that came before; None: keep them until there is one.

    Args:
        handler: Of the file.
    """
    global _file  # noqa: PLW0603  one file per process
    _file = handler
    while handler is not None and _kept:
        handler.handle(_kept.popleft())
