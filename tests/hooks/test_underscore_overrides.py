"""The underscore methods that libraries override: each override takes effect in the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.utils.data import Sampler, SequentialSampler

import raytrainer
from tests.parity.twins import make_args, make_model, make_samples


def make(cls: type, directory: Path, *, samples: Any = None, **options: Any) -> Any:
    return cls(
        model=make_model(dropout=0.0),
        args=make_args(raytrainer, directory, **{"max_steps": 2, **options}),
        train_dataset=make_samples(16) if samples is None else samples,
        eval_dataset=make_samples(6),
    )


class Backwards(Sampler[int]):
    """Yields the samples in reverse order, each twice, as samplers that repeat prompts do."""

    def __init__(self, dataset: Any) -> None:
        self.order = [index for index in reversed(range(len(dataset))) for _ in range(2)]

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Any:
        return iter(self.order)


class Sees(raytrainer.Trainer):
    """Records the inputs of the model."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        vars(self).setdefault("seen", []).append({name: value.clone() for name, value in inputs.items()})
        return super().compute_loss(model, inputs, *args, **kwargs)


def test_the_train_sampler_orders_the_training_data(tmp_path: Path) -> None:
    class Mine(Sees):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return Backwards(self.train_dataset if train_dataset is None else train_dataset)

    trainer = make(Mine, tmp_path, num_train_epochs=1, max_steps=-1)
    trainer.train()
    assert trainer.state.global_step == 2 * 16 / 4
    expected = [make_samples(16)[index]["input_ids"] for index in (15, 15, 14, 14)]
    assert torch.equal(trainer.seen[0]["input_ids"], torch.stack(expected))


def test_the_eval_sampler_orders_and_selects_the_evaluation_data(tmp_path: Path) -> None:
    class Mine(raytrainer.Trainer):
        def _get_eval_sampler(self, eval_dataset: Any) -> Any:
            return SequentialSampler(range(3))

    predictions = make(Mine, tmp_path).predict(make_samples(6)).predictions
    everything = make(raytrainer.Trainer, tmp_path).predict(make_samples(6)).predictions
    assert predictions.shape[0] == 3
    assert predictions == pytest.approx(everything[:3], abs=1e-6)


def test_prepared_inputs_are_what_the_model_gets(tmp_path: Path) -> None:
    class Mine(Sees):
        def _prepare_inputs(self, inputs: Any) -> Any:
            inputs = super()._prepare_inputs(inputs)
            return {**inputs, "input_ids": torch.full_like(inputs["input_ids"], 7)}

    trainer = make(Mine, tmp_path)
    trainer.train()
    trainer.evaluate()
    assert len(trainer.seen) > 2
    assert all((batch["input_ids"] == 7).all() for batch in trainer.seen)


def test_signature_columns_of_ones_own_reach_the_collator(tmp_path: Path) -> None:
    class Mine(raytrainer.Trainer):
        def _set_signature_columns_if_needed(self) -> None:
            if self._signature_columns is None:
                self._signature_columns = ["prompt"]

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False) -> Any:
            vars(self).setdefault("seen", []).append(sorted(inputs))
            tokens = inputs["prompt"]
            outputs = model(input_ids=tokens, labels=tokens)
            return (outputs.loss, outputs) if return_outputs else outputs.loss

    samples = [{"prompt": sample["input_ids"], "other": torch.zeros(1)} for sample in make_samples(16)]
    trainer = make(Mine, tmp_path, samples=samples)
    trainer.train()
    assert trainer.seen == [["prompt"], ["prompt"]]


def test_a_saved_checkpoint_is_ones_own_matter(tmp_path: Path) -> None:
    class Mine(raytrainer.Trainer):
        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            super()._save_checkpoint(model, trial)
            note = Path(self.args.output_dir) / f"note-{self.state.global_step}.json"
            note.write_text(json.dumps({"wrapped": model is self.model_wrapped, "trial": trial}))

    make(Mine, tmp_path, save_strategy="steps", save_steps=1).train()
    for step in (1, 2):
        assert json.loads((tmp_path / f"note-{step}.json").read_text()) == {"wrapped": True, "trial": None}
        assert (tmp_path / f"checkpoint-{step}" / "manifest.json").is_file()


def test_a_checkpoint_that_an_override_leaves_out_is_not_there(tmp_path: Path) -> None:
    class Mine(raytrainer.Trainer):
        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            if self.state.global_step > 1:
                super()._save_checkpoint(model, trial)

    make(Mine, tmp_path, save_strategy="steps", save_steps=1).train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2"]


def test_what_save_writes_is_part_of_the_checkpoint_and_of_the_model(tmp_path: Path) -> None:
    class Mine(raytrainer.Trainer):
        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            super()._save(output_dir, state_dict=state_dict)
            (Path(output_dir or self.args.output_dir) / "value_head.txt").write_text("mine")

    trainer = make(Mine, tmp_path, save_strategy="steps", save_steps=2)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    for folder in ("checkpoint-2", "final"):
        assert (tmp_path / folder / "value_head.txt").read_text() == "mine"
    assert "value_head.txt" in (tmp_path / "checkpoint-2" / "manifest.json").read_text()


def test_the_best_model_is_loaded_by_an_override(tmp_path: Path) -> None:
    class Mine(raytrainer.Trainer):
        def _load_best_model(self) -> None:
            super()._load_best_model()
            with torch.no_grad():
                self.model.lm_head.weight.fill_(0.5)

    trainer = make(
        Mine,
        tmp_path,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
    )
    trainer.train()
    assert trainer.state.best_model_checkpoint is not None
    assert (trainer.model.lm_head.weight == 0.5).all()


def test_the_optimizer_class_of_a_subclass_trains_what_its_keywords_say(tmp_path: Path) -> None:
    def with_own(base: type) -> type:
        class Mine(base):
            def get_optimizer_cls_and_kwargs(self, args: Any, model: Any = None) -> Any:
                self.scale = torch.nn.Parameter(torch.ones(()))  # of the loss, not of the model
                _, options = super().get_optimizer_cls_and_kwargs(args, model)
                options["optimizer_dict"] = [
                    {"params": [*self.model.parameters()], "lr": 0.05, "weight_decay": 0.5},
                    {"params": [self.scale], "lr": 0.5},
                ]
                return torch.optim.SGD, {
                    name: value for name, value in options.items() if name not in ("betas", "eps", "fused")
                }

            def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
                return super().compute_loss(model, inputs, *args, **kwargs) * self.scale

        return Mine

    ours = make(with_own(raytrainer.Trainer), tmp_path / "ours")
    theirs = with_own(transformers.Trainer)(
        model=make_model(dropout=0.0),
        args=make_args(transformers, tmp_path / "theirs", max_steps=2),
        train_dataset=make_samples(16),
    )
    for trainer in (ours, theirs):
        trainer.train()
    assert float(ours.scale) != 1.0
    torch.testing.assert_close(ours.scale, theirs.scale, rtol=1e-5, atol=1e-6)
    for name, value in theirs.model.state_dict().items():
        torch.testing.assert_close(ours.model.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)
