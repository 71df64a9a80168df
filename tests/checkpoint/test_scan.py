"""Finding the checkpoint to resume from: which is taken, which are skipped, and how that is reported."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import safetensors.torch
import torch

import raytrainer
from raytrainer.checkpoint.scan import (
    check_resumable,
    newest_checkpoint,
    requested_checkpoint,
    sweep_leftovers,
    verify_checkpoint,
)
from raytrainer.errors import CheckpointError
from tests.checkpoint.saving import names, save_small, tree
from tests.parity.twins import make_args, make_trainer, rows


def save_three(run_dir, **options):
    for step in (9, 10, 100):
        save_small(run_dir, step, **options)
    return run_dir / "checkpoint-100"


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "flipped bit": (lambda path: flip_a_bit(path / "nested/weights.bin"), "weights.bin is damaged"),
    "truncated": (
        lambda path: os.truncate(path / "nested/weights.bin", 10),
        "weights.bin is truncated: it has 10 ",
    ),
    "grown": (lambda path: os.truncate(path / "nested/weights.bin", 9999), "weights.bin is too long"),
    "missing": (lambda path: (path / "trainer_state.json").unlink(), "trainer_state.json is missing"),
    "manifest garbage": (
        lambda path: (path / "manifest.json").write_bytes(b"\xff\x00"),
        "manifest.json cannot be read",
    ),
    "manifest bit": (lambda path: flip_a_bit(path / "manifest.json"), "manifest.json cannot be read"),
    "manifest gone": (lambda path: (path / "manifest.json").unlink(), "no manifest.json"),
}


def hf_checkpoint(path, *, step=50):
    """The files that transformers.Trainer writes, with small content."""
    path.mkdir(parents=True)
    safetensors.torch.save_file({"w": torch.ones(3)}, path / "model.safetensors")
    torch.save({"state": {}}, path / "optimizer.pt")
    torch.save({"last_epoch": 1}, path / "scheduler.pt")
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return path


def test_newest_is_by_step_and_not_by_name(tmp_path):
    newest = save_three(tmp_path)
    assert newest_checkpoint(tmp_path, run_id="run", report=pytest.fail) == newest
    assert newest_checkpoint(tmp_path, report=pytest.fail) == newest


@pytest.mark.parametrize("directory", ["empty", "missing"])
def test_without_checkpoints_there_is_no_newest(tmp_path, directory):
    (tmp_path / "empty").mkdir()
    assert newest_checkpoint(tmp_path / directory, report=pytest.fail) is None


def test_a_run_directory_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    def fail(self):
        raise PermissionError("no")

    monkeypatch.setattr("pathlib.Path.iterdir", fail)
    with pytest.raises(CheckpointError, match="cannot be searched"):
        newest_checkpoint(tmp_path, report=pytest.fail)
    with pytest.raises(CheckpointError, match="cannot be searched"):
        sweep_leftovers(tmp_path)


@pytest.mark.parametrize(("damage", "said"), DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("run_id", ["run", None])
def test_a_damaged_newest_is_passed_over_with_a_message_and_the_one_before_is_used(
    tmp_path, damage, said, run_id
):
    damage(save_three(tmp_path))
    reports = []
    found = newest_checkpoint(tmp_path, run_id=run_id, report=reports.append)
    assert found == tmp_path / "checkpoint-10"
    assert len(reports) == 1
    assert reports[0].startswith("checkpoint-100 is skipped")
    if (damage, run_id) != (DAMAGES["manifest gone"][0], None):
        assert said in reports[0]


def test_every_damaged_checkpoint_is_reported_once(tmp_path):
    save_three(tmp_path)
    for step in (9, 10, 100):
        flip_a_bit(tmp_path / f"checkpoint-{step}" / "trainer_state.json")
    reports = []
    assert newest_checkpoint(tmp_path, run_id="run", report=reports.append) is None
    assert [text.split()[0] for text in reports] == ["checkpoint-100", "checkpoint-10", "checkpoint-9"]


def test_older_checkpoints_are_not_even_read_when_the_newest_is_whole(tmp_path):
    newest = save_three(tmp_path)
    flip_a_bit(tmp_path / "checkpoint-10" / "trainer_state.json")
    assert newest_checkpoint(tmp_path, report=pytest.fail) == newest


def test_checkpoints_of_another_run_are_ignored(tmp_path):
    save_small(tmp_path, 10, run_id="mine")
    save_small(tmp_path, 20, run_id="other")
    assert newest_checkpoint(tmp_path, run_id="mine", report=pytest.fail) == tmp_path / "checkpoint-10"
    assert newest_checkpoint(tmp_path, run_id="third", report=pytest.fail) is None
    assert newest_checkpoint(tmp_path, report=pytest.fail) == tmp_path / "checkpoint-20"


def test_files_that_others_put_beside_ours_do_not_matter(tmp_path):
    path = save_small(tmp_path, 10)
    (path / "notes.txt").write_text("mine")
    assert newest_checkpoint(tmp_path, run_id="run", report=pytest.fail) == path


@pytest.mark.parametrize(
    "name", [".checkpoint-99.writing-run-0", ".checkpoint-99.replaced-ab", "checkpoint-99-old"]
)
def test_directories_with_other_names_are_never_taken_for_checkpoints(tmp_path, name):
    path = save_small(tmp_path, 99)
    path.rename(tmp_path / name)
    assert newest_checkpoint(tmp_path, report=pytest.fail) is None


def test_a_checkpoint_of_transformers_is_taken_and_called_unverified(tmp_path):
    save_small(tmp_path, 10)
    path = hf_checkpoint(tmp_path / "checkpoint-50")
    reports = []
    assert newest_checkpoint(tmp_path, report=reports.append) == path
    assert len(reports) == 1
    assert "unverified" in reports[0]


def test_a_restart_never_takes_a_checkpoint_of_transformers(tmp_path):
    hf_checkpoint(tmp_path / "checkpoint-50")
    reports = []
    assert newest_checkpoint(tmp_path, run_id="run", report=reports.append) is None
    assert "this run did not commit it" in reports[0]


def shard(path):
    (path / "model.safetensors").rename(path / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"w": "model-00001-of-00002.safetensors", "v": "model-00002-of-00002.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


HF_DAMAGES = {
    "no state": lambda path: (path / "trainer_state.json").unlink(),
    "half a state": lambda path: (path / "trainer_state.json").write_text('{"global_step": 5'),
    "another json": lambda path: (path / "trainer_state.json").write_text("[]"),
    "no weights": lambda path: (path / "model.safetensors").unlink(),
    "cut weights": lambda path: os.truncate(path / "model.safetensors", 75),
    "cut header": lambda path: os.truncate(path / "model.safetensors", 20),
    "empty weights": lambda path: os.truncate(path / "model.safetensors", 0),
    "missing shard": shard,
    "no optimizer": lambda path: (path / "optimizer.pt").unlink(),
    "cut optimizer": lambda path: os.truncate(path / "optimizer.pt", 300),
    "no schedule": lambda path: (path / "scheduler.pt").unlink(),
    "marked": lambda path: (path / "checkpoint-is-incomplete.txt").touch(),
}


@pytest.mark.parametrize("damage", HF_DAMAGES.values(), ids=HF_DAMAGES)
def test_an_incomplete_checkpoint_of_transformers_is_passed_over(tmp_path, damage):
    hf_checkpoint(tmp_path / "checkpoint-40")
    damage(hf_checkpoint(tmp_path / "checkpoint-50"))
    reports = []
    assert newest_checkpoint(tmp_path, report=reports.append) == tmp_path / "checkpoint-40"
    assert len(reports) == 2


def test_a_checkpoint_of_transformers_with_pytorch_weights_is_taken(tmp_path):
    path = hf_checkpoint(tmp_path / "checkpoint-50")
    (path / "model.safetensors").unlink()
    torch.save({"w": torch.ones(3)}, path / "pytorch_model.bin")
    assert newest_checkpoint(tmp_path, report=lambda text: None) == path


def test_sweep_removes_what_dead_attempts_left_and_nothing_else(tmp_path):
    save_small(tmp_path, 10)
    (tmp_path / "logs").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    before = names(tmp_path)
    for name in (
        ".checkpoint-20.writing-run-0",
        ".checkpoint-5.deleting-12ab",
        ".checkpoint-10.replaced-34cd",
    ):
        shutil.copytree(tmp_path / "checkpoint-10", tmp_path / name)
    sweep_leftovers(tmp_path)
    assert names(tmp_path) == before


def test_sweep_of_a_directory_that_is_not_there_does_nothing(tmp_path):
    sweep_leftovers(tmp_path / "missing")
    assert names(tmp_path) == []


def test_sweep_brings_back_a_replaced_checkpoint_whose_successor_never_came(tmp_path, caplog):
    path = save_small(tmp_path, 10)
    before = tree(tmp_path)
    path.rename(tmp_path / ".checkpoint-10.replaced-34cd")
    sweep_leftovers(tmp_path)
    assert tree(tmp_path) == before
    assert "checkpoint-10 was restored" in caplog.text


def test_sweep_prefers_a_whole_replaced_checkpoint_over_a_damaged_successor(tmp_path):
    path = save_small(tmp_path, 10, attempt=0)
    path.rename(tmp_path / ".checkpoint-10.replaced-34cd")
    flip_a_bit(save_small(tmp_path, 10, attempt=1) / "trainer_state.json")
    sweep_leftovers(tmp_path)
    assert verify_checkpoint(path).attempt == 0
    assert names(tmp_path) == ["checkpoint-10"]


def test_sweep_does_not_bring_back_what_is_damaged(tmp_path):
    path = save_small(tmp_path, 10)
    flip_a_bit(path / "trainer_state.json")
    path.rename(tmp_path / ".checkpoint-10.replaced-34cd")
    sweep_leftovers(tmp_path)
    assert names(tmp_path) == []


def test_ours_and_those_of_transformers_are_resumable(tmp_path):
    check_resumable(save_small(tmp_path, 10))
    check_resumable(hf_checkpoint(tmp_path / "checkpoint-50"))


def test_a_checkpoint_without_optimizer_is_resumable_when_it_was_named(tmp_path):
    path = hf_checkpoint(tmp_path / "checkpoint-50")
    (path / "optimizer.pt").unlink()
    (path / "scheduler.pt").unlink()
    check_resumable(path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_text("x"), "is a file"),
        (lambda path: path.mkdir(), "is an empty directory"),
        (lambda path: (path.mkdir(), (path / "a.txt").touch()), "is not a checkpoint"),
        (lambda path: DAMAGES["truncated"][0](save_small(path.parent, 30)), "is truncated"),
        (lambda path: HF_DAMAGES["cut weights"](hf_checkpoint(path)), "where its header says"),
    ],
    ids=["missing", "file", "empty", "other", "ours damaged", "theirs damaged"],
)
def test_what_cannot_be_resumed_from_is_refused_with_its_neighbors(tmp_path, make, said):
    save_small(tmp_path, 10)
    save_small(tmp_path, 20)
    make(tmp_path / "checkpoint-30")
    with pytest.raises(CheckpointError) as caught:
        check_resumable(tmp_path / "checkpoint-30")
    assert said in str(caught.value)
    assert "checkpoint-20, checkpoint-10" in str(caught.value)


def test_naming_a_run_directory_lists_the_checkpoints_in_it(tmp_path):
    save_small(tmp_path / "run", 10)
    with pytest.raises(
        CheckpointError, match=r"is not a checkpoint.*In .*run there are checkpoint-10; name one"
    ):
        check_resumable(tmp_path / "run")


def test_naming_something_where_no_checkpoints_are_says_so(tmp_path):
    with pytest.raises(CheckpointError, match=r"does not exist\. There is no checkpoint in"):
        check_resumable(tmp_path / "typo")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["pytorch_model_fsdp_0/__0_0.distcp"], "accelerate merge-weights"),
        (["zero_to_fp32.py", "global_step5/zero_pp_rank_0_mp_rank_00_optim_states.pt"], "zero_to_fp32.py"),
    ],
)
def test_shards_of_other_libraries_are_refused_with_the_command_that_converts_them(tmp_path, names, words):
    path = tmp_path / "checkpoint-5"
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"x")
    (path / "trainer_state.json").write_text('{"global_step": 5}')
    with pytest.raises(CheckpointError, match=words):
        check_resumable(path)


def run_with_weights(tmp_path, **options):
    trainer = make_trainer(raytrainer, tmp_path, save_strategy="steps", save_steps=2, **options)
    trainer.train()
    return trainer


def in_shards(path):
    """Each tensor in a file of its own, as people do to load a large model with little memory."""
    whole = safetensors.torch.load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    files = {name: f"model-{index:05}-of-{len(whole):05}.safetensors" for index, name in enumerate(whole, 1)}
    for name, file in files.items():
        safetensors.torch.save_file({name: whole[name]}, path / file)
    index = {"metadata": {}, "weight_map": files}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def with_torch(path):
    torch.save(safetensors.torch.load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()


@pytest.mark.parametrize("convert", [in_shards, with_torch])
def test_weights_that_a_user_converted_are_resumed_from_when_named_and_that_is_said(
    tmp_path, convert, caplog
):
    whole = run_with_weights(tmp_path, max_steps=4)
    convert(tmp_path / "checkpoint-2")
    resumed = make_trainer(raytrainer, tmp_path, max_steps=4)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert rows(resumed) == rows(whole)
    assert "not in model.safetensors as they were saved" in caplog.text


def test_a_conversion_that_lost_a_shard_is_refused(tmp_path):
    run_with_weights(tmp_path, max_steps=2)
    in_shards(tmp_path / "checkpoint-2")
    next((tmp_path / "checkpoint-2").glob("model-00002-*")).unlink()
    with pytest.raises(CheckpointError, match=r"index\.json names model-00002"):
        check_resumable(tmp_path / "checkpoint-2")


def test_changed_weights_are_resumed_from_once_what_marks_them_as_ours_is_deleted(tmp_path):
    run_with_weights(tmp_path, max_steps=4)
    checkpoint = tmp_path / "checkpoint-2"
    weights = safetensors.torch.load_file(checkpoint / "model.safetensors")
    safetensors.torch.save_file(
        {name: 2 * value for name, value in weights.items()}, checkpoint / "model.safetensors"
    )
    with pytest.raises(
        CheckpointError, match=r"changed its files on purpose, delete manifest\.json and loop"
    ):
        check_resumable(checkpoint)
    (checkpoint / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no manifest\.json"):
        check_resumable(checkpoint)
    (checkpoint / "loop_state.json").unlink()
    resumed = make_trainer(raytrainer, tmp_path, max_steps=4)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert [row[0] for row in rows(resumed)] == [1, 2, 3, 4]


class Seen(torch.nn.Module):
    """Remembers the inputs of all of its batches."""

    def __init__(self):
        super().__init__()
        self.register_buffer("inputs", torch.zeros(0))

    def forward(self, values):
        self.inputs = torch.cat([self.inputs, values])

    def _load_from_state_dict(self, state, prefix, *args):
        self.inputs = torch.empty_like(state[f"{prefix}inputs"])
        super()._load_from_state_dict(state, prefix, *args)


class Growing(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(1, 1)
        self.seen = Seen()

    def forward(self, labels):
        self.seen(labels)
        return {"loss": self.line(labels[:, None]).square().mean()}


def test_a_buffer_that_grows_is_resumed_if_its_module_loads_itself(tmp_path):
    def trainer():
        torch.manual_seed(0)
        return raytrainer.Trainer(
            model=Growing(),
            args=make_args(raytrainer, tmp_path, max_steps=4, save_strategy="steps", save_steps=2),
            train_dataset=[{"labels": torch.tensor(float(number))} for number in range(32)],
        )

    whole, resumed = trainer(), trainer()
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert len(whole.model.seen.inputs) == 16
    assert torch.equal(resumed.model.seen.inputs, whole.model.seen.inputs)
    assert rows(resumed) == rows(whole)


def test_auto_takes_the_newest_checkpoint(tmp_path):
    newest = save_three(tmp_path)
    assert requested_checkpoint(tmp_path, "auto", report=pytest.fail) == newest


def test_auto_passes_over_a_damaged_newest_and_says_so(tmp_path):
    flip_a_bit(save_three(tmp_path) / "nested/weights.bin")
    said = []
    assert requested_checkpoint(tmp_path, "auto", report=said.append) == tmp_path / "checkpoint-10"
    assert len(said) == 1


@pytest.mark.parametrize("directory", ["", "not there"])
def test_auto_begins_anew_where_there_is_no_checkpoint(tmp_path, directory):
    assert requested_checkpoint(tmp_path / directory, "auto", report=pytest.fail) is None


def test_auto_does_not_begin_anew_over_checkpoints_that_are_all_damaged(tmp_path):
    save_small(tmp_path, 9)
    flip_a_bit(tmp_path / "checkpoint-9/nested/weights.bin")
    with pytest.raises(CheckpointError, match=r"no valid checkpoint in .*damaged ones: checkpoint-9"):
        requested_checkpoint(tmp_path, "auto", report=lambda _: None)


def test_a_script_that_resumes_with_auto_can_be_run_again_as_it_is(tmp_path):
    """The first run ends at step 2 of 4; the same call goes on from there, and has the weights of one run."""

    def weights(directory, *stops):
        for steps in (*stops, 4):
            trainer = make_trainer(raytrainer, directory, max_steps=4, save_strategy="steps", save_steps=1)
            if steps < 4:
                trainer.add_callback(StopAt(steps))
            trainer.train(resume_from_checkpoint="auto")
            assert trainer.state.global_step == steps
        return trainer.model.state_dict()

    interrupted, quiet = weights(tmp_path / "a", 2), weights(tmp_path / "b")
    assert all(torch.equal(interrupted[name], quiet[name]) for name in quiet)


class StopAt(raytrainer.TrainerCallback):
    """Ends training at a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step
