"""The loop against ``transformers.Trainer``: the same seed gives the same losses, norms, rates and weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import raytrainer
from tests.parity.twins import (
    LIBRARIES,
    TOLERANCE,
    assert_equal_runs,
    eval_losses,
    make_model,
    make_samples,
    make_trainer,
    rows,
)

ALL_EVAL_SAMPLES = 10
"""One batch: over several, transformers weights each by its samples, and raytrainer by its target tokens."""
MICRO_BATCHES = math.ceil(len(make_samples()) / 4)


def train_both(directory: Path, **options: Any) -> tuple[Any, Any]:
    """Both libraries' trainers after the same run."""
    trainers = {}
    for name, library in LIBRARIES.items():
        # transformers seeds in the constructor, so nothing may draw random numbers between that and training.
        trainers[name] = make_trainer(library, directory / name, **options)
        trainers[name].train()
    assert_equal_runs(trainers["ours"], trainers["theirs"])
    return trainers["ours"], trainers["theirs"]


def rates(trainer: Any) -> list[float]:
    return [row[3] for row in rows(trainer)]


def test_defaults(tmp_path: Path) -> None:
    ours, _ = train_both(tmp_path, num_train_epochs=1)
    assert ours.state.global_step == MICRO_BATCHES


def test_max_steps_wins_over_epochs_and_passes_the_end_of_one(tmp_path: Path) -> None:
    ours, theirs = train_both(tmp_path, max_steps=MICRO_BATCHES + 3, num_train_epochs=7)
    assert ours.state.global_step == MICRO_BATCHES + 3
    assert ours.state.num_train_epochs == theirs.state.num_train_epochs == 2


def test_partial_last_accumulation_window_of_uneven_lengths(tmp_path: Path) -> None:
    accumulation = 3
    assert MICRO_BATCHES % accumulation, "the last window would be a whole one"
    assert len({int((sample["labels"] != -100).sum()) for sample in make_samples()}) > 1
    ours, _ = train_both(tmp_path, num_train_epochs=2, gradient_accumulation_steps=accumulation)
    assert ours.state.global_step == 2 * math.ceil(MICRO_BATCHES / accumulation)


def test_fractional_epochs(tmp_path: Path) -> None:
    ours, theirs = train_both(tmp_path, num_train_epochs=1.5)
    assert ours.state.global_step == math.ceil(1.5 * MICRO_BATCHES)
    assert ours.state.epoch == pytest.approx(theirs.state.epoch)
    assert 1 < ours.state.epoch < 2


def test_warmup_and_cosine(tmp_path: Path) -> None:
    ours, _ = train_both(tmp_path, max_steps=8, lr_scheduler_type="cosine", warmup_steps=3)
    assert rates(ours)[:4] == pytest.approx([0, 1e-2 / 3, 2e-2 / 3, 1e-2])
    assert rates(ours)[3:] == sorted(rates(ours)[3:], reverse=True)
    assert rates(ours)[-1] < rates(ours)[3] / 5


def test_weight_decay(tmp_path: Path) -> None:
    both = train_both(tmp_path, max_steps=5, weight_decay=0.3)
    for trainer in both:
        decays = {group["weight_decay"]: len(group["params"]) for group in trainer.optimizer.param_groups}
        assert set(decays) == {0.0, 0.3}
        assert all(decays.values())
    without = make_trainer(raytrainer, tmp_path / "without", max_steps=5)
    without.train()
    assert rows(without)[-1][1] != pytest.approx(rows(both[0])[-1][1], abs=TOLERANCE)


def test_label_smoothing(tmp_path: Path) -> None:
    ours, _ = train_both(tmp_path, max_steps=5, label_smoothing_factor=0.1, gradient_accumulation_steps=2)
    plain = make_trainer(raytrainer, tmp_path / "plain", max_steps=5, gradient_accumulation_steps=2)
    plain.train()
    assert abs(rows(plain)[0][1] - rows(ours)[0][1]) > 10 * TOLERANCE


