"""Training never waits for an upload, and an upload never loses its files."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from transformers import TrainerCallback

from raytrainer.checkpoint.verify import verify_checkpoint
from raytrainer.runtimes.base import Command
from raytrainer.storage.store import ObjectStore
from tests.hub.server import Hub


class Hold(TrainerCallback):
    """Blocks commits on the server until the last step is done."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.commits_when_training_ended: int | None = None
        hub.may_commit.clear()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self.hub.commit_arrived.wait(30)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.commits_when_training_ended = sum(len(repo.commits) for repo in self.hub.repos.values())
        self.hub.may_commit.set()


def committed_steps(hub: Hub) -> list[int]:
    return [int(commit.message.split()[-1]) for commit in hub.repo("my-model").commits]


def folder_of(hub: Hub, name: str, target: Any) -> Any:
    target.mkdir()
    for path, content in hub.repo("my-model").branches["main"].items():
        if path.startswith(f"{name}/"):
            (target / path.removeprefix(f"{name}/")).write_bytes(content)
    return target


def test_training_goes_on_while_the_hub_takes_its_time(hub, make):
    hold = Hold(hub)
    trainer = make(callbacks=[hold])
    trainer.train()
    assert hold.commits_when_training_ended == 0
    assert trainer.state.global_step == 4


def test_the_end_of_training_waits_for_uploads(hub, make):
    make(callbacks=[Hold(hub)]).train()
    assert committed_steps(hub)[-1] == 4


def test_the_newest_of_the_checkpoints_that_wait_is_uploaded(hub, make):
    make(callbacks=[Hold(hub)], save_steps=1).train()
    assert committed_steps(hub) == [1, 4]


def test_always_push_uploads_all_that_wait(hub, make):
    make(callbacks=[Hold(hub)], save_steps=1, hub_always_push=True).train()
    assert committed_steps(hub) == [1, 2, 3, 4]


def test_a_checkpoint_that_all_checkpoints_leaves_out_is_named(hub, make, capsys):
    make(callbacks=[Hold(hub)], save_steps=1, hub_strategy="all_checkpoints").train()
    out = capsys.readouterr().out
    assert [f"checkpoint-{n} was not uploaded" in out for n in (1, 2, 3, 4)] == [False, True, True, False]


class FirstOnly(Hold):
    """Fails every upload after the first, so that the test can inspect the first."""

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.hub.failures["/preupload/"] = 400
        super().on_train_end(args, state, control, **kwargs)


@pytest.mark.parametrize("has_links", [True, False])
def test_retention_takes_nothing_from_an_upload(hub, make, tmp_path, monkeypatch, has_links):
    def refuse(*_: object) -> None:
        raise OSError("no hard links here")

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    make(
        callbacks=[FirstOnly(hub)],
        save_steps=1,
        save_total_limit=1,
        hub_strategy="checkpoint",
    ).train()
    assert not (tmp_path / "my-model" / "checkpoint-1").exists(), "it was pruned while it was being uploaded"
    assert committed_steps(hub) == [1]
    assert verify_checkpoint(folder_of(hub, "last-checkpoint", tmp_path / "copy")).step == 1


def test_no_files_are_held_after_training(hub, make, tmp_path):
    make(callbacks=[Hold(hub)], save_steps=1).train()
    assert [path.name for path in (tmp_path / "my-model").iterdir() if path.name.startswith(".")] == []


def test_files_that_a_killed_attempt_held_are_cleared(hub, make, tmp_path):
    left = tmp_path / "my-model" / ".checkpoint-2.uploading-0123abcd"
    left.mkdir(parents=True)
    make().train()
    assert not left.exists()


class AskToStop(Hold):
    """Presses Ctrl-C while the end of training waits."""

    trainer: Any = None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer._runtime._command = Command.STOP_AFTER_SAVE


def test_ctrl_c_ends_the_wait_and_nothing_else(hub, make, capsys):
    ask = AskToStop(hub)
    trainer = ask.trainer = make(callbacks=[ask])
    assert trainer.train().global_step == 4
    assert "does not wait for the upload" in capsys.readouterr().err
    hub.may_commit.set()
    trainer._finish_current_push()


def test_a_second_training_leaves_an_upload_its_files(hub, make):
    trainer = make(hub_strategy="end")
    trainer.train()
    hub.may_commit.clear()
    future = trainer.push_to_hub(blocking=False)
    assert hub.commit_arrived.wait(30)
    hub.may_commit.set()
    trainer.train()
    assert future.result(0).oid


def test_a_restart_uploads_what_it_goes_on_from(hub, make, tmp_path):
    trainer = make(hub_strategy="checkpoint")
    trainer.train()
    repo = hub.repo("my-model")
    repo.branches["main"] = {}  # the upload died with the attempt that made it
    trainer._process.session.is_restart = True
    trainer.train()
    state = json.loads(repo.branches["main"]["last-checkpoint/trainer_state.json"])
    assert state["global_step"] == 4
    assert verify_checkpoint(folder_of(hub, "last-checkpoint", tmp_path / "copy")).step == 4


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint"])
def test_a_run_into_a_bucket_uploads_what_one_into_a_directory_does(
    hub, make, memory_bucket, tmp_path, strategy
):
    make(hub_strategy=strategy).train()
    expected = set(hub.repo("my-model").branches["main"])
    trainer = make(output_dir=memory_bucket.uri, hub_model_id="in-bucket", hub_strategy=strategy)
    trainer.train()
    assert set(hub.repo("in-bucket").branches["main"]) == expected
    trainer.push_to_hub()
    assert set(hub.repo("in-bucket").branches["main"]) == expected | {"README.md"}
    assert "README.md" in memory_bucket.objects()
    assert [
        path for path in (tmp_path / "stage").rglob("*") if path.is_file() and path.suffix != ".lock"
    ] == []


def test_what_was_saved_into_a_bucket_beside_training_is_uploaded_from_the_files_that_are_here(
    hub, make, tmp_path, monkeypatch
):
    monkeypatch.setenv("RAYTRAINER_STAGE_DIR", str(tmp_path / "stage"))
    make().train()
    expected = set(hub.repo("my-model").branches["main"])
    fetched: list[str] = []
    get = ObjectStore.get

    def noted(self, name, path):
        fetched.append(name)
        get(self, name, path)

    monkeypatch.setattr(ObjectStore, "get", noted)
    beside: list[bool] = []

    class Look(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            beside.append(trainer._process.run.saves_beside is not None)

    trainer = make(
        output_dir=f"local://{tmp_path}/bucket", hub_model_id="beside", async_save=True, callbacks=[Look()]
    )
    trainer.train()
    assert beside
    assert all(beside)
    assert set(hub.repo("beside").branches["main"]) == expected
    assert [name for name in fetched if name.endswith(".safetensors")] == []
