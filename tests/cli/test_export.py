"""``raytrainer export`` gives a directory that from_pretrained reads, from checkpoints of every kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM

import raytrainer
from raytrainer.cli.main import main
from tests.parity.twins import make_model, make_trainer

TOKENS = torch.arange(12).unsqueeze(0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    model = make_model(dropout=0.0)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    make_trainer(raytrainer, directory, model=model, max_steps=2, save_strategy="steps", save_steps=2).train()
    return directory / "checkpoint-2"


def logits(directory: Path) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(directory).eval()(TOKENS).logits


def test_an_export_has_the_models_files_and_gives_its_logits(checkpoint, tmp_path, capsys):
    assert main(["export", str(checkpoint), str(tmp_path / "model")]) == 0
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
    }
    assert torch.equal(logits(tmp_path / "model"), logits(checkpoint))
    assert "tensors" in capsys.readouterr().out


def test_tied_weights_are_exported_once(checkpoint, tmp_path):
    assert main(["export", str(checkpoint), str(tmp_path / "model")]) == 0
    names = set(safetensors.torch.load_file(tmp_path / "model" / "model.safetensors"))
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names


def test_a_large_model_is_exported_in_files_of_the_size_with_an_index(checkpoint, tmp_path, capsys):
    target = str(tmp_path / "model")
    assert main(["export", str(checkpoint), target, "--max_shard_size", "30KB", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["directory"] == target
    assert said["bytes"] > 0
    parts = sorted((tmp_path / "model").glob("model-*.safetensors"))
    assert len(parts) > 2
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {part.name for part in parts} <= set(said["files"])
    assert torch.equal(logits(tmp_path / "model"), logits(checkpoint))


def test_an_export_in_bf16_is_half_as_large_and_says_so(checkpoint, tmp_path):
    assert main(["export", str(checkpoint), str(tmp_path / "model"), "--dtype", "bfloat16"]) == 0
    whole = safetensors.torch.load_file(checkpoint / "model.safetensors")
    found = safetensors.torch.load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(found[name], value.bfloat16()) for name, value in whole.items())
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "bfloat16"


def test_an_adapter_is_exported_as_an_adapter(tmp_path):
    source = tmp_path / "checkpoint-1"
    source.mkdir()
    (source / "adapter_config.json").write_text("{}")
    safetensors.torch.save_file({"a": torch.ones(2)}, source / "adapter_model.safetensors")
    assert main(["export", str(source), str(tmp_path / "model")]) == 0
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


@pytest.mark.parametrize("trouble", ["target", "no weights", "damage", "size"])
def test_trouble_is_said_and_leaves_nothing_behind(checkpoint, tmp_path, capsys, trouble):
    source, target, more = checkpoint, tmp_path / "model", []
    if trouble == "target":
        target.mkdir()
        (target / "mine.txt").write_text("kept")
    elif trouble == "no weights":
        source = tmp_path / "empty"
        source.mkdir()
    elif trouble == "damage":
        source = tmp_path / "checkpoint-2"
        source.mkdir()
        for path in checkpoint.iterdir():
            (source / path.name).write_bytes(path.read_bytes())
        body = bytearray((source / "model.safetensors").read_bytes())
        body[-5] ^= 1
        (source / "model.safetensors").write_bytes(body)
    else:
        more = ["--max_shard_size", "many"]
    assert main(["export", str(source), str(target), *more]) == 2
    words = {
        "target": "not empty",
        "no weights": "has no weights",
        "damage": "model.safetensors",
        "size": "5GB",
    }
    assert words[trouble] in capsys.readouterr().err
    assert not target.exists() or (target / "mine.txt").read_text() == "kept"
    assert not list(tmp_path.glob(".*"))


def test_a_checkpoint_in_a_bucket_is_exported_to_a_directory_and_to_a_bucket(
    checkpoint, memory_bucket, tmp_path
):
    for path in checkpoint.iterdir():
        memory_bucket.write(f"checkpoint-2/{path.name}", path.read_bytes())
    assert main(["export", f"{memory_bucket.uri}/checkpoint-2", str(tmp_path / "model")]) == 0
    assert torch.equal(logits(tmp_path / "model"), logits(checkpoint))
    assert main(["export", f"{memory_bucket.uri}/checkpoint-2", f"{memory_bucket.uri}/model"]) == 0
    for path in (tmp_path / "model").iterdir():
        assert memory_bucket.read(f"model/{path.name}") == path.read_bytes()
    assert main(["export", f"{memory_bucket.uri}/checkpoint-2", f"{memory_bucket.uri}/model"]) != 0


def test_a_damaged_checkpoint_in_a_bucket_is_not_exported(checkpoint, memory_bucket, tmp_path, capsys):
    for path in checkpoint.iterdir():
        memory_bucket.write(f"checkpoint-2/{path.name}", path.read_bytes())
    memory_bucket.write("checkpoint-2/config.json", b"{}")
    assert main(["export", f"{memory_bucket.uri}/checkpoint-2", str(tmp_path / "model")]) != 0
    assert f"{memory_bucket.uri}/checkpoint-2/config.json is truncated" in capsys.readouterr().err


def test_a_run_is_no_checkpoint_and_its_newest_one_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for step in (5, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert main(["export", str(tmp_path), str(tmp_path / "model")]) == 2
    assert f"the newest is {tmp_path / 'checkpoint-10'}." in capsys.readouterr().err


def test_a_run_in_a_bucket_is_no_checkpoint_and_its_newest_one_is_named(memory_bucket, tmp_path, capsys):
    for step in (5, 10):
        memory_bucket.write(f"checkpoint-{step}/trainer_state.json", b"{}")
    assert main(["export", memory_bucket.uri, str(tmp_path / "model")]) == 2
    assert f"the newest is {memory_bucket.uri}/checkpoint-10." in capsys.readouterr().err
