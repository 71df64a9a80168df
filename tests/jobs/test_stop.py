"""A job that is stopped saves, also when Ray kills its driver amid a step; sent again, it ends as if undisturbed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.jobs.head import ROOT, TOKEN, Head, running_head
from tests.jobs.train import STEPS
from tests.leftovers import members

pytestmark = [pytest.mark.ray, pytest.mark.timeout(480)]

HELD = 4
WAIT_S = 120.0


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"after {WAIT_S} s: {what}"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def checkpoints(run: Path) -> list[str]:
    return sorted(path.parent.name for path in run.glob("checkpoint-*/manifest.json"))


@dataclass
class Story:
    """What was seen, in order."""

    stopped: Any = None
    status: str = ""
    at_the_drivers_end: list[str] = field(default_factory=list)
    after_the_step: list[str] = field(default_factory=list)
    stayed: list[str] = field(default_factory=list)
    resumed: Any = None
    quiet: Any = None
    failed: Any = None
    failed_status: str = ""
    failed_code: int | None = None


def tell(head: Head, directory: Path) -> Story:
    from ray.job_submission import JobSubmissionClient

    story, run = Story(), directory / "run"
    held = Path(f"{run}.held")
    # Not by the environment: Ray may have read that of this process before.
    client = JobSubmissionClient(head.url, headers={"Authorization": f"Bearer {TOKEN}"})
    job = client.submit_job(
        entrypoint=f"python -m tests.jobs.train {run} {HELD}", runtime_env={"working_dir": str(ROOT)}
    )
    wait_until(held.exists, "the step to hold")
    driver = int(Path(f"{run}.pid").read_text())
    story.stopped = head.job("stop", job)
    wait_until(lambda: not is_alive(driver), "the end of the driver, which Ray kills")
    story.status = str(client.get_job_status(job).value)
    story.at_the_drivers_end = checkpoints(run)
    held.unlink()
    wait_until(lambda: bool(checkpoints(run)), "a checkpoint")
    story.after_the_step = checkpoints(run)
    story.resumed = head.submit("python", "-m", "tests.jobs.train", str(run))
    wait_until(lambda: not any("ControlActor" in one for one in members(head.directory)), "the actors' end")
    story.stayed = [one for one in members(head.directory) if "TrainController" in one]
    story.quiet = head.submit("python", "-m", "tests.jobs.train", str(directory / "quiet"))

    failing = client.submit_job(entrypoint="python -c 'raise SystemExit(3)'")
    wait_until(lambda: client.get_job_status(failing).is_terminal(), "the end of the failing job")
    info = client.get_job_info(failing)
    story.failed_status, story.failed_code = str(info.status.value), info.driver_exit_code
    return story


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def story(directory: Path) -> Iterator[Story]:
    with running_head() as head:
        yield tell(head, directory)


def test_a_stopped_job_saves_after_the_step_in_which_ray_killed_its_driver(story: Story) -> None:
    assert story.stopped.returncode == 0, story.stopped.stderr
    assert story.status == "STOPPED"
    assert story.at_the_drivers_end == [], "the driver was killed before anything was saved"
    assert story.after_the_step == [f"checkpoint-{HELD}"]


def test_nothing_of_a_stopped_job_stays(story: Story) -> None:
    assert story.stayed == []


def test_the_job_submitted_again_goes_on_and_ends_with_the_weights_of_an_undisturbed_one(
    story: Story, directory: Path
) -> None:
    for done in (story.resumed, story.quiet):
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        assert f"trained to step {STEPS}" in done.stdout
    assert f"checkpoint-{HELD}" in story.resumed.stdout, "it says where it goes on"
    resumed, quiet = (load_file(directory / name / "model.safetensors") for name in ("run", "quiet"))
    assert sorted(resumed) == sorted(quiet)
    assert all(resumed[name].equal(quiet[name]) for name in quiet)


def test_the_exit_status_of_a_script_is_that_of_its_job(story: Story) -> None:
    assert story.failed_status == "FAILED"
    assert story.failed_code == 3
