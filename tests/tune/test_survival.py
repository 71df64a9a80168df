"""A sweep that is interrupted, then killed, and each time started again, ends as if nothing had happened."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raytrainer.tune.results import SweepResult
from tests.leftovers import wait_for_end
from tests.ray_cluster import ENVIRONMENT
from tests.tune.leaks import busy_processes, wait_for_none
from tests.tune.sweep_script import EVERY, INTERRUPTED_AT, KILLED_AT, MAX_STEPS, RATES
from tests.tune.trials import are_equal, quiet_run, weights_of

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not os.environ.get("RAYTRAINER_SWEEPS"), reason="takes minutes; `make sweeps` runs it"
    ),
]

SCRIPT = Path(__file__).with_name("sweep_script.py")
STEPS = list(range(EVERY, MAX_STEPS + 1, EVERY))


class Script:
    """The script, in a session of its own as a terminal has it."""

    def __init__(self, directory: Path, ray_directory: Path) -> None:
        self.log = directory / "log.txt"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(SCRIPT), str(directory)],
                env=os.environ | ENVIRONMENT | {"RAY_TMPDIR": str(ray_directory)},
                stdout=log,
                stderr=log,
                start_new_session=True,
                # A shell that runs the tests in the background lets them ignore Ctrl-C.
                preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
            )

    def wait_for(self, marker: Path, timeout_s: float = 150.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not marker.exists():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def wait(self) -> str:
        code = self.process.wait(150)
        assert code == 0, self.log.read_text()
        return self.log.read_text()


@pytest.fixture(scope="module")
def story(tmp_path_factory, ray_directory):
    """The sweep's directory, and the results after each of its three processes."""
    directory = tmp_path_factory.mktemp("survival")
    own_ray = ray_directory / "sweep"
    found: list[SweepResult] = []

    script = Script(directory, own_ray)
    try:
        script.wait_for(directory / "is-to-be-interrupted")
        os.killpg(script.process.pid, signal.SIGINT)
        log = script.wait()
        assert "interrupted=True" in log
        found.append(SweepResult.read(directory / "sweep"))
        (directory / "is-interrupted").touch()
        assert wait_for_end(own_ray), "processes are left after the interruption"

        script = Script(directory, own_ray)
        script.wait_for(directory / "is-to-be-killed")
        script.process.kill()
        script.process.wait()
        found.append(SweepResult.read(directory / "sweep"))
        wait_for_none(lambda: busy_processes(own_ray))  # Ray's own agents take a minute to end.

        script = Script(directory, own_ray)
        log = script.wait()
        found.append(SweepResult.read(directory / "sweep"))
    finally:
        script.process.kill()
    return directory, found, log


def test_interrupted_trial_has_saved_where_it_stood(story):
    directory, found, log = story
    first, second = found[0].trials
    assert (first.state, second.state) == ("finished", "interrupted")
    saved = [int(path.name.split("-")[1]) for path in Path(second.path).glob("checkpoint-*")]
    assert any(INTERRUPTED_AT <= step < KILLED_AT for step in saved), "nothing was saved between evaluations"
    assert "Go on with resume=True" in log
    assert "2 trials: 1 finished, 1 interrupted" in log
    assert not (directory / "sweep" / "stop-request").exists()


def test_finished_trial_is_kept_and_the_other_one_reports_each_evaluation_once(story):
    _, found, _ = story
    assert [[one.step for one in trial.evaluations] for trial in found[-1].trials] == [STEPS, STEPS]
    assert [trial.state for trial in found[-1].trials] == ["finished", "finished"]
    assert found[0].trials[0].evaluations == found[-1].trials[0].evaluations


def test_its_weights_and_losses_are_those_of_the_run_that_nobody_disturbed(story, tmp_path):
    _, found, _ = story
    alone = quiet_run(
        tmp_path,
        RATES[1],
        max_steps=MAX_STEPS,
        eval_steps=EVERY,
        save_steps=EVERY,
        logging_steps=EVERY,
    )
    losses = [row["eval_loss"] for row in alone.state.log_history if "eval_loss" in row]
    trial = found[-1].trials[1]
    assert [one.metrics["eval_loss"] for one in trial.evaluations] == losses
    assert are_equal(weights_of(trial.last_checkpoint), weights_of(tmp_path / f"checkpoint-{MAX_STEPS}"))
