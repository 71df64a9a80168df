"""Writing a large file without the kernel's page cache, where the file system can.

What goes through the page cache is copied there by the kernel, page by page, and written from there by its own threads
at the priority of anybody else. That is most of the processor time of a large save, and training pays for it. With
``O_DIRECT`` the disk takes the bytes from a buffer of this process instead. The buffer, the place in the file and the
length of a write have to be aligned for that; the end of a file is not, and goes through the page cache. So does all of
it on file systems that have no direct writes (tmpfs, some network and FUSE mounts). What is in the file is the same.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
from pathlib import Path
from types import TracebackType
from typing import Self

CHUNK = 64 << 20
"""What is written at once [bytes]. On a machine whose cores all train, whoever writes in idle time gets one a few times
a second, and waits for the next one after each write: at 100 MB/s a save of 1.6 GB is on the disk in 24 s with this, in
40 s with a quarter of it."""
ALIGNMENT = 4096
"""At least what disks ask for, and the page of the cache in which the end of a file is written [bytes]."""
_REFUSED = {errno.EINVAL, errno.EOPNOTSUPP}
_DIRECT = getattr(os, "O_DIRECT", 0)


class DirectFile:
    """A file that is written from its beginning to its end.

    Args:
        path: Of the file; what it held is gone.

    Raises:
        OSError: If it cannot be opened for writing.
    """

    def __init__(self, path: Path) -> None:
        self.is_direct = bool(_DIRECT)
        """Whether its writes go past the page cache."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            self._descriptor = os.open(path, flags | _DIRECT, 0o666)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            self._descriptor = os.open(path, flags, 0o666)
            self.is_direct = False
        self._buffer = mmap.mmap(-1, CHUNK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):
                self._buffer.madvise(mmap.MADV_HUGEPAGE)
        self._view = memoryview(self._buffer)
        self._filled = 0

    @property
    def content(self) -> memoryview:
        """What was taken over and is not written."""
        return self._view[: self._filled]

    @property
    def is_full(self) -> bool:
        """Whether ``write`` has to follow."""
        return self._filled == CHUNK

    def put(self, content: bytes | memoryview) -> int:
        """Take over what there is room for.

        Returns:
            How much that is [bytes].
        """
        size = min(len(content), CHUNK - self._filled)
        self._view[self._filled : self._filled + size] = content[:size]
        self._filled += size
        return size

    def write(self) -> None:
        """Write what was taken over; nothing may follow that does not fill the buffer.

        Raises:
            OSError: If storage fails.
        """
        at, aligned = 0, self._filled - self._filled % ALIGNMENT
        while at < self._filled:
            if self.is_direct and at >= aligned:
                self._go_on_buffered()
            end = aligned if self.is_direct else self._filled
            try:
                at += os.write(self._descriptor, self._view[at:end])
            except OSError as error:  # also after a write that was cut short at an odd place
                if not self.is_direct or error.errno not in _REFUSED:
                    raise
                self._go_on_buffered()
        self._filled = 0

    def sync(self) -> None:
        """Bring the file to the disk."""
        os.fsync(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def _go_on_buffered(self) -> None:
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~_DIRECT)
        self.is_direct = False
