"""Calls a function at each operation on the disk that this process makes.

Python's own calls are seen by wrappers and an audit hook. What writes tensors is C++ and Rust, so those functions are
wrapped as a whole: before the file is there, and after.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

CHANGES = ("fsync", "rename", "mkdir", "rmdir", "unlink")
TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_APPEND


class Operation(Protocol):
    """Is told of an operation, may raise or end the process."""

    def __call__(self, what: str, written: Path | None = None) -> None:
        """Take note.

        Args:
            what: A description.
            written: A file of tensors that is complete; None before any other operation.
        """
        ...


def watch_disk(run_dir: Path, operation: Operation) -> None:
    """Watch this process from now on; of files that are opened for writing, only those below ``run_dir`` count."""
    for name in CHANGES:
        real = getattr(os, name)

        def watched(*args: Any, real: Any = real, name: str = name, **kwargs: Any) -> Any:
            operation(f"{name} {Path(str(args[0])).name if name != 'fsync' else ''}".strip())
            return real(*args, **kwargs)

        setattr(os, name, watched)

    def audit(event: str, args: tuple[Any, ...]) -> None:
        # files that are opened for writing: their content appears after this
        if event != "open" or not isinstance(args[0], str) or f"{run_dir}/" not in args[0]:
            return
        if set("wxa+") & set(args[1] or "") or args[2] & TO_WRITE:
            operation(f"open {Path(args[0]).name}")

    sys.addaudithook(audit)


def watch_tensor_files(operation: Operation) -> None:
    """Watch what writes files of tensors; an OSError becomes the error that the library would raise."""
    import safetensors
    import safetensors.torch
    import torch

    def watch(owner: Any, name: str, failure: Callable[[str], Exception]) -> None:
        real = getattr(owner, name)

        def watched(value: Any, path: Any, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(path, str | os.PathLike):
                return real(value, path, *args, **kwargs)
            file = Path(path)
            try:
                operation(f"write {file.name}")
                result = real(value, path, *args, **kwargs)
                operation(f"the end of {file.name}", file)
            except OSError as error:
                raise failure(os.strerror(error.errno or errno.EIO)) from None
            return result

        setattr(owner, name, watched)

    of_safetensors: Any = safetensors.SafetensorError
    watch(
        safetensors.torch,
        "serialize_file",
        lambda text: of_safetensors(f"Error while serializing: I/O error: {text}"),
    )
    watch(
        torch,
        "save",
        lambda _: RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
    )
