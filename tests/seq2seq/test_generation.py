"""Evaluation and prediction with generation: the numbers of transformers, without its defects."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import GenerationConfig

import raytrainer
from raytrainer import ConfigurationError, Seq2SeqTrainer
from tests.seq2seq.reversal import EOS, Pairs, make_model, make_trainer

TOLERANCE = 1e-6


def losses(trainer: Any) -> list[float]:
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def mean_of_predictions(prediction: Any) -> dict[str, float]:
    return {"tokens": float(prediction.predictions.mean()), "count": len(prediction.predictions)}


@pytest.fixture
def ours(tmp_path, request) -> Any:
    return make_trainer(raytrainer, tmp_path, **getattr(request, "param", {}))


@pytest.mark.parametrize("gen_kwargs", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_losses_and_tokens_are_those_of_transformers(tmp_path, gen_kwargs):
    runs = {}
    for library in (raytrainer, transformers):
        trainer = make_trainer(library, tmp_path, compute_metrics=mean_of_predictions)
        trainer.train()
        runs[library] = (
            losses(trainer),
            trainer.predict(Pairs(8), **gen_kwargs),
            trainer.evaluate(**gen_kwargs),
        )
    mine, others = runs[raytrainer], runs[transformers]
    assert mine[0] == pytest.approx(others[0], abs=TOLERANCE)
    assert len({tuple(row) for row in mine[1].predictions.tolist()}) > 1, "generated something"
    assert np.array_equal(mine[1].predictions, others[1].predictions)
    assert mine[2]["eval_tokens"] == others[2]["eval_tokens"]


def test_one_batch_has_the_loss_of_transformers(tmp_path):
    found = [
        make_trainer(library, tmp_path, count=4, compute_metrics=mean_of_predictions).evaluate()["eval_loss"]
        for library in (raytrainer, transformers)
    ]
    assert found[0] == pytest.approx(found[1], abs=TOLERANCE)


def test_the_loss_is_the_same_with_and_without_generation(tmp_path):
    found = [
        make_trainer(
            raytrainer,
            tmp_path,
            predict_with_generate=generates,
            label_smoothing_factor=0.1,
            compute_metrics=lambda prediction: {},
            # Smoothing takes the labels away from the model, as in training.
            eval_dataset=[
                {**row, "decoder_input_ids": make_model()._shift_right(row["labels"][None])[0]}
                for row in Pairs(9).rows
            ],
        ).evaluate()["eval_loss"]
        for generates in (True, False)
    ]
    assert found[0] == found[1]


def test_an_overridden_loss_is_the_loss_beside_generation(tmp_path):
    class Twice(Seq2SeqTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            outputs = model(**inputs)
            return (outputs.loss * 0 + 2.0, outputs) if return_outputs else outputs.loss * 0 + 2.0

    base = make_trainer(raytrainer, tmp_path)
    trainer = Twice(make_model(), base.args, eval_dataset=Pairs(5), compute_metrics=lambda prediction: {})
    assert trainer.evaluate()["eval_loss"] == 2.0


def test_labels_are_filled_up_with_the_ignored_index(ours):
    output = ours.predict(Pairs(3))
    assert output.label_ids.shape == output.predictions.shape == (3, 20)
    assert (output.label_ids[:, 7:] == -100).all()


def test_predictions_can_always_be_decoded(tmp_path):
    """Sequences longer than the config's max_length, and batches of different length: never -100."""
    model = make_model()
    model.generation_config.max_length = 5
    output = make_trainer(raytrainer, tmp_path, model=model).predict(Pairs(11), max_length=23)
    assert output.predictions.shape == (11, 23)
    assert output.predictions.min() >= 0


def test_a_language_model_answers_prompts_of_different_length_without_holes(tmp_path):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=0,
    )
    prompts = [{"input_ids": torch.arange(2, 2 + size)} for size in (3, 5)]
    trainer = make_trainer(
        raytrainer, tmp_path, model=transformers.LlamaForCausalLM(config), per_device_eval_batch_size=1
    )
    output = trainer.predict(prompts, max_new_tokens=4)
    assert output.predictions.shape == (2, 9)
    assert output.predictions[0, 7:].tolist() == [0, 0]
    assert output.predictions[1, :5].tolist() == [2, 3, 4, 5, 6]


def test_data_without_labels_are_predicted_without_a_loss(ours):
    output = ours.predict(Pairs(3, has_labels=False))
    assert output.label_ids is None
    assert "test_loss" not in output.metrics


def test_decoder_inputs_made_of_labels_do_not_give_the_answer_away(tmp_path):
    rows = [{**row, "decoder_input_ids": row["labels"].clamp(min=0)} for row in Pairs(4).rows]
    with_copies, without = (make_trainer(raytrainer, tmp_path).predict(data) for data in (rows, Pairs(4)))
    assert np.array_equal(with_copies.predictions, without.predictions)


