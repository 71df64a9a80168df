"""Trainers that share one Ray with others, and with their own actor. The Ray of the tests has few CPUs."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import ray
import ray.exceptions
from ray.util.placement_group import placement_group_table

from raytrainer.driver import ray_view
from raytrainer.driver.ray_tables import read_tables
from raytrainer.driver.worker_group import WorkerGroup
from raytrainer.errors import GroupClosedError, PlacementError
from tests.driver.toy import TOY, ToyTrainer, toy_args

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240), pytest.mark.usefixtures("ray_cluster")]

OTHER_PROCESS = """
import sys
from pathlib import Path
from raytrainer.driver import ray_view
from tests.driver.test_ray_view import make_group
ray_view.IDLE_S = 0.5
notes = []
group = make_group(Path(sys.argv[2]), notes, ray_address=sys.argv[1])
print("notes:", [note.text for note in notes if hasattr(note, "text")])
print("echo:", group.call("echo", ("from the other process",)))
group.kill()
"""


def make_group(directory, events=None, **changes):
    trainer = ToyTrainer(directory=str(directory))
    events = [] if events is None else events
    options = {"num_workers": 1, **changes}
    group = WorkerGroup(trainer, toy_args(directory, **options), events.append, open_session=TOY)
    group.trainer = trainer  # a group ends with its trainer
    try:
        group.start()
    except BaseException:
        group.kill()
        raise
    return group


def num_cores():
    return ray.cluster_resources()["CPU"]


def placed_groups():
    return [group for group in placement_group_table().values() if group["state"] == "CREATED"]


@ray.remote
class Holder:
    """Holds CPUs, and may train."""

    def ready(self) -> bool:
        return True

    def train(self, directory: Path, **changes: object) -> tuple[float, str]:
        events: list[object] = []
        group = make_group(directory, events, **changes)
        try:
            return group.call("echo", ("from the actor",)), str(events)
        finally:
            group.kill()


@pytest.fixture
def holder():
    """An actor that holds every CPU."""
    actor = Holder.options(num_cpus=num_cores()).remote()
    assert ray.get(actor.ready.remote(), timeout=60)
    yield actor
    ray.kill(actor)


def test_two_trainers_of_one_process_train_one_after_the_other_where_each_needs_all(tmp_path):
    results, events = {}, []
    first = make_group(tmp_path, num_workers=1)
    assert first.allocation.resources_per_worker == {"CPU": num_cores()}
    thread = threading.Thread(
        target=lambda: results.update(first=first.call("train", (30,), {"fail": "slow"})), daemon=True
    )
    thread.start()
    second = make_group(tmp_path, events, resources_per_worker={"CPU": num_cores()})
    assert second.call("echo", (2,)) == 2
    thread.join(timeout=30)
    assert results["first"]["step"] == 30
    assert not first.is_open
    second.kill()


def test_idle_workers_of_another_process_leave_for_a_trainer_that_waits_and_lose_nothing(tmp_path):
    mine = make_group(tmp_path)
    assert mine.call("echo", (1,)) == 1
    address = ray.get_runtime_context().gcs_address
    done = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, address, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "echo: from the other process" in done.stdout, done.stdout + done.stderr
    with pytest.raises(GroupClosedError):
        mine.call("echo", (2,))
    assert mine.final_weights()["weights"].tolist() == [0, 1, 2, 3]
    mine.kill()


def test_wait_for_what_another_holds_ends_with_an_error_that_names_it(holder, tmp_path):
    with pytest.raises(PlacementError) as caught:
        make_group(tmp_path, placement_timeout_s=2.0)
    text = str(caught.value)
    assert "No room for 1 worker with 1 CPU each (PACK) was free within placement_timeout_s=2 s." in text
    assert f"The cluster has {num_cores():g} CPU; free: 0 CPU" in text
    assert "actor Holder (pid" in text
    assert f": {num_cores():g} CPU" in text
    assert placed_groups() == []
    tables = read_tables()
    assert tables.can_grow is False
    assert tables.is_growing is False
    assert [row.resources["CPU"] for row in tables.actors if row.class_name == "Holder"] == [num_cores()]
    assert all(row.job in tables.jobs for row in tables.actors)


def test_trainer_in_an_actor_that_holds_every_cpu_uses_them_or_says_so_at_once(holder, tmp_path):
    value, events = ray.get(holder.train.remote(tmp_path), timeout=90)
    assert value == "from the actor"
    assert "use those that the actor or task of this trainer reserved" in events
    with pytest.raises(
        ray.exceptions.RayTaskError, match=r"reserved \d+ CPU itself, and keeps them while it waits"
    ):
        ray.get(holder.train.remote(tmp_path, resources_per_worker={"CPU": 1}), timeout=30)


def test_default_workers_take_what_is_free(tmp_path):
    actor = Holder.options(num_cpus=num_cores() - 1).remote()
    assert ray.get(actor.ready.remote(), timeout=60)
    group = make_group(tmp_path)
    assert group.allocation.resources_per_worker == {"CPU": 1.0}
    assert group.call("echo", (1,)) == 1
    group.kill()
    ray.kill(actor)
    assert ray_view.this_place().own == {}