def test_bf16_computes_in_bf16_and_keeps_weights_in_fp32(tmp_path: Path) -> None:
    trainers, computed = {}, {}
    for name, library in LIBRARIES.items():
        trainers[name] = make_trainer(library, tmp_path / name, max_steps=5, bf16=True)
        seen = computed[name] = set()
        layer = trainers[name].model.model.layers[0].mlp.up_proj
        layer.register_forward_hook(lambda module, args, output, seen=seen: seen.add(output.dtype))
        trainers[name].train()
    assert computed == {"ours": {torch.bfloat16}, "theirs": {torch.bfloat16}}
    assert {value.dtype for value in trainers["ours"].model.parameters()} == {torch.float32}
    assert_equal_runs(trainers["ours"], trainers["theirs"])


@pytest.mark.parametrize(
    ("optimizer", "kind"), [("sgd", torch.optim.SGD), ("adamw_torch", torch.optim.AdamW)]
)
def test_other_optimizers(optimizer: str, kind: type, tmp_path: Path) -> None:
    ours, _ = train_both(tmp_path, max_steps=5, optim=optimizer)
    assert isinstance(getattr(ours.optimizer, "optimizer", ours.optimizer), kind)


def test_gradients_that_are_clipped_hard(tmp_path: Path) -> None:
    ours, _ = train_both(tmp_path, max_steps=5, max_grad_norm=0.05, optim="sgd", learning_rate=1.0)
    assert all(row[2] > 0.05 for row in rows(ours)), "nothing was clipped"


def test_evaluation_and_saves_between_steps_with_dropout(tmp_path: Path) -> None:
    assert make_model().config.attention_dropout > 0
    both = train_both(
        tmp_path,
        max_steps=6,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        per_device_eval_batch_size=ALL_EVAL_SAMPLES,
    )
    assert [step for step, _ in eval_losses(both[0])] == [2, 4, 6]
    for mine, other in zip(*map(eval_losses, both), strict=True):
        assert mine == pytest.approx(other, abs=TOLERANCE)
    for name in LIBRARIES:
        saved = {path.name for path in (tmp_path / name).glob("checkpoint-*")}
        assert saved == {"checkpoint-2", "checkpoint-4", "checkpoint-6"}
    without = make_trainer(raytrainer, tmp_path / "without", model=make_model(dropout=0.0), max_steps=6)
    without.train()
    assert rows(without)[0][1] != pytest.approx(rows(both[0])[0][1], abs=TOLERANCE), "dropout did nothing"


def test_the_best_model_is_the_same(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "best",
        "per_device_eval_batch_size": ALL_EVAL_SAMPLES,
    }
    best = []
    for name, library in LIBRARIES.items():
        trainer = make_trainer(
            library,
            tmp_path / name,
            max_steps=8,
            load_best_model_at_end=True,
            metric_for_best_model="loss",
            **options,
        )
        trainer.train()
        best.append((trainer.state.best_global_step, trainer.state.best_metric, trainer.model.state_dict()))
    assert best[0][0] == best[1][0] > 0
    assert best[0][1] == pytest.approx(best[1][1], abs=TOLERANCE)
    for name, value in best[1][2].items():
        assert torch.allclose(best[0][2][name], value, rtol=0, atol=TOLERANCE), name


@pytest.mark.parametrize(("saver", "resumer"), [("ours", "theirs"), ("theirs", "ours"), ("ours", "ours")])
@pytest.mark.parametrize(
    "step", [pytest.param(3, marks=pytest.mark.slow), 7, pytest.param(9, marks=pytest.mark.slow)]
)
def test_a_checkpoint_goes_on_in_either_trainer(saver: str, resumer: str, step: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "num_train_epochs": 2,
        "gradient_accumulation_steps": 2,
        "save_strategy": "steps",
        "save_steps": 1,
    }
    whole = make_trainer(LIBRARIES[saver], tmp_path / "whole", **options)
    whole.train()
    assert whole.state.global_step == 14, (
        "steps 3 and 9 would not lie within an epoch, and 7 not at the end of one"
    )
    checkpoint = tmp_path / "whole" / f"checkpoint-{step}"
    assert (checkpoint / "optimizer.pt").is_file()
    resumed = make_trainer(LIBRARIES[resumer], tmp_path / "resumed", **options)
    if resumer == "ours":
        # transformers orders samples by the current random state; raytrainer must not depend on what was drawn before.
        torch.manual_seed(99)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    steps_here = {int(path.name.split("-")[1]) for path in (tmp_path / "resumed").glob("checkpoint-*")}
    assert steps_here == set(range(step + 1, 15)), "the run did not go on from the checkpoint"
    assert_equal_runs(resumed, whole)
