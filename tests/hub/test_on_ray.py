"""Rank 0 has the token and uploads while training, the driver uploads afterwards; no file of Ray contains the token."""

from __future__ import annotations

from pathlib import Path

import pytest

from raytrainer.checkpoint.scan import newest_checkpoint
from tests.hub.on_workers import PointsAt, TellsToken, digest
from tests.hub.server import TOKEN
from tests.hub.test_secrecy import holding

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def test_workers_upload_and_then_the_driver_does(
    hub, make, tmp_path: Path, ray_directory: Path, capfd
) -> None:
    told = tmp_path / "told"
    told.mkdir()
    trainer = make(
        num_ranks=2,
        hub_token=TOKEN,
        hub_strategy="checkpoint",
        hub_always_push=True,
        callbacks=[PointsAt(hub.url), TellsToken(told, digest(TOKEN))],
    )
    trainer.train()
    trainer.args.push_to_hub = False
    trainer.evaluate()
    trainer.args.push_to_hub = True
    found = {path.name: path.read_text() for path in told.iterdir()}
    assert found == {"train-0": "the token", "train-1": "none", "evaluate-0": "none", "evaluate-1": "none"}
    assert trainer.args.hub_token == TOKEN
    repo = hub.repo("my-model")
    assert [commit.message for commit in repo.commits] == [f"Training in progress, step {n}" for n in (2, 4)]
    assert "last-checkpoint/rng_state_1.pth" in repo.names(), "both ranks' files are there"
    assert trainer.hub_model_id == "me/my-model", "the driver knows what rank 0 opened"

    trainer.push_to_hub()
    trainer.end()
    card = repo.branches["main"]["README.md"].decode()
    assert "- num_devices: 2\n" in card
    newest = newest_checkpoint(tmp_path / "my-model", report=pytest.fail)
    assert newest is not None
    assert repo.branches["main"]["model.safetensors"] == (newest / "model.safetensors").read_bytes()

    out = capfd.readouterr()
    assert f"checkpoint-4 is on {hub.url}/me/my-model" in out.out
    assert TOKEN not in out.out + out.err
    assert holding(tmp_path, "rank 1") != [], "the search sees what workers wrote"
    assert holding(ray_directory, "raytrainer") != [], "and what Ray did"
    assert holding(tmp_path, TOKEN) + holding(ray_directory, TOKEN) == []
