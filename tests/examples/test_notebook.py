"""The notebook runs cell by cell in a kernel: classes of cells, an interrupt, changed classes, two trainers.

One kernel for all claims, since its Ray takes as long to start as the rest together.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.ray_cluster import ENVIRONMENT

jupyter_client = pytest.importorskip("jupyter_client")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "laptop.ipynb"
LIMIT_S = 200.0
LONG = "max_steps=200"
"""In the cell that is interrupted; there it is replaced by far more."""


@dataclass
class Outputs:
    """What a cell shows, as a frontend keeps it."""

    source: str
    streams: dict[str, str] = field(default_factory=dict[str, str])
    displays: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Each output that may be replaced -> its texts, the last of which is shown."""
    result: str = ""
    error: str = ""

    @property
    def page(self) -> str:
        """The one output that is replaced."""
        (texts,) = self.displays.values()
        return texts[-1]


class Kernel:
    """A kernel that runs cells, and keeps what they show."""

    def __init__(self, directory: Path) -> None:
        environment = {**os.environ, **ENVIRONMENT, "IPYTHONDIR": str(directory / "ipython")}
        self.manager = jupyter_client.KernelManager(kernel_name="python3")
        # Not the Python that was installed as this kernel once.
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        self.manager.kernel_spec.argv = command
        self.manager.start_kernel(cwd=str(directory), env=environment)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=LIMIT_S)

    def run(self, source: str, seen: Callable[[Outputs], None] = lambda _: None) -> Outputs:
        """Run a cell.

        Args:
            source: Its text.
            seen: Called with what is shown so far, whenever that changes.
        """
        found, number = Outputs(source), self.client.execute(source)
        deadline = time.monotonic() + LIMIT_S
        while True:
            message = self.client.get_iopub_msg(timeout=max(0.1, deadline - time.monotonic()))
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                if message["parent_header"].get("msg_id") == number:
                    return found
            elif kind == "stream":
                found.streams[content["name"]] = found.streams.get(content["name"], "") + content["text"]
            elif kind in ("display_data", "update_display_data"):
                name = content["transient"]["display_id"]
                assert (name in found.displays) == (kind == "update_display_data")
                found.displays.setdefault(name, []).append(content["data"]["text/plain"])
            elif kind == "execute_result":
                found.result = content["data"]["text/plain"]
            elif kind == "error":
                found.error = "\n".join(content["traceback"])
            seen(found)

    def end(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=False)


@pytest.fixture(scope="module")
def passes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[list[Outputs]]]:
    """What each code cell showed, all of them run twice in one kernel."""
    kernel = Kernel(tmp_path_factory.mktemp("notebook"))
    try:
        yield [run_all(kernel) for _ in range(2)]
    finally:
        kernel.end()


@pytest.fixture(scope="module")
def cells(passes: list[list[Outputs]]) -> list[Outputs]:
    """What each code cell showed when it ran first."""
    return passes[0]


def run_all(kernel: Kernel) -> list[Outputs]:
    """Run all code cells. The long one is interrupted when its first step was logged."""
    sources = [
        "".join(cell["source"])
        for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code"
    ]
    asked: list[bool] = []

    def interrupt(found: Outputs) -> None:
        if not asked and any("learning_rate" in text for texts in found.displays.values() for text in texts):
            asked.append(True)
            kernel.manager.interrupt_kernel()

    ran: list[Outputs] = []
    for source in sources:
        is_long = LONG in source
        ran.append(
            kernel.run(source.replace(LONG, "max_steps=1_000_000"), interrupt)
            if is_long
            else kernel.run(source)
        )
        assert ran[-1].error == "", ran[-1].error
    assert asked, "a cell was interrupted"
    return ran


def cell_with(cells: list[Outputs], words: str) -> Outputs:
    (found,) = [cell for cell in cells if words in cell.source]
    return found


def test_each_call_shows_one_output_that_is_replaced(cells: list[Outputs]) -> None:
    trained = cell_with(cells, "trainer = make_trainer(Net(width=64), max_steps=100)")
    assert trained.streams == {}
    assert len(next(iter(trained.displays.values()))) > 2
    page = trained.page
    assert page.count("requested") == 1
    assert re.search(r"\n100/100 +\d\.\d+", page)
    assert "checkpoint-100 committed" in page
    assert "finished" in page
    assert "━" not in page, "the progress is gone at the end"
    assert any("% ━" in text for text in next(iter(trained.displays.values())))
    (evaluated,) = [cell for cell in cells if cell.source == "trainer.evaluate()"]
    assert "eval_accuracy" in evaluated.page
    assert "eval_accuracy" in evaluated.result


def test_an_interrupt_saves_and_training_goes_on_from_there(cells: list[Outputs]) -> None:
    stopped = cell_with(cells, "stopped after step")
    assert "interrupted" in stopped.page
    said = stopped.streams["stdout"]
    step = int(said.split()[3])
    assert 0 < step < 1_000_000
    assert f"checkpoint-{step} committed" in stopped.page
    went_on = cell_with(cells, "went on to step")
    assert went_on.streams == {"stdout": f"went on to step {step + 20}\n"}
    assert f"resumed from checkpoint-{step}" in went_on.page


def test_a_changed_class_trains_and_two_trainers_share_the_workers(cells: list[Outputs]) -> None:
    changed = cell_with(cells, "other = make_trainer")
    assert "finished" in changed.page
    both = cell_with(cells, "with_tanh, with_gelu").streams["stdout"]
    # How far the first one got depends on when it was interrupted.
    found = re.fullmatch(r"accuracy with tanh (\d\.\d+), with GELU (\d\.\d+)\n", both)
    assert found
    assert all(0.5 < float(accuracy) <= 1 for accuracy in found.groups())
    assert cells[-1].result.startswith("tensor(")


def test_the_whole_notebook_may_run_again_in_its_kernel(passes: list[list[Outputs]]) -> None:
    _, again = passes
    trained = cell_with(again, "trainer = make_trainer(Net(width=64), max_steps=100)").page
    assert "finished" in trained
    assert trained.count("checkpoint of earlier runs: checkpoint-100") == 1
    step = int(cell_with(again, "stopped after step").streams["stdout"].split()[3])
    assert f"went on to step {step + 20}" in cell_with(again, "went on to step").streams["stdout"]
    assert again[-1].result.startswith("tensor(")
