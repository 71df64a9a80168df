"""Killing a worker with SIGKILL does not change the result of a run."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from raytrainer.data.ledger_files import read_epoch
from raytrainer.report.record import read_record
from tests.faults.victims import (
    CountShards,
    KillAtStep,
    KillBeforeCommit,
    KillHelper,
    KillInSave,
    augmented,
    helper_pid,
    make_trainer,
    outcome,
)

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

NUM_STEPS = 12
_SEEDED = random.Random(2026)
NUM_KILLS = int(os.environ.get("RAYTRAINER_KILLS", "2"))
"""A run of two takes half a minute; before a release set it to 12."""
_KILLS = [
    (step, number % 2) for number, step in enumerate(_SEEDED.sample(range(1, NUM_STEPS + 1), NUM_STEPS))
][:NUM_KILLS]
KILLS = [_KILLS[first : first + 2] for first in range(0, NUM_KILLS, 2)]
"""Step and rank of the deaths in one run."""
LOADING: dict[str, Any] = {"dataloader_num_workers": 1}


@pytest.fixture(scope="module")
def unkilled(ray_cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    trainer = make_trainer(tmp_path_factory.mktemp("unkilled"))
    trainer.train()
    assert trainer.state.global_step == NUM_STEPS
    result = outcome(trainer)
    trainer.end()
    return result


def assert_same(found: Any, expected: Any) -> None:
    weights, losses, evaluations = found
    assert [step for step, _ in losses] == list(range(1, NUM_STEPS + 1))
    assert losses == expected[1]
    assert evaluations == expected[2]
    assert len(evaluations) == 2
    for name, value in expected[0].items():
        assert torch.equal(weights[name], value), name


def test_helper_processes_killed_in_training_and_after_it_change_nothing(
    unkilled: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    actor = KillHelper(3, "ControlActor", str(tmp_path / "died-actor"))
    controller = KillHelper(9, "ControllerInRoom", str(tmp_path / "died-controller"))
    trainer = make_trainer(tmp_path / "run", actor, controller)
    trainer.train()
    assert {one.name for one in tmp_path.glob("died-*")} == {"died-actor", "died-controller"}
    shown = " ".join(" ".join(capfd.readouterr()).split())
    assert "The process of the control actor, which workers and driver talk through, died (" in shown
    assert "The process of Ray Train's controller, which starts the workers, died (" in shown
    assert "(restart 2 of at most 3)." in shown
    assert "restarted (attempt 3) from checkpoint-" in shown

    raylet = next(one for one in psutil.Process().children(recursive=True) if one.name().startswith("raylet"))
    os.kill(helper_pid("ControlActor", raylet), signal.SIGKILL)
    found = outcome(trainer)  # the weights were with the workers, and end with them
    trainer.end()
    assert_same(found, unkilled)


@pytest.mark.parametrize("kills", KILLS, ids=str)
def test_workers_killed_at_steps_change_nothing(
    unkilled: Any, tmp_path: Path, kills: list[tuple[int, int]]
) -> None:
    markers = {
        tmp_path / f"died-{step}": KillAtStep(step, rank, str(tmp_path / f"died-{step}"))
        for step, rank in kills
    }
    trainer = make_trainer(tmp_path / "run", *markers.values())
    trainer.train()
    assert all(marker.exists() for marker in markers)
    found = outcome(trainer)
    trainer.end()
    assert_same(found, unkilled)


def test_workers_killed_at_each_moment_of_a_save_change_nothing(unkilled: Any, tmp_path: Path) -> None:
    moments = {2: "first_file", 6: "before_manifest", 10: "after_manifest"}
    markers = {step: tmp_path / moment for step, moment in moments.items()}
    kills = [KillInSave(step, moment, str(markers[step])) for step, moment in moments.items()]
    trainer = make_trainer(tmp_path / "run", *kills)
    trainer.train()
    assert all(marker.exists() for marker in markers.values())
    found = outcome(trainer)
    trainer.end()
    assert_same(found, unkilled)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    records = {"events.jsonl", "metrics.jsonl", "report.html", "logs"}
    assert names == {*(f"checkpoint-{step}" for step in range(2, NUM_STEPS + 1, 2)), *records}
    assert_recorded(tmp_path / "run", found)


def test_workers_killed_while_their_saves_are_written_beside_training_change_nothing(
    unkilled: Any, tmp_path: Path
) -> None:
    written, committing = tmp_path / "written", tmp_path / "committing"
    kills = [
        KillBeforeCommit(4, 1, str(written), is_written=False),
        KillBeforeCommit(8, 0, str(committing), is_written=True),
    ]
    trainer = make_trainer(tmp_path / "run", *kills, async_save=True)
    trainer.train()
    assert written.exists()
    assert committing.exists()
    found = outcome(trainer)
    trainer.end()
    assert_same(found, unkilled)
    saved = read_record(tmp_path / "run").saves
    assert {save.step for save in saved} == set(range(2, NUM_STEPS + 1, 2))
    names = {path.name for path in (tmp_path / "run").iterdir() if "checkpoint" in path.name}
    assert names == {f"checkpoint-{step}" for step in range(2, NUM_STEPS + 1, 2)}


def assert_recorded(directory: Path, found: Any) -> None:
    """The files of the run tell of each attempt and death, and no line of them is torn."""
    for name in ("metrics.jsonl", "events.jsonl"):
        text = (directory / name).read_text()
        assert text.endswith("\n")
        assert all(json.loads(line)["v"] == 1 for line in text.splitlines())
    record = read_record(directory)
    assert [attempt.number for attempt in record.attempts] == [0, 1, 2, 3]
    assert [attempt.ending for attempt in record.attempts] == ["restart", "restart", "restart", "end"]
    assert all("died without an exception" in attempt.cause for attempt in record.restarts)
    assert [one.kind for one in record.happenings if one.kind != "warning"] == ["restart"] * 3
    losses = [(one.step, one.value) for one in record.series["loss"] if not one.is_lost]
    assert losses == found[1]
    assert record.state == "finished"


def test_a_worker_killed_beside_loading_processes_that_draw_changes_nothing(
    unkilled: Any, tmp_path: Path
) -> None:
    results: list[Any] = []
    marker = tmp_path / "died"
    for killers in ([], [KillAtStep(5, 1, str(marker))]):
        directory = tmp_path / f"run-{len(results)}"
        trainer = augmented(make_trainer(directory, *killers, **LOADING, debug="sample_ledger"))
        trainer.train()
        results.append(outcome(trainer))
        trainer.end()
        for epoch in (0, 1):
            used = [line for use in read_epoch(directory, epoch).values() for line in use.lines.values()]
            assert sorted(one for line in used for one in line.samples) == list(range(44))
    assert marker.exists()
    attempts = sorted(path.name for path in (directory / "sample_ledger").iterdir())
    assert attempts == ["0001-from-step-0", "0002-from-step-4"]
    for (_, drawn), (_, plain) in zip(results[0][1], unkilled[1], strict=True):
        assert drawn != pytest.approx(plain), "the draws change the losses"
    assert_same(results[1], results[0])


SHARDING: dict[str, dict[str, Any]] = {
    "fsdp": {"fsdp": "full_shard"},
    "zero3": {"deepspeed": {"zero_optimization": {"stage": 3}}},
}


SHARDED_KILLS = [
    ("fsdp", "step_3_rank_1"),
    ("zero3", "first_file"),
    ("fsdp", "first_file"),
    ("zero3", "step_3_rank_1"),
]


@pytest.fixture(scope="module")
def unkilled_in_shards(ray_cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    results = {}
    for backend, options in SHARDING.items():
        shards = CountShards()
        trainer = augmented(make_trainer(tmp_path_factory.mktemp("shards"), shards, **LOADING, **options))
        trainer.train()
        assert shards.num_shards == len(list(trainer.model.parameters()))
        results[backend] = outcome(trainer)
        trainer.end()
    return results


@pytest.mark.parametrize(("backend", "kill"), SHARDED_KILLS[: max(2, NUM_KILLS)])
def test_a_worker_killed_while_parameters_are_sharded_changes_nothing(
    unkilled_in_shards: dict[str, Any], tmp_path: Path, backend: str, kill: str
) -> None:
    marker = tmp_path / "died"
    killer: Any = KillInSave(6, kill, str(marker))
    if kill.startswith("step"):
        _, step, _, rank = kill.split("_")
        killer = KillAtStep(int(step), int(rank), str(marker))
    shards = CountShards()
    trainer = augmented(make_trainer(tmp_path / "run", killer, shards, **LOADING, **SHARDING[backend]))
    trainer.train()
    assert marker.exists()
    assert shards.num_shards == len(list(trainer.model.parameters()))
    found = outcome(trainer)
    trainer.end()
    assert_same(found, unkilled_in_shards[backend])


@pytest.mark.parametrize("damage", ["flipped_bit", "truncated"])
def test_a_damaged_newest_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, damage: str) -> None:
    directory = tmp_path / "run"
    first = make_trainer(directory, num_workers=0, max_steps=6)
    first.train()
    whole = make_trainer(tmp_path / "whole", num_workers=0, max_steps=6)
    whole.train()
    file = directory / "checkpoint-6" / "model.safetensors"
    body = bytearray(file.read_bytes())
    if damage == "flipped_bit":
        body[-5] ^= 1
    else:
        body = body[:-100]
    file.write_bytes(body)
    resumed = make_trainer(directory, num_workers=0, max_steps=6)
    resumed.train(resume_from_checkpoint=True)
    assert json.loads((directory / "checkpoint-4" / "manifest.json").read_text())
    assert [log["step"] for log in resumed.state.log_history if "loss" in log] == [1, 2, 3, 4, 5, 6]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
