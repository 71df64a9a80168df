"""``TorchTrainer.fit()`` in a thread of its own, for as long as a worker group lives.

Ray Train insists on a storage directory, and nothing is ever stored in it: the workers commit checkpoints to
``output_dir`` themselves. It is a temporary directory of the driver's machine, where Ray's controller runs, and it is
removed with the group.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from raytrainer.driver import ray_threads

if TYPE_CHECKING:
    from raytrainer.driver.ray_train import Fit


class FitThread:
    """Runs ``fit()`` once.

    Args:
        make_fit: Creates the run, given its storage directory.
        on_end: Called in the thread when ``fit()`` has ended.
    """

    def __init__(self, make_fit: Callable[[str], Fit], on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        self._is_over = threading.Event()
        self.error: BaseException | None = None
        """What ``fit()`` raised."""
        self._storage = tempfile.mkdtemp(prefix="raytrainer-")
        try:
            self._fit = make_fit(self._storage)
        except BaseException:
            self.remove_storage()
            raise
        ray_threads.start(self._run, "raytrainer-fit")

    @property
    def is_over(self) -> bool:
        """Whether ``fit()`` has ended, and the workers with it."""
        return self._is_over.is_set()

    def wait(self, timeout_s: float) -> None:
        """Wait until ``fit()`` has ended, at most ``timeout_s``."""
        self._is_over.wait(timeout_s)

    def end_now(self, then: Callable[[], None]) -> None:
        """End the workers; returns at once, and calls ``then`` in another thread when they have ended."""
        self._fit.end_now(then)

    def kill(self) -> None:
        """End the workers now, with whatever else is under way."""
        self._fit.kill()

    def remove_storage(self) -> None:
        """Remove Ray Train's storage directory."""
        shutil.rmtree(self._storage, ignore_errors=True)

    def _run(self) -> None:
        try:
            self._fit.fit()
        except BaseException as error:  # noqa: BLE001  the thread that calls the group reports it
            self.error = error
        finally:
            self._is_over.set()
            self._on_end()