def record(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    generate = trainer.model.generate

    def spy(**keywords: Any) -> Any:
        calls.append({name: value for name, value in keywords.items() if not torch.is_tensor(value)})
        return generate(**keywords)

    monkeypatch.setattr(trainer.model, "generate", spy)
    return calls


def test_keywords_of_a_call_win_over_the_arguments_and_end_with_it(tmp_path, monkeypatch):
    trainer = make_trainer(
        raytrainer, tmp_path, count=2, generation_num_beams=2, compute_metrics=lambda prediction: {}
    )
    calls = record(trainer, monkeypatch)
    trainer.evaluate(num_beams=3, max_new_tokens=4)
    trainer.evaluate()
    assert calls == [
        {"synced_gpus": False, "num_beams": 3, "max_new_tokens": 4},
        {"synced_gpus": False, "num_beams": 2, "max_length": 20},
    ]


def test_keywords_hold_for_each_of_several_datasets(tmp_path, monkeypatch):
    trainer = make_trainer(
        raytrainer,
        tmp_path,
        eval_dataset={"a": Pairs(1), "b": Pairs(2)},
        compute_metrics=lambda prediction: {},
    )
    calls = record(trainer, monkeypatch)
    trainer.evaluate(num_beams=3)
    assert [call["num_beams"] for call in calls] == [3, 3]


def test_keywords_without_generation_are_said_to_do_nothing(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="raytrainer.seq2seq.trainer"):
        make_trainer(raytrainer, tmp_path, predict_with_generate=False).evaluate(num_beams=3)
    assert "num_beams configure generation, but with predict_with_generate=False nothing is" in caplog.text


def test_the_generation_config_of_the_arguments_is_used_and_saved(tmp_path):
    config = GenerationConfig(max_length=9, decoder_start_token_id=0, pad_token_id=0, eos_token_id=EOS)
    trainer = make_trainer(raytrainer, tmp_path, generation_max_length=None, generation_config=config)
    assert trainer.predict(Pairs(3)).predictions.shape == (3, 9)
    trainer.save_model(str(tmp_path / "saved"))
    assert GenerationConfig.from_pretrained(tmp_path / "saved").max_length == 9


def test_a_model_that_is_made_on_the_workers_gets_the_generation_config(tmp_path):
    options: dict[str, Any] = {"generation_max_length": None, "generation_config": {"max_length": 9}}
    trainer = make_trainer(raytrainer, tmp_path, model_init=lambda: make_model(), **options)
    assert trainer.model.generation_config.max_length == 9
    trainer = make_trainer(raytrainer, tmp_path, model_init=lambda: make_model(), **options)
    trainer.train()
    assert trainer.model.generation_config.max_length == 9


def test_generating_leaves_the_generation_config_as_it_was(ours):
    before = ours.model.generation_config.to_dict()
    ours.predict(Pairs(2), num_beams=2)
    assert ours.model.generation_config.to_dict() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generation_config": "/nowhere/at/all"}, "is neither a file nor a directory here"),
        ({"model": transformers.T5EncoderModel(make_model().config)}, "a T5EncoderModel cannot generate"),
        ({"model": torch.nn.Linear(2, 2)}, "a Linear cannot generate"),
    ],
    ids=["no_file", "encoder", "module"],
)
def test_what_cannot_generate_is_refused_by_the_constructor(tmp_path, options, message):
    with pytest.raises(ConfigurationError, match=message):
        make_trainer(raytrainer, tmp_path, **options)


def test_a_misspelt_keyword_is_refused_before_anything_starts(ours):
    with pytest.raises(ConfigurationError, match="Did you mean 'num_beams'"):
        ours.evaluate(num_beam=3)
    assert ours._process.session is None


def test_several_sequences_for_a_sample_are_refused(ours):
    with pytest.raises(ConfigurationError, match="returned 6 sequences for 3 samples"):
        ours.predict(Pairs(3), num_beams=2, num_return_sequences=2)


def test_sortish_sampler_decides_the_batches_of_training(tmp_path):
    class Seen(Seq2SeqTrainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            seen.append(inputs["length"].tolist())
            return super().training_step(
                model, {name: value for name, value in inputs.items() if name != "length"}, num_items_in_batch
            )

    seen: list[list[int]] = []
    rows = [{**row, "length": 3 + index % 7} for index, row in enumerate(Pairs(42).rows)]
    args = make_trainer(
        raytrainer, tmp_path, sortish_sampler=True, remove_unused_columns=False, per_device_train_batch_size=6
    ).args
    Seen(make_model(), args, train_dataset=rows).train()
    assert seen[0] == [9] * 6
    assert all(len(set(batch)) == 1 for batch in seen), seen


def test_sortish_sampler_needs_a_dataset_with_a_length(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(Pairs(4).rows)

    base = make_trainer(raytrainer, tmp_path, sortish_sampler=True)
    with pytest.raises(ConfigurationError, match="a Stream without a length"):
        Seq2SeqTrainer(make_model(), base.args, train_dataset=Stream()).train()
