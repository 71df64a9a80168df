"""One private Ray for all tests that need one, with its own directory and no token; it ends after the last test.

``address="local"`` because ``ray.init()`` joins any cluster that it finds.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.buckets import CREDENTIALS
from tests.leftovers import members, wait_for_end

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    # Workers find the toy sessions of the tests.
    "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    # Workers may use the buckets of the tests; where the server is, their URIs say.
    **CREDENTIALS,
}


@pytest.fixture(scope="session")
def ray_directory() -> Iterator[Path]:
    """A directory for Ray's sockets and logs. Short: the path of a socket has at most 107 characters."""
    directory = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def group_directories() -> list[str]:
    """Names of what groups have left; torch makes a directory of its own when its compiler is imported."""
    names = [path.name for path in Path(tempfile.gettempdir()).iterdir()]
    return [name for name in names if not name.startswith("torchinductor_")]


@pytest.fixture(scope="session")
def ray_cluster(ray_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A running Ray with room for two workers, which this process has joined."""
    tmp_path_factory.getbasetemp()  # pytest makes its own directory now, and not among those of groups
    import ray

    from raytrainer.driver.cluster import ENVIRONMENT as DEFAULTS

    before = dict(os.environ)
    # Groups give Ray Train a temporary directory each. Here, so that other runs on this machine do not count.
    temporary = tempfile.tempdir
    tempfile.tempdir = str(ray_directory / "groups")
    Path(tempfile.tempdir).mkdir()
    os.environ.update(DEFAULTS | ENVIRONMENT)
    ray.init(
        address="local",
        num_cpus=max(2, os.cpu_count() or 1),
        include_dashboard=False,
        _temp_dir=str(ray_directory),
        logging_level="warning",
    )
    yield
    ray.shutdown()
    os.environ.clear()
    os.environ.update(before)
    # With its processes a Ray's ports are free again.
    wait_for_end(ray_directory)
    assert members(ray_directory) == [], "processes of the tests' Ray are left"
    left = group_directories()
    tempfile.tempdir = temporary
    assert left == [], "directories of worker groups are left"
