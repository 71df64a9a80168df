"""PEFT: adapters train as under ``transformers.Trainer``, and checkpoints contain only them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import raytrainer
from tests.parity.twins import LIBRARIES, TOLERANCE, make_model, make_trainer, rows

peft = pytest.importorskip("peft")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_adapted() -> Any:
    base = make_model()
    torch.manual_seed(3)
    config = peft.LoraConfig(
        r=4, lora_dropout=0.1, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    model = peft.get_peft_model(base, config)
    with torch.no_grad():  # else the first step moves one of the two matrices only
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model


def adapter_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in peft.get_peft_model_state_dict(model).items()}


def assert_same_adapter(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


SAVES: dict[str, Any] = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}


def test_adapters_train_as_under_transformers(tmp_path: Path) -> None:
    trained = {}
    for name, library in LIBRARIES.items():
        trained[name] = make_trainer(library, tmp_path / name, model=make_adapted(), max_steps=5)
        trained[name].train()
    ours, theirs = trained["ours"], trained["theirs"]
    for mine, other in zip(rows(ours), rows(theirs), strict=True):
        assert mine == pytest.approx(other, abs=TOLERANCE)
    start, base = adapter_of(make_adapted()), make_model().state_dict()
    for name, value in adapter_of(theirs.model).items():
        assert torch.allclose(adapter_of(ours.model)[name], value, rtol=0, atol=TOLERANCE), name
        assert not torch.equal(value, start[name]), f"{name} was not trained"
    kept = ours.model.unload().state_dict()
    assert all(torch.equal(kept[name], value) for name, value in base.items()), "the base model was trained"


def test_a_checkpoint_holds_the_adapter_only_and_peft_reads_it(tmp_path: Path) -> None:
    trainer = make_trainer(raytrainer, tmp_path, model=make_adapted(), **SAVES)
    trainer.train()
    trainer.save_model(str(tmp_path / "export"))
    for directory in (tmp_path / "checkpoint-6", tmp_path / "export"):
        assert not list(directory.glob("model*.safetensors"))
        tensors = safetensors.torch.load_file(directory / "adapter_model.safetensors")
        assert all("lora_" in name for name in tensors)
        read = peft.PeftModel.from_pretrained(make_model(), str(directory))
        assert_same_adapter(adapter_of(read), adapter_of(trainer.model))


def test_resume_with_an_adapter_is_bitwise(tmp_path: Path) -> None:
    whole = make_trainer(raytrainer, tmp_path / "whole", model=make_adapted(), **SAVES)
    whole.train()
    resumed = make_trainer(raytrainer, tmp_path / "resumed", model=make_adapted(), **SAVES)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert rows(resumed) == rows(whole)
    assert_same_adapter(adapter_of(resumed.model), adapter_of(whole.model))


def test_the_best_adapter_is_loaded_at_the_end(tmp_path: Path) -> None:
    seen: dict[int, dict[str, torch.Tensor]] = {}

    class WorseAndWorse(raytrainer.Trainer):
        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
            seen[self.state.global_step] = adapter_of(self.model)
            return {"eval_loss": float(self.state.global_step)}

    options = {**SAVES, "eval_strategy": "steps", "eval_steps": 3, "load_best_model_at_end": True}
    plain = make_trainer(raytrainer, tmp_path, model=make_adapted(), **options)
    trainer = WorseAndWorse(
        model=plain.model, args=plain.args, train_dataset=plain.train_dataset, eval_dataset=plain.eval_dataset
    )
    trainer.train()
    assert trainer.state.best_global_step == 3
    assert_same_adapter(adapter_of(trainer.model), seen[3])
    assert not torch.equal(*(next(iter(seen[step].values())) for step in (3, 6)))


def test_noise_on_the_embeddings_under_an_adapter_is_that_of_transformers(tmp_path: Path) -> None:
    trained = []
    for name, library in LIBRARIES.items():
        trainer = make_trainer(
            library, tmp_path / name, model=make_adapted(), max_steps=3, neftune_noise_alpha=5.0
        )
        trainer.train()
        trained.append(rows(trainer))
    for mine, other in zip(*trained, strict=True):
        assert mine == pytest.approx(other, abs=TOLERANCE)
