"""The arguments of a run lie beside its model as JSON, and come back from there."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import raytrainer
from raytrainer import ConfigurationError, TrainingArguments
from raytrainer.arguments.json_file import write_arguments
from tests.parity.twins import make_args, make_model, make_samples


@dataclass
class MyArguments(TrainingArguments):
    freeze: list[str] = field(default_factory=list)
    clock: Any = None


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fsdp": True, "num_workers": 2},
        {"deepspeed": {"zero_optimization": {"stage": 2}}, "num_workers": 2},
        {
            "accelerator_config": {"even_batches": False},
            "optim": "galore_adamw",
            "optim_target_modules": ["q"],
        },
        {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"},
        {"resources_per_worker": {"CPU": 1}, "warmup_ratio": 0.1, "hub_token": "hf_secret"},
    ],
    ids=range(6),
)
def test_arguments_come_back_from_their_file(options, tmp_path):
    args = TrainingArguments(str(tmp_path), **options)
    write_arguments(tmp_path / "training_args.json", args)
    assert "hf_secret" not in (tmp_path / "training_args.json").read_text()
    again = TrainingArguments.from_json(tmp_path / "training_args.json")
    assert again.to_dict() == args.to_dict()
    assert again.hub_token is None


def test_a_subclass_comes_back_without_what_json_cannot_hold(tmp_path, caplog):
    write_arguments(tmp_path / "a.json", MyArguments(str(tmp_path), freeze=["wte"], clock=object()))
    assert "leaves out clock" in caplog.text
    again = MyArguments.from_json(tmp_path / "a.json")
    assert (again.freeze, again.clock) == (["wte"], None)


def test_a_saved_model_and_a_checkpoint_have_the_arguments_as_they_were_asked_for(tmp_path):
    args = make_args(
        raytrainer, tmp_path, max_steps=1, save_strategy="steps", save_steps=1, dataloader_pin_memory=True
    )
    trainer = raytrainer.Trainer(model=make_model(), args=args, train_dataset=make_samples(8))
    asked = trainer.args.to_dict()
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    for place in ("checkpoint-1", "model"):
        assert TrainingArguments.from_json(tmp_path / place / "training_args.json").to_dict() == asked
    assert not list(tmp_path.rglob("training_args.bin"))


def test_the_documented_lines_write_the_pickle_of_transformers(tmp_path):
    write_arguments(
        tmp_path / "training_args.json", TrainingArguments(str(tmp_path), learning_rate=0.5, num_workers=2)
    )
    page = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text()
    code = page.partition("training_args.bin")[2].partition("```python\n")[2].partition("```")[0]
    exec(code.replace('"model/', f'"{tmp_path}/'), {})
    found = torch.load(tmp_path / "training_args.bin", weights_only=False)
    assert type(found) is transformers.TrainingArguments
    assert found.learning_rate == 0.5


@pytest.mark.parametrize(
    ("text", "words"), [("[]", "holds a list"), ("{", "cannot be read"), (None, "cannot be read")]
)
def test_a_file_that_holds_no_arguments_is_named(text, words, tmp_path):
    path = tmp_path / "training_args.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigurationError, match=f"training_args.json {words}"):
        TrainingArguments.from_json(path)
