"""A save beside training into a bucket: what is there is what a save in the loop uploads, whenever a process dies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import raytrainer
from raytrainer import CheckpointError
from raytrainer.checkpoint.background import writer
from raytrainer.checkpoint.manifest import MANIFEST_NAME
from raytrainer.checkpoint.names import INCOMPLETE_NAME
from raytrainer.checkpoint.remote.commit import stage_explained
from raytrainer.checkpoint.verify import verify_checkpoint
from raytrainer.loop import saves_chosen
from raytrainer.storage.stage import stage_of
from raytrainer.storage.store import ObjectStore
from tests.buckets import saved
from tests.checkpoint.background import odd_process
from tests.loop import saves_victim
from tests.loop.saves import Calls, OpenGate, content, killed_runs
from tests.parity.twins import make_trainer, rows

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).parents[3]
EVERY_THIRD: dict[str, Any] = {"max_steps": 9, "save_strategy": "steps", "save_steps": 3}


@pytest.fixture(autouse=True)
def stages(tmp_path, monkeypatch):
    """Below ``tmp_path``."""
    monkeypatch.setenv("RAYTRAINER_STAGE_DIR", str(tmp_path / "stage"))


@pytest.fixture
def uploads(monkeypatch):
    """The files of checkpoints that this process uploads itself."""
    sent: list[str] = []
    put = ObjectStore.put

    def noted(self, path, name):
        if name.startswith("checkpoint-"):
            sent.append(name)
        put(self, path, name)

    monkeypatch.setattr(ObjectStore, "put", noted)
    return sent


def use_odd_process(monkeypatch, **options: Any) -> None:
    monkeypatch.setattr(writer, "PROCESS", odd_process.NAME)
    monkeypatch.setenv(odd_process.VARIABLE, json.dumps(options))


def run(directory: Path, *callbacks: Any, **options: Any) -> Any:
    """A trainer that saves into a bucket which a test sees as a directory: any process opens it by its URI."""
    calls = Calls(directory)
    options = {"async_save": True, "report_page": False, **options}
    trainer = make_trainer(raytrainer, f"local://{directory}", **options)
    for callback in (calls, *callbacks):
        trainer.add_callback(callback)
    trainer.calls = calls
    return trainer


def committed(directory: Path) -> list[int]:
    """Steps whose folder has a manifest."""
    return sorted(
        int(path.parent.name.split("-")[1]) for path in directory.glob(f"checkpoint-*/{MANIFEST_NAME}")
    )


def files_below(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def test_checkpoints_are_bitwise_those_of_saves_in_the_loop_though_steps_run_while_they_are_uploaded(
    tmp_path, monkeypatch, uploads
):
    sync = run(tmp_path / "sync", async_save=False, **EVERY_THIRD)
    sync.train()
    assert "checkpoint-3/model.safetensors" in uploads
    uploads.clear()
    gate = tmp_path / "gate"
    use_odd_process(monkeypatch, upload_gate=str(gate))
    beside = run(tmp_path / "beside", OpenGate(gate, 5), **EVERY_THIRD)
    beside.train()
    assert uploads == [], "the rank uploaded itself"
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
        verify_checkpoint(tmp_path / f"beside/checkpoint-{step}")


def test_nothing_is_left_of_a_save_but_its_files(tmp_path):
    run(tmp_path / "run", **EVERY_THIRD | {"save_steps": 1}).train()
    assert committed(tmp_path / "run") == list(range(1, 10))
    tops = {name.partition("/")[0] for name in saved(dict.fromkeys(files_below(tmp_path / "run"), 0))}
    assert tops == {f"checkpoint-{step}" for step in range(1, 10)}
    assert list((tmp_path / "run").rglob(INCOMPLETE_NAME)) == []
    stage = stage_of(f"local://{tmp_path}/run")
    assert [name for name in files_below(stage) if "checkpoint" in name] == []


def test_the_second_save_waits_for_the_first_and_what_it_replaces_stays_until_then(tmp_path, monkeypatch):
    gate, seen = tmp_path / "gate", {}

    class Look(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen[state.global_step] = committed(tmp_path / "run")

        def on_save(self, args, state, control, **kwargs):
            if state.global_step == 3:
                gate.unlink()

    use_odd_process(monkeypatch, upload_gate=str(gate))
    callbacks = (Look(), OpenGate(gate, 6), OpenGate(gate, 8))
    trainer = run(tmp_path / "run", *callbacks, **EVERY_THIRD, save_total_limit=1)
    trainer.train()
    assert [seen[step] for step in (4, 5, 7, 8)] == [[], [], [3], [3]]
    assert trainer.calls.steps_before_save(3) == 6
    assert committed(tmp_path / "run") == [9]


def test_a_store_that_fails_is_the_error_of_a_save_in_the_loop_and_loses_nothing_earlier(
    tmp_path, monkeypatch
):
    name = "checkpoint-6/optimizer.pt"
    use_odd_process(monkeypatch, denies=name)
    beside = run(tmp_path / "run", **EVERY_THIRD)
    with pytest.raises(CheckpointError, match="Access Denied") as found:
        beside.train()
    assert beside.calls.saves == committed(tmp_path / "run") == [3]
    assert files_below(tmp_path / "run/checkpoint-6") == []
    verify_checkpoint(tmp_path / "run/checkpoint-3")
    put = ObjectStore.put

    def deny(self, path, to):
        if to == name:
            raise PermissionError("Access Denied")
        put(self, path, to)

    monkeypatch.setattr(ObjectStore, "put", deny)
    sync = run(tmp_path / "run", async_save=False, **EVERY_THIRD)
    with pytest.raises(CheckpointError) as expected:
        sync.train()
    assert str(found.value) == str(expected.value)
    assert getattr(found.value, "__notes__", []) == getattr(expected.value, "__notes__", [])


def test_a_full_stage_is_the_error_of_a_save_in_the_loop(tmp_path, monkeypatch):
    use_odd_process(monkeypatch, fails=True)
    with pytest.raises(
        CheckpointError, match=r"its files are staged in .*No space left .* RAYTRAINER_STAGE_DIR"
    ):
        run(tmp_path / "run", **EVERY_THIRD).train()
    assert saved(dict.fromkeys(files_below(tmp_path / "run"), 0)) == {}


def test_of_a_stage_that_was_removed_it_is_not_said_that_space_is_missing(tmp_path):
    with (
        pytest.raises(
            CheckpointError,
            match=r"They were removed, .*RAYTRAINER_STAGE_DIR to a directory that nothing cleans",
        ),
        stage_explained("s3://bucket/run/checkpoint-3", tmp_path / "stage/writing", always=True),
    ):
        (tmp_path / "stage/writing").read_bytes()


def test_what_a_failed_save_should_have_replaced_comes_back(tmp_path, monkeypatch):
    run(tmp_path / "run", async_save=False, **EVERY_THIRD).train()
    before = content(tmp_path / "run/checkpoint-3")
    use_odd_process(monkeypatch, denies=f"checkpoint-3/{MANIFEST_NAME}")
    with pytest.raises(CheckpointError, match="Access Denied"):
        run(tmp_path / "run", **EVERY_THIRD).train()
    assert committed(tmp_path / "run") == [3, 6, 9]
    assert content(tmp_path / "run/checkpoint-3") == before


def test_a_checkpoint_of_another_run_whose_name_is_needed_is_kept(tmp_path):
    run(tmp_path / "run", async_save=False, **EVERY_THIRD).train()
    earlier = content(tmp_path / "run/checkpoint-3")
    run(tmp_path / "run", **EVERY_THIRD).train()
    (kept,) = (tmp_path / "run/earlier-runs").glob("*/checkpoint-3")
    assert content(kept) == earlier


def test_a_run_that_fails_commits_the_save_that_was_being_uploaded(tmp_path, monkeypatch):
    class Raise(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 4:
                raise RuntimeError("the run fails")

    gate = tmp_path / "gate"
    use_odd_process(monkeypatch, upload_gate=str(gate))
    trainer = run(tmp_path / "run", OpenGate(gate, 4), Raise(), **EVERY_THIRD)
    with pytest.raises(RuntimeError, match="the run fails"):
        trainer.train()
    assert committed(tmp_path / "run") == [3]
    assert trainer.calls.saves == []


def test_of_a_save_that_is_dropped_nothing_is_left_and_its_process_uploads_no_more(tmp_path, monkeypatch):
    mark = tmp_path / "run/checkpoint-3" / INCOMPLETE_NAME

    class Leave(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 4:
                odd_process.wait_for(mark)
                raise SystemExit

    use_odd_process(monkeypatch, upload_gate=str(tmp_path / "never"))
    with pytest.raises(SystemExit):
        run(tmp_path / "run", Leave(), **EVERY_THIRD).train()
    assert files_below(tmp_path / "run/checkpoint-3") == []
    assert [name for name in files_below(tmp_path / "stage") if "checkpoint" in name] == []


def test_large_saves_are_uploaded_beside_training_by_default_and_small_ones_in_the_loop(
    tmp_path, monkeypatch, uploads
):
    run(tmp_path / "small", async_save=None, **EVERY_THIRD).train()
    assert "checkpoint-9/model.safetensors" in uploads
    uploads.clear()
    monkeypatch.setattr(saves_chosen, "LEAST", 1)
    run(tmp_path / "large", async_save=None, **EVERY_THIRD).train()
    assert uploads == []
    assert committed(tmp_path / "small") == committed(tmp_path / "large") == [3, 6, 9]
    for step in (3, 6, 9):
        name = f"checkpoint-{step}"
        assert content(tmp_path / "large" / name) == content(tmp_path / "small" / name)


@pytest.mark.parametrize("asked", [None, True])
def test_a_bucket_that_another_process_does_not_see_is_written_in_the_loop_and_that_is_told_to_who_asked(
    asked, memory_bucket, monkeypatch
):
    told: list[str] = []
    monkeypatch.setattr(saves_chosen, "tell", lambda runtime, text: told.append(text))
    monkeypatch.setattr(saves_chosen, "LEAST", 1)
    options = {"async_save": asked, "report_page": False, **EVERY_THIRD}
    make_trainer(raytrainer, memory_bucket.uri, **options).train()
    words = [f"does not see {memory_bucket.uri} as the worker does (FileNotFoundError"] if asked else []
    assert [word in text for word, text in zip(words, told, strict=True)] == [True] * len(words)
    assert {f"checkpoint-{step}/{MANIFEST_NAME}" for step in (3, 6, 9)} < memory_bucket.objects().keys()
    assert [name for name in memory_bucket.objects() if name.startswith(".")] == []


def test_the_process_opens_s3_with_what_its_rank_opens_it_with(bucket, proxy, uploads):
    options = {"async_save": True, "report_page": False, **EVERY_THIRD}
    make_trainer(raytrainer, bucket.uri, **options).train()
    assert uploads == []
    assert bucket.checkpoints() == ["checkpoint-3", "checkpoint-6", "checkpoint-9"]
    written = [one.key for one in proxy.requests if one.method == "PUT" and "/checkpoint-9/" in one.key]
    files = [key.rpartition("/")[2] for key in written if not key.endswith("/")]
    assert (files[0], files[-1]) == (INCOMPLETE_NAME, MANIFEST_NAME)
    assert [name for name in bucket.objects() if name.startswith(".")] == []


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Moment -> the bucket of a run that was killed then."""
    root = tmp_path_factory.mktemp("killed")
    stage = {"RAYTRAINER_STAGE_DIR": str(root / "stage")}
    return killed_runs(root, saves_victim.IN_A_BUCKET, "bucket", environment=stage)


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.parametrize("moment", saves_victim.IN_A_BUCKET)
def test_after_a_kill_at_any_moment_the_last_commit_is_there_and_the_run_ends_bitwise_the_same(
    moment, killed, quiet, monkeypatch
):
    directory = killed[moment]
    monkeypatch.setenv("RAYTRAINER_STAGE_DIR", str(directory.parent / "stage"))
    steps = [4, 8] if moment == "after the manifest is uploaded" else [4]
    assert committed(directory) == steps
    for step in steps:
        verify_checkpoint(directory / f"checkpoint-{step}")
    resumed = make_trainer(raytrainer, f"local://{directory}", **saves_victim.OPTIONS)
    resumed.train(resume_from_checkpoint=True)
    assert rows(resumed) == rows(quiet)
    for name, value in quiet.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    assert committed(directory) == [4, 8, 12]
    assert list(directory.rglob(INCOMPLETE_NAME)) == []
    tops = {name.partition("/")[0] for name in saved(dict.fromkeys(files_below(directory), 0))}
    assert tops == {"checkpoint-4", "checkpoint-8", "checkpoint-12"}


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """A run with saves in the loop that nobody kills."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    options = saves_victim.OPTIONS | {"async_save": False}
    trainer = make_trainer(raytrainer, tmp_path_factory.mktemp("quiet"), **options)
    trainer.train()
    torch.set_num_threads(threads)
    return trainer
