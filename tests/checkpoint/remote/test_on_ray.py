"""Ray workers that shard a model and upload their own shards; one of them is killed while it does."""

from __future__ import annotations

import glob
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from raytrainer.report.directory import run_directory
from raytrainer.report.record import read_record
from raytrainer.storage.stage import stage_of
from tests.buckets import Bucket, Proxy
from tests.faults.victims import CountShards, make_trainer, outcome

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]


class TellPid(TrainerCallback):
    """Writes the process id of each rank to a file."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        (Path(self.directory) / f"pid-{args.process_index}").write_text(str(os.getpid()))


def location(bucket: Bucket, proxy: Proxy, name: str) -> str:
    """The workers of the tests' Ray have credentials; the URI says where the server of this test is."""
    return f"s3://{bucket.name}/{name}?scheme=http&endpoint_override=127.0.0.1:{proxy.port}"


@pytest.fixture
def quiet(ray_cluster: Any, tmp_path: Path) -> Any:
    """The run that nobody kills, into a directory."""
    trainer = make_trainer(tmp_path / "quiet", fsdp="full_shard")
    trainer.train()
    found = outcome(trainer)
    trainer.end()
    return found


def test_a_rank_that_is_killed_while_it_uploads_its_shards_changes_nothing(
    quiet: Any, bucket: Bucket, proxy: Proxy, tmp_path: Path
) -> None:
    killed: list[str] = []

    def kill(request: Any) -> None:
        key = request.key
        if (
            request.method == "PUT"
            and key.startswith("run/checkpoint-6/optimizer/shard-00002")
            and not killed
        ):
            killed.append(key)
            os.kill(int((tmp_path / "pid-1").read_text()), signal.SIGKILL)

    proxy.after = kill
    shards = CountShards()
    uri = location(bucket, proxy, "run")
    trainer = make_trainer(
        uri, shards, TellPid(str(tmp_path)), fsdp="full_shard", save_total_limit=2, eval_strategy="epoch"
    )
    trainer.train()
    assert killed
    assert shards.num_shards == len(list(trainer.model.parameters()))
    weights, losses, evaluations = outcome(trainer)
    assert losses == quiet[1]
    assert evaluations == quiet[2]
    assert all(torch.equal(weights[name], value) for name, value in quiet[0].items())
    assert bucket.checkpoints() == ["checkpoint-10", "checkpoint-12"]
    files = bucket.objects("run/checkpoint-12/")
    assert {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"} <= files.keys()
    assert {"optimizer/shard-00001.safetensors", "optimizer/shard-00002.safetensors"} <= files.keys()
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= files.keys()
    manifest = json.loads(bucket.read("checkpoint-12/manifest.json"))
    assert manifest["world_size"] == 2
    trainer.save_model()
    assert "model.safetensors" in bucket.objects()
    trainer.end()
    with run_directory(uri) as copy:
        record = read_record(copy)
    assert [attempt.ending for attempt in record.attempts] == ["restart", "end"]
    told = [one for one in record.happenings if one.kind == "restart"]
    assert [one.rank for one in told] == [None], "the driver says why"
    assert [save.step for save in record.saves][-1] == 12
    logs = [bucket.read(f"logs/rank-{rank}.log").decode() for rank in (0, 1)]
    assert all("attempt 1" in log and "attempt 2" in log for log in logs)
    assert staged(uri) == []

    resumed = make_trainer(uri, fsdp="full_shard", num_train_epochs=3)
    resumed.train(resume_from_checkpoint=location(bucket, proxy, "run/checkpoint-10"))
    assert resumed.state.global_step == 18
    resumed.end()
    assert staged(uri) == []


def staged(uri: str) -> list[str]:
    """What other processes of this machine have staged for a run."""
    mine = stage_of(uri)
    roots = [mine.parent.parent, Path(f"/tmp/raytrainer-stage-{os.getuid()}")]
    return [
        name
        for root in roots
        for name in glob.glob(f"{root}/*/{mine.name}/*")
        if not name.startswith(f"{mine}/")
    ]
