"""Worker groups on a real local Ray, with a toy in place of the trainer."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
import threading
import time
import weakref
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
import torch
from ray.util import placement_group_table

from raytrainer.driver.fork_server import start_fork_server
from raytrainer.driver.worker_group import WorkerGroup
from raytrainer.errors import GroupClosedError, TrainingFailed
from raytrainer.telemetry.events import CheckpointCommitted, Note, StepDone
from tests.driver.toy import TOY, StrangeError, ToyTrainer, toy_args
from tests.faults.victims import helper_pids

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240), pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture
def make_group(tmp_path):
    groups, trainers = [], []

    def make(trainer=None, **changes):
        trainer = trainer or ToyTrainer(directory=str(tmp_path))
        trainers.append(trainer)
        group = WorkerGroup(trainer, toy_args(tmp_path, **changes), events.append, open_session=TOY)
        groups.append(group)
        group.start()
        return group

    events = make.events = []
    yield make
    for group in groups:
        group.kill()


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the second one if it ends between opening and reading
        return False


def wait_until(condition, timeout_s=15.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def pids_of(group):
    return [rank[0] for rank in group.call("describe")["ranks"]]


def fork_servers():
    server = start_fork_server([])
    assert server is not None
    return {server.pid}


@contextmanager
def at_most(seconds):
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def test_workers_stay_for_the_next_task_and_hand_over_at_the_end(make_group, tmp_path):
    weights = torch.ones(3)
    before, coordinators = helpers(), helper_pids("_Autoscaling", raylet_here())
    synchronizing = synchronization_actors()
    group = make_group(ToyTrainer(directory=str(tmp_path), weights=[weights, weights]))
    first = group.call("describe")
    assert first["world"] == 2
    assert [rank[1:4] for rank in first["ranks"]] == [(0, 0, 1), (1, 1, 1)]
    assert first["agreed"] == [1, 1]
    assert first["shared"]
    assert {rank[4] for rank in first["ranks"]} == {os.getcwd()}
    assert {psutil.Process(rank[0]).ppid() for rank in first["ranks"]} == fork_servers()

    mine = helpers() - before
    assert len(mine) == 2
    assert {out_of_memory_score(pid) for pid in mine} == {"0"}, "the kernel is to choose a worker"
    assert helper_pids("_Autoscaling", raylet_here()) == coordinators, (
        "none more, because this Ray cannot grow"
    )

    assert synchronization_actors() <= synchronizing, "started for nobody"
    assert group.call("meet") == "from rank 0"
    wait_until(lambda: len(synchronization_actors() - synchronizing) == 1)  # started when used

    with at_most(1.0):
        second = group.call("describe", task_id="my-run")
    assert [rank[0] for rank in second["ranks"]] == [rank[0] for rank in first["ranks"]]
    assert second["run_id"] == "my-run"

    result = group.call("train", (30,))
    assert result == {"step": 30, "first": 0, "attempt": 0, "stopped": False}
    logged = [event.step for event in make_group.events if type(event).__name__ == "Logged"]
    assert logged == list(range(1, 31))
    steps = [event.step for event in make_group.events if isinstance(event, StepDone)]
    assert steps == sorted(set(steps))
    assert steps[-1] == 30

    big = group.call("big")
    assert np.array_equal(big["array"], np.ones((1000, 1000)))
    assert big["tensor"].dtype == torch.bfloat16

    group.end()
    assert not group.is_open
    assert group.final_weights()["weights"].tolist() == [0, 1, 2, 3]
    assert group.final_weights()["step"] == 30
    with pytest.raises(GroupClosedError):
        group.call("describe")
    wait_until(lambda: not any(is_alive(rank[0]) for rank in first["ranks"]))


def test_sigterm_to_one_worker_makes_all_ranks_save_and_others_go_on_which_is_no_failure(make_group):
    group = make_group(enable_jit_checkpoint=True, max_failures=0)
    before = pids_of(group)
    done = group.call("train", (2000,), {"fail": "terminate", "at": 3, "every": 5000})
    saved = done["first"]
    assert saved >= 3
    assert done == {"step": 2000, "first": saved, "attempt": 1, "stopped": False}
    assert [event.text for event in make_group.events if isinstance(event, Note)] == [
        "rank 1 got SIGTERM: saving, to go on in other workers",
        f"Saved step {saved}: the workers leave, and others go on from there (not counted as a failure).",
    ]
    assert not set(before) & set(pids_of(group))
    more = saved + 5
    assert group.call("train", (more,)) == {"step": more, "first": saved, "attempt": 0, "stopped": False}


def control_actors():
    """Processes of the groups of this Ray, some of which other tests may just have ended."""
    return helper_pids("ControlActor", raylet_here())


def out_of_memory_score(pid):
    return Path(f"/proc/{pid}/oom_score_adj").read_text().strip()


def helpers():
    return control_actors() | helper_pids("ControllerInRoom", raylet_here())


def synchronization_actors():
    """Workers start them, so they come from where workers come from."""
    (server,) = fork_servers()
    return {
        pid
        for parent in (raylet_here(), psutil.Process(server))
        for pid in helper_pids("SynchronizationActor", parent)
    }


def raylet_here():
    return next(one for one in psutil.Process().children(True) if one.name().startswith("raylet"))


def test_nothing_of_an_ended_group_stays(make_group):
    before = control_actors()
    group = make_group()
    pids = pids_of(group)
    mine = control_actors() - before
    assert mine
    group.end()
    assert group.final_weights()["weights"].tolist() == [0, 1, 2, 3], (
        "what was handed over stays with the driver"
    )
    wait_until(lambda: not any(map(is_alive, pids)))
    wait_until(lambda: not any(map(is_alive, mine)))
    assert not list(Path(tempfile.gettempdir()).glob("raytrainer-*"))


def test_programming_error_ends_the_run_at_once_with_the_users_traceback(make_group, tmp_path):
    group = make_group()
    pids = pids_of(group)
    with at_most(5.0), pytest.raises(TrainingFailed) as caught:
        group.call("train", (9,), {"fail": "value", "at": 4})
    text = str(caught.value)
    assert text.startswith("ValueError: shapes do not fit at step 4\n")
    assert "in user_loss" in text
    assert "rank 1" in text
    assert "after step 4, attempt 1" in text
    assert "last committed checkpoint: checkpoint-4" in text
    assert "failed as a consequence: rank 0" in text
    assert len(text.splitlines()) <= 30
    assert isinstance(caught.value.__cause__, ValueError)
    assert isinstance(caught.value, ValueError)
    log = tmp_path / "logs" / "rank-1.log"
    assert f"log: {log}" in text
    assert "in user_loss" in log.read_text()
    wait_until(lambda: not any(map(is_alive, pids)))


def test_rank_that_is_stuck_does_not_hold_up_the_end(make_group):
    group = make_group()
    pids = pids_of(group)
    with at_most(5.0), pytest.raises(TrainingFailed, match="shapes do not fit"):
        group.call("stuck")
    wait_until(lambda: not any(map(is_alive, pids)))


def test_result_that_cannot_be_shipped_is_an_error_that_says_so(make_group):
    with pytest.raises(
        TrainingFailed, match=r"TypeError: unpicklable\(\) returned a Unpicklable that cannot be sent"
    ):
        make_group().call("unpicklable")


def test_of_a_failed_task_that_trains_nothing_rank_0_leaves_the_weights(make_group):
    group = make_group()
    group.call("train", (2,))
    with pytest.raises(TrainingFailed):
        group.call("unpicklable")
    left = group.final_weights()
    assert (left["weights"].tolist(), left["step"], left["after"]) == ([0, 1, 2, 3], 2, "a failure")


def test_of_a_training_that_failed_no_weights_are_left(make_group):
    group = make_group()
    with pytest.raises(TrainingFailed):
        group.call("train", (9,), {"fail": "value", "at": 4})
    assert group.final_weights() is None


def test_exception_is_caught_by_its_own_class_although_pickle_cannot_call_its_constructor(make_group):
    group = make_group(max_failures=0)
    with pytest.raises(StrangeError, match=r"^tests\.driver\.toy\.StrangeError: one and two\n") as caught:
        group.call("train", (9,), {"fail": "strange", "at": 2})
    assert "max_failures=0 allows no restart" in str(caught.value)
    assert isinstance(caught.value, TrainingFailed)
    assert str(caught.value.__cause__) == "one and two"


def test_killed_worker_is_replaced_and_the_task_ends(make_group):
    group = make_group()
    before = pids_of(group)
    result = group.call("train", (9,), {"fail": "kill", "at": 5})
    assert result == {"step": 9, "first": 5, "attempt": 1, "stopped": False}
    notes = [event.text for event in make_group.events if isinstance(event, Note)]
    assert any("Starting the workers again (restart 1 of at most 3)" in text for text in notes)

    after = pids_of(group)
    assert not set(before) & set(after)
    assert {psutil.Process(pid).ppid() for pid in after} == fork_servers()
    os.kill(after[1], signal.SIGKILL)
    assert group.call("echo", (3,)) == 3, "a worker that dies while it waits is replaced too"


def test_same_failure_at_the_same_step_ends_the_run_after_one_restart(make_group):
    group = make_group()
    with pytest.raises(TrainingFailed) as caught:
        group.call("train", (9,), {"fail": "os-always", "at": 3})
    text = str(caught.value)
    assert text.startswith("OSError: [Errno 5] disk is sulking\n")
    assert "why it ended: OSError at step 3 came back after a restart" in text
    assert "attempt 2" in text


def test_death_without_restarts_says_how_the_worker_ended(make_group):
    group = make_group(max_failures=0)
    with pytest.raises(TrainingFailed) as caught:
        group.call("train", (9,), {"fail": "kill", "at": 5})
    text = str(caught.value)
    assert text.startswith("The worker of rank 1 died without an exception: ")
    assert "last committed checkpoint: checkpoint-5" in text
    assert "hint: if memory ran out" in text


def test_death_of_a_helper_without_restarts_is_told_with_the_last_checkpoint(make_group):
    before = control_actors()
    group = make_group(max_failures=0)

    def kill():
        wait_until(lambda: any(isinstance(event, CheckpointCommitted) for event in make_group.events), 60.0)
        (mine,) = control_actors() - before
        os.kill(mine, signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with pytest.raises(TrainingFailed) as caught:
        group.call("train", (2000,), {"fail": "slow", "every": 5})
    killer.join()
    text = str(caught.value)
    assert text.startswith("The process of the control actor, which workers and driver talk through, died (")
    assert "why it ended: max_failures=0 allows no restart" in text
    committed = [event.path for event in make_group.events if isinstance(event, CheckpointCommitted)]
    assert f"last committed checkpoint: {committed[-1]}" in text
    assert "hint:" not in text, "nothing says that memory ran out"


def test_a_control_actor_that_stands_still_is_replaced_with_its_group(make_group, monkeypatch):
    monkeypatch.setattr("raytrainer.driver.updates.LONG_POLL_S", 1.0)
    monkeypatch.setattr("raytrainer.driver.updates.LATE_S", 4.0)
    before = control_actors()
    group = make_group()
    stopped = []

    def stop():
        wait_until(lambda: any(isinstance(event, CheckpointCommitted) for event in make_group.events), 60.0)
        stopped.extend(control_actors() - before)
        os.kill(stopped[0], signal.SIGSTOP)

    stopper = threading.Thread(target=stop, daemon=True)
    stopper.start()
    result = group.call("train", (120,), {"fail": "slow", "every": 5})
    stopper.join()
    assert result["step"] == 120
    assert result["first"] >= 5, "it went on from a checkpoint"
    notes = [event.text for event in make_group.events if isinstance(event, Note)]
    restart = next(text for text in notes if "Starting it and the workers again" in text)
    assert restart.startswith(
        "The process of the control actor, which workers and driver talk through, does not answer"
    )
    wait_until(lambda: not any(map(is_alive, stopped)))


def test_a_stopped_rank_is_named_with_those_that_wait_for_it_and_replaced_after_the_timeout(
    make_group, tmp_path, monkeypatch
):
    monkeypatch.setattr("raytrainer.driver.hangs.ANSWER_S", 1.0)
    group = make_group(hang_warning_s=2.0, hang_timeout_s=8.0)
    pids = pids_of(group)
    result = group.call("train", (9,), {"fail": "stop", "at": 5, "every": 3})
    assert result == {"step": 9, "first": 3, "attempt": 1, "stopped": False}
    notes = [event.text for event in make_group.events if isinstance(event, Note)]
    warning = next(text for text in notes if text.startswith("No progress for "))
    assert "step 5 was done" in warning
    assert "Rank 0 waits for the others in all_reduce (driver/toy.py:" in warning
    assert f"rank 1 did not come: process {pids[1]} on " in warning
    assert "is stopped, by SIGSTOP or a debugger" in warning
    restart = next(text for text in notes if "Starting the workers again" in text)
    assert "rank 1 did not come" in restart
    assert restart.endswith("(restart 1 of at most 3).")
    assert "in all_reduce" in (tmp_path / "logs" / "rank-0.log").read_text()


def test_a_group_does_not_keep_what_shows_its_events_and_so_not_its_trainer(tmp_path):
    class Screen:
        def __init__(self):
            self.trainer = ToyTrainer(directory=str(tmp_path))
            self.group = WorkerGroup(self.trainer, toy_args(tmp_path), self.show, open_session=TOY)

        def show(self, event):
            pass

    lost = weakref.ref(Screen().trainer)
    gc.collect()
    assert lost() is None, "otherwise the group never ends"


def test_idle_workers_leave_and_what_they_held_stays(make_group):
    group = make_group(worker_idle_timeout_s=0.5)
    pids = pids_of(group)
    wait_until(lambda: not any(map(is_alive, pids)))
    assert group.final_weights()["weights"].tolist() == [0, 1, 2, 3]
    with pytest.raises(GroupClosedError):
        group.call("echo", (1,))


def test_new_group_ends_idle_ones_and_a_lost_trainer_ends_its_own(make_group, tmp_path):
    first = make_group()
    first_pids = pids_of(first)
    trainer = ToyTrainer(directory=str(tmp_path))
    second = WorkerGroup(trainer, toy_args(tmp_path), lambda _: None, open_session=TOY)
    second.start()
    assert not first.is_open
    assert first.final_weights() is not None
    second_pids = pids_of(second)
    wait_until(lambda: not any(map(is_alive, first_pids)))
    del trainer
    gc.collect()
    wait_until(lambda: not any(map(is_alive, second_pids)))


def test_a_ray_that_nothing_joins_gives_an_elastic_group_what_it_has_room_for_at_once(make_group):
    half = ray.cluster_resources()["CPU"] // 2
    with at_most(30.0):
        group = make_group(num_workers=(1, 3), resources_per_worker={"CPU": half}, elastic_timeout_s=50.0)
        assert group.call("describe")["world"] == 2
    notes = [event.text for event in make_group.events if isinstance(event, Note)]
    assert notes[0].startswith("this Ray is one machine with room for 2 of 3 workers")


def states_of_reservations():
    return {group["state"] for group in placement_group_table().values()}


@ray.remote(num_cpus=0)
class Caller:
    """Calls a group from an actor, whose end does not free what it reserved."""

    def call(self, directory):
        self.trainer = ToyTrainer(directory=str(directory))
        self.group = WorkerGroup(self.trainer, toy_args(directory), print, open_session=TOY)
        self.group.start()
        self.group.call("describe")

    def end(self):
        self.group.end()
        return states_of_reservations()

    def lose(self):
        self.trainer = None
        ray.actor.exit_actor()


def test_in_an_actor_the_room_is_given_back_when_a_group_has_ended_and_when_the_actor_has(tmp_path):
    caller = Caller.remote()
    ray.get(caller.call.remote(tmp_path), timeout=60)
    assert "CREATED" in states_of_reservations()
    assert ray.get(caller.end.remote(), timeout=60) == {"REMOVED"}

    ray.get(caller.call.remote(tmp_path), timeout=60)
    assert "CREATED" in states_of_reservations()
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(caller.lose.remote(), timeout=60)
    wait_until(lambda: states_of_reservations() == {"REMOVED"})
