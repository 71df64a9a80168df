"""Settings of every test: no network, its own environment, a suitable timeout, and a group for Ray tests.

Fixtures that start a Ray cluster are a plugin of their own (tests/ray_cluster.py); this file never starts anything.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import random
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

# Before anything imports torch, transformers or ray, hence at import time and not in a fixture.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# How full the disk of this machine is says nothing about the code: Ray would write so into a run's output, every ten
# seconds, and give its object store no room.
os.environ["RAY_local_fs_capacity_threshold"] = "1"  # noqa: SIM112 - Ray spells it so
os.environ["WANDB_MODE"] = "disabled"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # the models of the tests are tiny, and two tests share two cores

if importlib.util.find_spec("tests.ray_cluster") is not None:
    pytest_plugins = ["tests.ray_cluster", "tests.buckets", "tests.own_modules"]

# No deadline: the time of an example means nothing while other tests run on the machine. CI draws the same examples
# on every run, so a red run can be repeated.
hypothesis.settings.register_profile("raytrainer", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("raytrainer")

TESTS = Path(__file__).parent
SERIAL_MARKERS = ("ray", "distributed", "faults", "examples")
SERIAL_TIMEOUT_S = 300
FOLDERS_THAT_MARK = (*SERIAL_MARKERS, "gpu")
OUTSIDE = (
    "CUDA_VISIBLE_DEVICES",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "RANK",
    "RAY_ADDRESS",
    "WORLD_SIZE",
)
"""Variables that change what the product does and must not leak in from the shell that runs the tests."""


def pytest_configure() -> None:
    for name in OUTSIDE:
        os.environ.pop(name, None)
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        del os.environ[name]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import without garbage collection: it took a quarter of the time of importing torch and transformers."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
        if folder in FOLDERS_THAT_MARK:
            item.add_marker(getattr(pytest.mark, folder))
        if any(item.get_closest_marker(name) for name in SERIAL_MARKERS):
            item.add_marker(pytest.mark.serial)
        if item.get_closest_marker("serial") and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SERIAL_TIMEOUT_S))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a GPU, and torch.cuda.is_available() is False here")


@pytest.fixture(scope="module", autouse=True)
def imports_are_not_searched_for_garbage() -> None:
    """Let the garbage collector search only what tests made, not the 600,000 objects of torch and transformers.

    The Trainer of transformers collects at the end of every run; that was a third of the time of the tests here.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """Restore os.environ: raytrainer and Accelerate set variables for the processes that they start."""
    before = dict(os.environ)
    yield
    if os.environ != before:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@pytest.fixture(autouse=True)
def own_randomness() -> Iterator[None]:
    """Restore the state of ``random``: a test that seeds it must not affect what the next one draws."""
    before = random.getstate()
    yield
    random.setstate(before)


@pytest.fixture(autouse=True)
def own_working_directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in a temporary directory, since the default ``output_dir`` is a relative path."""
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))
