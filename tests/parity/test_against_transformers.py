"""The loop against ``transformers.Trainer``: the same seed gives the same losses, norms, rates and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import raytrainer

TOLERANCE = 1e-6  # fp32 sums in another order

CASES: dict[str, dict[str, Any]] = {
    "plain": {"max_steps": 5},
    "partial_window": {"num_train_epochs": 1.5, "gradient_accumulation_steps": 3},
    "warmup_and_cosine": {"max_steps": 8, "lr_scheduler_type": "cosine", "warmup_steps": 3},
    "weight_decay": {"max_steps": 5, "weight_decay": 0.3},
    "label_smoothing": {"max_steps": 5, "label_smoothing_factor": 0.1, "gradient_accumulation_steps": 2},
    "bf16": {"max_steps": 5, "bf16": True},
    "sgd": {"max_steps": 5, "optim": "sgd"},
    "evaluation_between": {"max_steps": 6, "eval_strategy": "steps", "eval_steps": 2},
}


def make_samples(count: int = 50) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(count):
        tokens = torch.randint(0, 100, (16,), generator=generator)
        labels = tokens.clone()
        labels[int(torch.randint(5, 17, (1,), generator=generator)) :] = -100
        samples.append({"input_ids": tokens, "labels": labels})
    return samples


def make_model() -> transformers.LlamaForCausalLM:
    torch.manual_seed(7)
    config = transformers.LlamaConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        attention_dropout=0.1,
    )
    return transformers.LlamaForCausalLM(config)


def make_trainer(library: Any, directory: Path, **options: Any) -> Any:
    num_ranks = options.pop("num_ranks", 0)
    if library is raytrainer:
        options["num_workers"] = num_ranks
    args = library.TrainingArguments(
        **{
            "output_dir": str(directory),
            "per_device_train_batch_size": 4,
            "logging_steps": 1,
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            "learning_rate": 1e-2,
            "save_strategy": "no",
            **options,
        }
    )
    return library.Trainer(
        model=make_model(), args=args, train_dataset=make_samples(), eval_dataset=make_samples(10)
    )


def rows(trainer: Any) -> list[tuple[int, float, float, float, float]]:
    return [
        (log["step"], log["loss"], log["grad_norm"], log["learning_rate"], log["epoch"])
        for log in trainer.state.log_history
        if "loss" in log
    ]


def assert_equal_runs(ours: Any, theirs: Any) -> None:
    assert len(rows(ours)) == len(rows(theirs)) > 0
    for mine, other in zip(rows(ours), rows(theirs), strict=True):
        assert mine == pytest.approx(other, abs=TOLERANCE)
    start = make_model().state_dict()
    for name, value in theirs.model.state_dict().items():
        assert torch.allclose(ours.model.state_dict()[name], value, rtol=0, atol=TOLERANCE), name
    moved = sum(not torch.equal(value, start[name]) for name, value in ours.model.state_dict().items())
    assert moved > len(start) // 2


def computed_dtypes(trainer: Any) -> set[torch.dtype]:
    seen: set[torch.dtype] = set()
    layer = trainer.model.model.layers[0].mlp.up_proj
    layer.register_forward_hook(lambda module, args, output: seen.add(output.dtype))
    return seen


@pytest.mark.parametrize("case", CASES)
def test_a_run_equals_the_one_of_transformers(case: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    theirs = make_trainer(transformers, tmp_path / "theirs", **CASES[case])
    theirs.train()
    ours = make_trainer(raytrainer, tmp_path / "ours", **CASES[case])
    dtypes = computed_dtypes(ours)
    ours.train()
    assert dtypes == {torch.bfloat16 if case == "bf16" else torch.float32}
    assert_equal_runs(ours, theirs)


@pytest.mark.parametrize(("saver", "resumer"), [("ours", "theirs"), ("theirs", "ours"), ("ours", "ours")])
@pytest.mark.parametrize("step", [3, 6])
def test_a_checkpoint_goes_on_in_either_trainer(saver: str, resumer: str, step: int, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    libraries: dict[str, Any] = {"ours": raytrainer, "theirs": transformers}
    options = {
        "num_train_epochs": 2,
        "gradient_accumulation_steps": 2,
        "save_strategy": "steps",
        "save_steps": 3,
    }
    whole = make_trainer(libraries[saver], tmp_path / "whole", **options)
    whole.train()
    checkpoint = tmp_path / "whole" / f"checkpoint-{step}"
    assert (checkpoint / "optimizer.pt").is_file()
    resumed = make_trainer(libraries[resumer], tmp_path / "resumed", **options)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert_equal_runs(resumed, whole)


class EarlyStoppingCallback(transformers.TrainerCallback):
    """The guide's own example, word for word."""

    def __init__(self, num_steps=10):
        self.num_steps = num_steps

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= self.num_steps:
            return {"should_training_stop": True}
        else:
            return {}


def test_the_guides_early_stopping_stops_at_its_step(tmp_path: Path) -> None:
    trainer = make_trainer(raytrainer, tmp_path, num_train_epochs=3)
    trainer.add_callback(EarlyStoppingCallback())
    trainer.train()
    assert trainer.state.global_step == 10


class OldComputeLoss(raytrainer.Trainer):
    """An override of the time before ``num_items_in_batch``."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False) -> Any:
        outputs = model(input_ids=inputs["input_ids"])
        loss = torch.nn.functional.cross_entropy(outputs.logits[:, -1], inputs["input_ids"][:, 0])
        return (loss, outputs) if return_outputs else loss


@pytest.mark.parametrize("accumulation", [2, 4])
def test_a_mean_loss_is_scaled_to_the_whole_step(accumulation: int, tmp_path: Path) -> None:
    losses = []
    for micro_batches in (1, accumulation):
        trainer = OldComputeLoss(
            model=make_model(),
            args=raytrainer.TrainingArguments(
                output_dir=str(tmp_path),
                num_workers=0,
                use_cpu=True,
                max_steps=3,
                per_device_train_batch_size=8 // micro_batches,
                gradient_accumulation_steps=micro_batches,
                logging_steps=1,
                save_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=make_samples(),
        )
        trainer.model.config.attention_dropout = 0.0
        for module in trainer.model.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.0
        trainer.train()
        losses.append([(row[1], row[2]) for row in rows(trainer)])
    for whole, parts in zip(*losses, strict=True):
        assert whole == pytest.approx(parts, abs=1e-5)


def test_a_nan_loss_is_logged_as_nan(tmp_path: Path) -> None:
    trainer = make_trainer(raytrainer, tmp_path, max_steps=3, learning_rate=1e30)
    trainer.train()
    assert any(row[1] != row[1] for row in rows(trainer))
