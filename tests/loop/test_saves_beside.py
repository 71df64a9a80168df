"""A save that is written beside training holds what a synchronous one does, and is there when it is needed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import raytrainer
from raytrainer import CheckpointError, ConfigurationError
from raytrainer.checkpoint import durable_writes
from raytrainer.checkpoint.background import deletions, writer
from raytrainer.checkpoint.background.pending import PendingSave
from raytrainer.checkpoint.manifest import read_manifest
from raytrainer.checkpoint.names import list_checkpoints, list_leftovers, step_of
from raytrainer.checkpoint.run_storage import DiskStorage
from raytrainer.checkpoint.verify import verify_checkpoint
from tests.checkpoint.background import odd_process
from tests.loop import saves_victim
from tests.loop.saves import Calls, OpenGate, content, killed_runs
from tests.parity.twins import make_trainer, rows
from tests.soak.run import digest

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).parents[2]
EVERY_THIRD: dict[str, Any] = {"max_steps": 9, "save_strategy": "steps", "save_steps": 3}
MERGED: dict[str, Any] = {**EVERY_THIRD, "async_save_overlap": "merge"}


@pytest.fixture
def gate(tmp_path, monkeypatch):
    """A file; until it exists nothing is written beside training."""
    path = tmp_path / "gate"
    use_odd_process(monkeypatch, gate=str(path))
    return path


def use_odd_process(monkeypatch, **options: Any) -> None:
    monkeypatch.setattr(writer, "PROCESS", odd_process.NAME)
    monkeypatch.setenv(odd_process.VARIABLE, json.dumps(options))


def run(directory: Path, *callbacks: Any, **options: Any) -> Any:
    calls = Calls()
    trainer = make_trainer(raytrainer, directory, **{"async_save": True, "report_page": False, **options})
    for callback in (calls, *callbacks):
        trainer.add_callback(callback)
    trainer.calls = calls
    return trainer


class Raises(transformers.TrainerCallback):
    """Raises in a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise RuntimeError("the run fails")


def test_checkpoints_are_bitwise_those_of_synchronous_saves_though_steps_run_meanwhile(tmp_path, gate):
    sync = run(tmp_path / "sync", async_save=False, **EVERY_THIRD)
    sync.train()
    beside = run(tmp_path / "beside", OpenGate(gate, 5), **EVERY_THIRD)
    beside.train()
    assert beside.calls.steps_before_save(3) >= 5, "no step ran while the save was pending"
    assert beside.calls.saves == sync.calls.saves == [3, 6, 9]
    assert rows(beside) == rows(sync)
    for name, value in sync.model.state_dict().items():
        assert torch.equal(beside.model.state_dict()[name], value), name
    for step in (3, 6, 9):
        expected = content(tmp_path / f"sync/checkpoint-{step}")
        found = content(tmp_path / f"beside/checkpoint-{step}")
        assert found.keys() == expected.keys()
        assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"} < found.keys()
        for name, value in expected.items():
            assert found[name] == value, name


def test_a_run_goes_on_from_what_was_saved_and_not_from_what_followed(tmp_path, gate):
    first = run(tmp_path / "run", OpenGate(gate, 5), **EVERY_THIRD)
    first.train()
    assert first.calls.steps_before_save(3) >= 5
    again = run(tmp_path / "again", **EVERY_THIRD)
    again.train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-3"))
    assert rows(again) == rows(first)
    for name, value in first.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name


def test_on_save_comes_with_the_checkpoint_in_place_the_state_of_its_step_and_before_the_end(tmp_path, gate):
    trainer = run(tmp_path / "run", OpenGate(gate, 9), **EVERY_THIRD | {"save_steps": 9})
    trainer.train()
    assert trainer.calls.seen[-2:] == [("save", 9, True), ("end",)]


