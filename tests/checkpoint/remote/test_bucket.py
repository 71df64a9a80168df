"""Runs in one process whose output directory is a bucket: everything that works with a directory works."""

from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import transformers

import raytrainer
from raytrainer.checkpoint.remote import fetch
from raytrainer.errors import CheckpointError
from raytrainer.report.directory import run_directory
from raytrainer.report.record import read_record
from raytrainer.storage.stage import stage_of, stage_root
from raytrainer.storage.store import ObjectStore
from raytrainer.telemetry.run_files import RECORD_NAMES
from tests.buckets import SECRET, Fault, saved
from tests.parity.twins import make_samples, make_trainer, rows
from tests.sft import words

STEPS = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2}
BEST = {
    "eval_strategy": "steps",
    "eval_steps": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_loss",
    "greater_is_better": True,  # the loss falls, so the first stays the best
}


def trainer_for(location, **options):
    return make_trainer(raytrainer, location, **{**STEPS, **options})


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def staged_files():
    return [path for path in stage_root().rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    """The weights and logs of the same run into a directory."""
    trainer = trainer_for(tmp_path_factory.mktemp("disk"))
    trainer.train()
    return weights(trainer), rows(trainer)


def test_a_run_into_a_bucket_has_the_losses_and_files_of_one_into_a_directory(
    bucket, proxy, on_disk, tmp_path
):
    disk = trainer_for(tmp_path / "disk")
    disk.train()
    trainer = trainer_for(bucket.uri)
    trainer.train()
    assert bucket.checkpoints() == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    assert rows(trainer) == on_disk[1]
    assert same(weights(trainer), on_disk[0])
    of_disk = {
        path.relative_to(tmp_path / "disk").as_posix()
        for path in (tmp_path / "disk").rglob("*")
        if path.is_file()
    }
    assert set(saved(bucket.objects())) == of_disk - set(RECORD_NAMES)
    with run_directory(bucket.uri) as copy:
        record = read_record(copy)
    assert [attempt.ending for attempt in record.attempts] == ["end"]
    assert [save.step for save in record.saves] == [2, 4, 6]
    logged = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert [sample.value for sample in record.series["loss"]] == logged


def test_a_run_that_stopped_goes_on_bitwise_from_the_newest_checkpoint(memory_bucket, on_disk):
    trainer_for(memory_bucket.uri, max_steps=4, lr_scheduler_type="constant").train()
    quiet = trainer_for(f"{memory_bucket.uri}-quiet", lr_scheduler_type="constant")
    quiet.train()
    trainer = trainer_for(memory_bucket.uri, lr_scheduler_type="constant")
    trainer.train(resume_from_checkpoint=True)
    assert [step for step, *_ in rows(trainer)] == [1, 2, 3, 4, 5, 6]
    assert trainer.state.global_step == 6
    assert same(weights(trainer), weights(quiet))


def test_a_checkpoint_is_resumed_from_by_its_uri_also_into_a_directory(memory_bucket, on_disk, tmp_path):
    trainer_for(memory_bucket.uri).train()
    trainer = trainer_for(tmp_path / "run")
    trainer.train(resume_from_checkpoint=f"{memory_bucket.uri}/checkpoint-2")
    assert same(weights(trainer), on_disk[0])
    assert staged_files() == []


def test_a_damaged_checkpoint_is_skipped_and_the_one_before_it_taken(memory_bucket, on_disk, caplog):
    trainer_for(memory_bucket.uri).train()
    model = memory_bucket.read("checkpoint-6/model.safetensors")
    memory_bucket.write("checkpoint-6/model.safetensors", model[:-1] + bytes([model[-1] ^ 1]))
    memory_bucket.write("checkpoint-4/optimizer.pt", b"short")
    trainer = trainer_for(memory_bucket.uri)
    trainer.train(resume_from_checkpoint=True)
    assert f"{memory_bucket.uri}/checkpoint-6/model.safetensors is damaged" in caplog.text
    assert f"{memory_bucket.uri}/checkpoint-4/optimizer.pt is truncated" in caplog.text
    assert same(weights(trainer), on_disk[0])


def test_a_checkpoint_without_its_manifest_does_not_count(memory_bucket, caplog):
    trainer_for(memory_bucket.uri).train()
    store = ObjectStore(memory_bucket.uri)
    for step in (2, 4, 6):
        store.put_text(f"checkpoint-{step}/checkpoint-is-incomplete.txt", "")
        store.delete(f"checkpoint-{step}/manifest.json")
    with pytest.raises(CheckpointError, match="No valid checkpoint found in output directory"):
        trainer_for(memory_bucket.uri).train(resume_from_checkpoint=True)
    with pytest.raises(CheckpointError, match="is being uploaded or deleted, or that was interrupted"):
        trainer_for(memory_bucket.uri).train(resume_from_checkpoint=f"{memory_bucket.uri}/checkpoint-4")


def test_old_checkpoints_are_deleted_and_the_best_one_is_kept_and_loaded(memory_bucket, tmp_path):
    trainer = trainer_for(memory_bucket.uri, save_total_limit=2, **BEST)
    trainer.train()
    names = {name.partition("/")[0] for name in saved(memory_bucket.objects())}
    assert names == {"checkpoint-2", "checkpoint-6"}
    assert trainer.state.best_model_checkpoint == f"{memory_bucket.uri}/checkpoint-2"
    best = raytrainer.Trainer(
        model=f"{memory_bucket.uri}/checkpoint-2",
        args=raytrainer.TrainingArguments(
            output_dir=str(tmp_path), num_workers=0, use_cpu=True, report_to=[]
        ),
        eval_dataset=make_samples(10),
    )
    metrics = best.evaluate()
    assert metrics["eval_loss"] == pytest.approx(trainer.evaluate()["eval_loss"], abs=1e-6)
    assert same(weights(best), weights(trainer))


def test_one_checkpoint_is_enough_at_the_end_and_it_is_the_best(memory_bucket):
    trainer_for(memory_bucket.uri, save_total_limit=1, **BEST).train()
    assert {name.partition("/")[0] for name in saved(memory_bucket.objects())} == {"checkpoint-2"}


def test_the_best_checkpoint_is_remembered_by_a_run_that_goes_on(memory_bucket):
    trainer_for(memory_bucket.uri, max_steps=4, **BEST).train()
    trainer = trainer_for(memory_bucket.uri, **BEST)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.best_model_checkpoint == f"{memory_bucket.uri}/checkpoint-2"


def test_model_metrics_and_state_are_saved_in_the_bucket(memory_bucket, tmp_path):
    trainer = trainer_for(memory_bucket.uri, save_strategy="no")
    output = trainer.train()
    trainer.save_model()
    trainer.save_model(f"{memory_bucket.uri}/final")
    trainer.save_metrics("train", output.metrics)
    trainer.save_metrics("eval", trainer.evaluate())
    trainer.save_state()
    assert "final/model.safetensors" in memory_bucket.objects()
    assert json.loads(memory_bucket.read("trainer_state.json"))["global_step"] == 6
    combined = json.loads(memory_bucket.read("all_results.json"))
    assert {"train_loss", "eval_loss"} <= combined.keys()
    (tmp_path / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "model" / name).write_bytes(memory_bucket.read(name))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert same(loaded.state_dict(), trainer.model.state_dict())
    assert staged_files() == []
    assert not Path("memory:").exists()


def test_what_is_staged_is_never_more_than_two_checkpoints_and_nothing_after(memory_bucket, monkeypatch):
    sizes = []

    def measure(real):
        def measured(*args, **kwargs):
            sizes.append(sum(path.stat().st_size for path in staged_files()))
            result = real(*args, **kwargs)
            sizes.append(sum(path.stat().st_size for path in staged_files()))
            return result

        return measured

    for name in ("put", "get", "delete", "list"):
        monkeypatch.setattr(ObjectStore, name, measure(getattr(ObjectStore, name)))
    trainer_for(memory_bucket.uri, **BEST, max_steps=4).train()
    trainer_for(memory_bucket.uri, **BEST, save_total_limit=1).train(resume_from_checkpoint=True)
    one = sum(size for name, size in memory_bucket.objects("run/checkpoint-2/").items())
    assert one < max(sizes) < 2.1 * one
    assert staged_files() == []


@pytest.mark.parametrize("at", ["step", "upload"])
def test_nothing_is_staged_after_an_error(memory_bucket, monkeypatch, at):
    trainer = trainer_for(memory_bucket.uri)
    if at == "step":
        monkeypatch.setattr(type(trainer), "training_step", lambda *args, **kwargs: 1 / 0)
        error = ZeroDivisionError
    else:
        monkeypatch.setattr(ObjectStore, "put", lambda *args: os.open("/nowhere/at/all", os.O_RDONLY))
        error = CheckpointError
    with pytest.raises(error):
        trainer.train()
    assert staged_files() == []
    assert not any("manifest" in name for name in memory_bucket.objects())


def test_a_machine_without_room_says_so_before_it_downloads(memory_bucket, monkeypatch):
    trainer_for(memory_bucket.uri).train()
    monkeypatch.setattr(fetch, "_RESERVE_BYTES", 10**18)
    with pytest.raises(CheckpointError, match=r"GB to download.*set RAYTRAINER_STAGE_DIR"):
        fetch.fetch(f"{memory_bucket.uri}/checkpoint-2")


def test_tensorboard_writes_into_the_bucket(memory_bucket):
    trainer = trainer_for(memory_bucket.uri, report_to="tensorboard", max_steps=2)
    trainer.train()
    boards = [name for name in memory_bucket.objects() if name.startswith("runs/")]
    assert len(boards) == 1
    before = memory_bucket.objects()[boards[0]]
    trainer.evaluate()
    assert sum(size for name, size in memory_bucket.objects().items() if name.startswith("runs/")) > before
    assert "logs/reporters.json" in memory_bucket.objects()


def test_credentials_are_in_no_object_no_log_and_no_pickle(bucket, proxy, caplog):
    caplog.set_level(logging.DEBUG)
    trainer = trainer_for(bucket.uri, report_to="tensorboard", max_steps=2)
    trainer.train()
    trainer.save_model()
    written = [bucket.read(name) for name in bucket.objects()]
    assert len(written) > 10
    for content in [*written, caplog.text.encode(), pickle.dumps(trainer), repr(trainer.args).encode()]:
        assert SECRET.encode() not in content


def test_a_server_of_which_every_third_request_fails_costs_time_and_nothing_else(
    bucket, proxy, on_disk, caplog, monkeypatch
):
    def flaky(request):
        if request.number % 3:
            return None
        kinds = (Fault(status=500, code="InternalError"), Fault(status=503, code="SlowDown"), Fault())
        return kinds[request.number // 3 % 3]

    proxy.before = flaky
    monkeypatch.setattr("raytrainer.storage.retry.random.uniform", lambda low, high: 0.1)
    trainer = trainer_for(bucket.uri, save_total_limit=2)
    trainer.train()
    assert bucket.checkpoints() == ["checkpoint-4", "checkpoint-6"]
    assert same(weights(trainer), on_disk[0])
    again = trainer_for(f"s3://{bucket.name}/again")
    again.train(resume_from_checkpoint=f"{bucket.uri}/checkpoint-4")
    assert same(weights(again), on_disk[0])
    failed = [record for record in caplog.records if "is tried again" in record.getMessage()]
    assert len(failed) > 10
    assert all(record.levelno == logging.WARNING for record in failed)
    assert {name.split("/")[0] for name in saved(bucket.objects())} == {"checkpoint-4", "checkpoint-6"}


def test_a_connection_that_stalls_is_given_up_and_the_request_made_again(bucket, proxy, monkeypatch, caplog):
    stalled = []

    def stall(request):
        if request.method == "PUT" and request.key.endswith("model.safetensors") and not stalled:
            stalled.append(request)
            return Fault(stall_s=8.0)
        return None

    proxy.before = stall
    trainer_for(f"{bucket.uri}?request_timeout=1", max_steps=2).train()
    assert len(stalled) == 1
    assert "model.safetensors failed and is tried again" in caplog.text
    assert bucket.checkpoints() == ["checkpoint-2"]


def test_a_server_that_the_uri_names_serves_all_of_a_run(bucket, proxy, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    uri = f"{bucket.uri}?scheme=http&endpoint_override=127.0.0.1:{proxy.port}"
    trainer_for(uri, max_steps=4, **BEST).train()
    trainer = trainer_for(uri, save_total_limit=2, **BEST)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.best_model_checkpoint == uri.replace("/run", "/run/checkpoint-2")
    assert bucket.checkpoints() == ["checkpoint-2", "checkpoint-6"]
    trainer.save_model()
    assert "model.safetensors" in bucket.objects()
    named = trainer_for(uri, **BEST)
    named.train(resume_from_checkpoint=uri.replace("/run", "/run/checkpoint-2"))
    assert named.state.global_step == 6


def test_a_slow_server_costs_time_and_nothing_else(bucket, proxy, on_disk):
    def slow(request):
        time.sleep(0.05)

    proxy.before = slow
    trainer = trainer_for(bucket.uri)
    trainer.train()
    assert same(weights(trainer), on_disk[0])


def test_files_of_many_parts_are_uploaded_and_one_that_failed_leaves_nothing_that_counts(
    bucket, proxy, tmp_path
):
    size = 25 * 1024 * 1024  # S3's parts have 5 MB at least, pyarrow's 10 MB
    path = tmp_path / "large.bin"
    path.write_bytes(os.urandom(size))
    store = ObjectStore(bucket.uri)
    failed = []

    def fail(request):
        if "partNumber=2" in request.path and not failed:
            failed.append(request)
            return Fault(status=500, code="InternalError")
        return None

    proxy.before = fail
    store.put(path, "large.bin")
    assert len(failed) == 1
    assert bucket.read("large.bin") == path.read_bytes()
    store.get("large.bin", tmp_path / "back.bin")
    assert (tmp_path / "back.bin").read_bytes() == path.read_bytes()


def test_a_failed_save_ends_the_run_with_what_to_do(bucket, proxy):
    proxy.before = lambda request: (
        Fault(status=403, code="AccessDenied")
        if request.method == "PUT" and "optimizer" in request.key
        else None
    )
    with pytest.raises(
        CheckpointError, match=r"checkpoint-2 could not be uploaded.*credentials of this machine"
    ):
        trainer_for(bucket.uri).train()
    assert saved(bucket.objects()) == {}


def test_a_later_process_deletes_what_a_killed_one_staged(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYTRAINER_STAGE_DIR", str(tmp_path))
    code = (
        "import os, signal; from raytrainer.storage.stage import stage_of; "
        "(stage_of('s3://bucket/run') / 'left').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert len(list(tmp_path.rglob("left"))) == 1
    mine = stage_of("s3://bucket/run")
    assert mine.is_dir()
    assert list(tmp_path.rglob("left")) == []


def test_a_model_and_its_tokenizer_are_loaded_from_the_bucket(memory_bucket):
    trainer = words.make_trainer(memory_bucket.uri, words.texts(), max_steps=1)
    trainer.train()
    trainer.save_model()
    again = raytrainer.SFTTrainer(
        model=memory_bucket.uri,
        args=words.make_args(f"{memory_bucket.uri}-again", max_steps=1),
        train_dataset=words.texts(),
    )
    assert again.processing_class.get_vocab() == trainer.processing_class.get_vocab()
    assert same(weights(again), weights(trainer))
    again.train()
    assert staged_files() == []