def test_the_second_save_waits_for_the_first_and_takes_its_memory(tmp_path, monkeypatch):
    sizes = []
    real = writer.BackgroundWriter.order

    def order(self, order):
        sizes.append(self.memory)
        assert self._reply is not None or len(sizes) == 1, "the order before has not ended"
        real(self, order)

    monkeypatch.setattr(writer.BackgroundWriter, "order", order)
    trainer = run(tmp_path, **EVERY_THIRD | {"save_steps": 1})
    trainer.train()
    assert trainer.calls.saves == list(range(1, 10))
    assert len(set(sizes)) == 1
    assert sizes[0] > 0


@pytest.mark.parametrize(
    ("save_steps", "is_ready"), [(3, [1, 2]), (1, []), (9, [])], ids=["later", "at once", "at the end"]
)
def test_memory_is_had_before_the_first_save_if_steps_come_before_it_and_after_it(
    tmp_path, save_steps, is_ready
):
    ready = []

    class Look(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            beside = trainer._process.run.saves_beside
            if beside.writer.memory and not trainer.calls.saves and beside.begun is None:
                ready.append(state.global_step)

    trainer = run(tmp_path, Look(), **EVERY_THIRD | {"save_steps": save_steps})
    trainer.train()
    assert ready == is_ready
    assert trainer.calls.saves[0] == save_steps


def test_nothing_is_left_of_a_run(tmp_path, monkeypatch):
    started = []
    real = writer.BackgroundWriter.start

    def start(self):
        started.append(self)
        real(self)

    monkeypatch.setattr(writer.BackgroundWriter, "start", start)
    num_open = len(os.listdir("/proc/self/fd"))
    run(tmp_path, **EVERY_THIRD).train()
    assert len(set(started)) == 1
    assert started[0].pid is None
    assert started[0].memory == 0
    assert list_leftovers(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) <= num_open


def test_a_save_that_is_due_amid_another_is_made_of_the_state_when_that_is_committed(
    tmp_path, gate, monkeypatch
):
    def has_ended(self: writer.BackgroundWriter) -> bool:
        if gate.exists() and self._reply is None and self._connection is not None:
            self._hear()
        return self._reply is not None

    monkeypatch.setattr(writer.BackgroundWriter, "has_ended", has_ended)
    every = run(tmp_path / "every", async_save=False, **{**EVERY_THIRD, "max_steps": 12, "save_steps": 1})
    every.train()
    merged = run(tmp_path / "merged", OpenGate(gate, 7), **{**MERGED, "max_steps": 12})
    merged.train()
    assert merged.calls.steps_before_save(3) >= 7, "training waited at the save of step 6"
    second = merged.calls.saves[1]
    assert merged.calls.saves == [3, second, 9, 12]
    assert second in (7, 8), "the save of step 6 was not made when that of step 3 was committed"
    assert rows(merged) == rows(every)
    found = content(tmp_path / f"merged/checkpoint-{second}")
    expected = content(tmp_path / f"every/checkpoint-{second}")
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt"):
        assert found[name] == expected[name]
    resumed = run(tmp_path / "merged", **{**MERGED, "max_steps": 12})
    resumed.train(resume_from_checkpoint=str(tmp_path / f"merged/checkpoint-{second}"))
    assert digest(resumed) == digest(every)


def test_a_save_that_was_put_off_is_made_when_training_is_stopped(tmp_path, gate):
    class Stop(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop |= state.global_step == 8

    run(tmp_path / "run", OpenGate(gate, 8), Stop(), **MERGED).train()
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["checkpoint-3", "checkpoint-8"]


def test_a_save_that_was_put_off_is_made_when_the_end_of_its_epoch_is_where_training_stops(tmp_path, gate):
    class Stop(transformers.TrainerCallback):
        def on_evaluate(self, args, state, control, **kwargs):
            if state.epoch == 2:
                signal.raise_signal(signal.SIGINT)
                gate.touch()

    every_epoch = {"num_train_epochs": 3, "save_strategy": "epoch", "eval_strategy": "epoch"}
    run(tmp_path / "run", Stop(), **every_epoch, async_save_overlap="merge").train()
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["checkpoint-13", "checkpoint-26"]


@pytest.mark.parametrize(
    "is_committed_before", [False, True], ids=["as training ends", "after the last step"]
)
def test_a_last_step_whose_save_was_put_off_is_saved_once_by_the_end_of_its_epoch(
    tmp_path, gate, monkeypatch, is_committed_before
):
    every_epoch = {"num_train_epochs": 3, "save_strategy": "epoch"}
    sync = run(tmp_path / "sync", async_save=False, **every_epoch)
    sync.train()
    busy = (lambda _: not gate.exists()) if is_committed_before else (lambda _: True)
    monkeypatch.setattr(PendingSave, "is_busy", busy)
    merged = run(tmp_path / "run", OpenGate(gate, 39), **every_epoch, async_save_overlap="merge")
    merged.train()
    assert merged.calls.saves == [13, 39]
    found, expected = (content(tmp_path / name / "checkpoint-39") for name in ("run", "sync"))
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "loop_state.json"):
        assert found[name] == expected[name], name


@pytest.mark.parametrize("what", ["the output directory", "what is being written"])
def test_a_save_that_is_removed_while_it_is_written_is_made_again_and_training_goes_on(
    tmp_path, gate, monkeypatch, caplog, what
):
    directory = tmp_path / "run"

    class Remove(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 4:
                (written,) = list_leftovers(directory)
                shutil.rmtree(directory if what == "the output directory" else written.path)

    monkeypatch.setattr(PendingSave, "is_busy", lambda _: not gate.exists())
    quiet = run(tmp_path / "quiet", async_save=False, **EVERY_THIRD)
    quiet.train()
    trainer = run(directory, Remove(), OpenGate(gate, 5), **EVERY_THIRD)
    trainer.train()
    assert trainer.calls.saves == [5, 6, 9]
    assert rows(trainer) == rows(quiet)
    for step in (5, 6, 9):
        verify_checkpoint(directory / f"checkpoint-{step}")
    assert list_leftovers(directory) == []
    said = [text for text in caplog.messages if "The save of step 3 was being written" in text]
    assert len(said) == 1
    assert "It is made again" in said[0]


@pytest.mark.parametrize("ends_by", ["itself", "Ctrl-C"])
def test_a_last_save_that_is_removed_while_it_is_written_is_made_again(tmp_path, gate, monkeypatch, ends_by):
    directory, real = tmp_path / "run", PendingSave.stage

    class Interrupt(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5 and ends_by == "Ctrl-C":
                signal.raise_signal(signal.SIGINT)

    def stage(self: PendingSave, write_parts: Any) -> int:
        at_once = real(self, write_parts)
        if not gate.exists():
            shutil.rmtree(directory)
            gate.touch()
        return at_once

    monkeypatch.setattr(PendingSave, "stage", stage)
    trainer = run(directory, Interrupt(), **EVERY_THIRD | {"save_steps": 9})
    trainer.train()
    step = 5 if ends_by == "Ctrl-C" else 9
    assert trainer.calls.saves == [step]
    verify_checkpoint(directory / f"checkpoint-{step}")


def test_an_old_checkpoint_stays_until_a_new_one_is_committed(tmp_path, gate):
    seen = {}

    class Look(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen[state.global_step] = [path.name for path in list_checkpoints(Path(args.output_dir))]

        def on_save(self, args, state, control, **kwargs):
            if state.global_step == 3:
                gate.unlink()

    callbacks = (Look(), OpenGate(gate, 5), OpenGate(gate, 8))
    run(tmp_path / "run", *callbacks, **EVERY_THIRD, save_total_limit=1).train()
    assert [seen[step] for step in (4, 5)] == [[], []]
    assert [seen[step] for step in (7, 8)] == [["checkpoint-3"], ["checkpoint-3"]]
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["checkpoint-9"]


def test_training_goes_on_while_an_old_checkpoint_is_deleted_and_ends_when_it_is_gone(tmp_path, monkeypatch):
    step_is_done = threading.Event()
    deleted = []
    real = durable_writes.delete

    def wait_for_a_step(doomed: Path) -> None:
        deleted.append((doomed.exists(), step_is_done.wait(60)))
        real(doomed)

    class Step(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 8:
                assert not (Path(args.output_dir) / "checkpoint-3").exists()
                step_is_done.set()

    def has_ended(self: writer.BackgroundWriter) -> bool:
        if self._reply is None and self._connection is not None:
            self._hear()
        return self._reply is not None

    monkeypatch.setattr(writer.BackgroundWriter, "has_ended", has_ended)
    monkeypatch.setattr(deletions, "delete", wait_for_a_step)
    trainer = run(tmp_path, Step(), **EVERY_THIRD, save_total_limit=1)
    trainer.train()
    assert deleted[0] == (True, True)
    assert len(deleted) == 2
    assert list_leftovers(tmp_path) == []


def test_the_best_model_is_loaded_when_its_checkpoint_is_there(tmp_path, gate):
    options = {
        "max_steps": 4,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "save_strategy": "steps",
        "save_steps": 4,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
    }
    trainer = run(tmp_path / "run", OpenGate(gate, 4), **options)
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / "run/checkpoint-4")
    assert trainer.calls.saves == [4]


def test_a_full_disk_is_the_error_of_a_synchronous_save_a_step_later(tmp_path, monkeypatch):
    from raytrainer.checkpoint import commit

    use_odd_process(monkeypatch, fails=True)
    beside = run(tmp_path / "run", **EVERY_THIRD)
    with pytest.raises(CheckpointError, match="No space left on device") as found:
        beside.train()
    assert list_checkpoints(tmp_path / "run") == list_leftovers(tmp_path / "run") == []

    def fail(*args):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(commit, "record_files", fail)
    sync = run(tmp_path / "run", async_save=False, **EVERY_THIRD)
    with pytest.raises(CheckpointError) as expected:
        sync.train()
    without_space = [str(one.value).split(" GB free")[1] for one in (found, expected)]
    assert without_space[0] == without_space[1]
    assert getattr(found.value, "__notes__", []) == getattr(expected.value, "__notes__", [])


def test_a_state_that_could_not_be_read_back_is_refused_as_in_a_synchronous_save(tmp_path):
    class Strange(torch.optim.SGD):
        def state_dict(self):
            return {**super().state_dict(), "place": Path("/")}

    for beside in (True, False):
        trainer = run(tmp_path, async_save=beside, **EVERY_THIRD)
        trainer.optimizer = Strange(trainer.model.parameters(), lr=1e-3)
        with pytest.raises(
            CheckpointError, match=r"The state of Strange holds pathlib.* which torch.load refuses"
        ):
            trainer.train()


def test_a_run_that_fails_commits_the_save_that_was_being_written(tmp_path, gate):
    gate_opens = OpenGate(gate, 4)
    trainer = run(tmp_path / "run", gate_opens, Raises(4), **EVERY_THIRD)
    with pytest.raises(RuntimeError, match="the run fails"):
        trainer.train()
    assert read_manifest(tmp_path / "run/checkpoint-3").step == 3
    assert trainer.calls.saves == []
    assert list_leftovers(tmp_path / "run") == []


def test_a_run_that_fails_has_its_own_error_whatever_becomes_of_old_checkpoints(tmp_path, gate, monkeypatch):
    def prune(*args: Any, **kwargs: Any) -> None:
        raise OSError("stale file handle")

    monkeypatch.setattr(DiskStorage, "prune", prune)
    trainer = run(tmp_path / "run", OpenGate(gate, 4), Raises(4), **EVERY_THIRD)
    with pytest.raises(RuntimeError, match="the run fails") as failure:
        trainer.train()
    assert "What follows the save of step 3 failed as well: stale file handle" in failure.value.__notes__
    assert read_manifest(tmp_path / "run/checkpoint-3").step == 3


def test_ctrl_c_ends_with_the_last_step_committed(tmp_path, gate):
    class Interrupt(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 5:
                signal.raise_signal(signal.SIGINT)

    trainer = run(tmp_path / "run", OpenGate(gate, 5), Interrupt(), **EVERY_THIRD)
    trainer.train()
    assert trainer.state.global_step == 5
    assert trainer.calls.saves == [3, 5]


def test_the_death_of_the_process_is_an_error_that_says_so(tmp_path):
    class Kill(transformers.TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            os.kill(trainer._process.run.saves_beside.writer.pid, 9)

    trainer = run(tmp_path, Kill(), **EVERY_THIRD)
    with pytest.raises(
        CheckpointError, match=r"process that writes the checkpoints of this worker .* by signal 9"
    ):
        trainer.train()
    assert [step_of(path) for path in list_checkpoints(tmp_path)] == [3]
    assert list_leftovers(tmp_path) == []


def test_what_a_hook_writes_itself_is_in_the_checkpoint_and_much_of_it_is_told(tmp_path, monkeypatch):
    from raytrainer.loop import saves_beside

    class Own(raytrainer.Trainer):
        def save_model(self, output_dir=None, _internal_call=False):
            super().save_model(output_dir, _internal_call)
            Path(output_dir, "own.bin").write_bytes(b"x" * 4096)

    told = []
    monkeypatch.setattr(saves_beside, "_MUCH_AT_ONCE", 4000)
    monkeypatch.setattr(saves_beside, "tell", lambda runtime, text: told.append(text))
    trainer = run(tmp_path, **EVERY_THIRD)
    trainer.__class__ = Own
    trainer.train()
    assert (tmp_path / "checkpoint-9/own.bin").read_bytes() == b"x" * 4096
    assert len(told) == 1
    assert "were written while training waited" in told[0]


def test_an_override_that_expects_the_checkpoint_is_refused(tmp_path):
    class Own(raytrainer.Trainer):
        def _save_checkpoint(self, model, trial):
            super()._save_checkpoint(model, trial)

    trainer = run(tmp_path, **EVERY_THIRD)
    with pytest.raises(ConfigurationError, match=r"async_save=True commits .* overrides _save_checkpoint"):
        Own(model=trainer.model, args=trainer.args, train_dataset=trainer.train_dataset)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Moment -> the directory of a run that was killed then."""
    root = tmp_path_factory.mktemp("killed")
    return killed_runs(root, saves_victim.MOMENTS)


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.parametrize("moment", saves_victim.MOMENTS)
def test_after_a_kill_at_any_moment_the_last_commit_is_there_and_the_run_ends_bitwise_the_same(
    moment, killed, quiet
):
    directory = killed[moment]
    committed = [4, 8] if moment == "after the rename" else [4]
    assert [step_of(path) for path in list_checkpoints(directory)] == committed
    assert [one.step for one in list_leftovers(directory)] == ([] if committed[-1] == 8 else [8])
    for path in list_checkpoints(directory):
        verify_checkpoint(path)
    resumed = make_trainer(raytrainer, directory, **saves_victim.OPTIONS)
    resumed.train(resume_from_checkpoint=True)
    assert rows(resumed) == rows(quiet)
    for name, value in quiet.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    assert [step_of(path) for path in list_checkpoints(directory)] == [4, 8, 12]
    assert list_leftovers(directory) == []


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """A run with synchronous saves that nobody kills."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    options = saves_victim.OPTIONS | {"async_save": False}
    trainer = make_trainer(raytrainer, tmp_path_factory.mktemp("quiet"), **options)
    trainer.train()
    torch.set_num_threads(threads)
    return trainer
