"""What must hold for a Trainer as soon as it is constructed."""

from __future__ import annotations

import accelerate
import pytest
import torch
import transformers
from datasets import Dataset
from transformers import TrainerCallback

from raytrainer import ConfigurationError, Seq2SeqTrainingArguments, Trainer, TrainingArguments
from raytrainer.errors import ModelError
from raytrainer.preflight.construction import check_again, check_trainer
from raytrainer.preflight.facts import TrainerFacts
from raytrainer.preflight.given_objects import model_can_be_trained
from tests.preflight.given import GOOD, Model, Rows, facts


def test_model_may_come_from_a_function():
    check_trainer(facts(model=None, model_init=Model))


@pytest.mark.parametrize(
    ("options", "given", "words"),
    [
        ({}, {"model": None}, "neither model= nor model_init="),
        ({}, {"model_init": Model}, "model= and model_init="),
        ({}, {"model": None, "model_init": 3}, "model_init= is a int"),
        ({}, {"model": 3}, "model= is a int"),
        (
            {},
            {"model": None, "model_init": Model, "optimizers": (object(), None)},
            "optimizers= was given with",
        ),
        (
            {},
            {"model": None, "model_init": Model, "optimizers": (None, object())},
            "optimizers= was given with",
        ),
        (
            {},
            {"optimizers": (object(), None), "optimizer_cls_and_kwargs": (torch.optim.SGD, {})},
            "optimizer_cls_and_kwargs",
        ),
        ({"eval_strategy": "epoch"}, {}, "eval_strategy='epoch' evaluates.*no eval_dataset"),
        ({"eval_on_start": True}, {}, "eval_on_start=True evaluates"),
        ({"batch_eval_metrics": True}, {"compute_metrics": lambda pred: {}}, r"yours takes \['pred'\]"),
        ({}, {"data_collator": 3}, "data_collator= is a int"),
        ({}, {"compute_loss_func": 3}, "compute_loss_func= is a int"),
        ({}, {"compute_loss_func": lambda outputs, labels, count: 0}, "required argument: 'count'"),
        ({}, {"compute_loss_func": lambda outputs: 0}, "too many positional arguments"),
        ({}, {"train_dataset": Rows()}, "train_dataset has no sample"),
        ({}, {"eval_dataset": {"good": GOOD, "none": Rows()}}, r"eval_dataset\['none'\] has no sample"),
        ({}, {"train_dataset": Dataset.from_dict({"input_ids": []})}, "train_dataset has no sample"),
    ],
)
def test_broken_trainer_is_refused(options, given, words):
    with pytest.raises(ConfigurationError, match=words):
        check_trainer(facts(options, **given))


@pytest.mark.parametrize(
    ("name", "hook"),
    [("predict_with_generate", "prediction_step"), ("sortish_sampler", "_get_train_sampler")],
)
def test_what_only_the_seq2seq_trainer_does_is_refused_elsewhere(name, hook):
    args = Seq2SeqTrainingArguments(**{name: True})
    given = {"args": args, "model": Model(), "train_dataset": GOOD}
    with pytest.raises(ConfigurationError, match=f"{name}=True asks for what the Seq2SeqTrainer does"):
        check_trainer(TrainerFacts(**given))
    check_trainer(TrainerFacts(**given, supports=frozenset({name})))
    check_trainer(TrainerFacts(**given, overrides=frozenset({hook})))


def test_metrics_that_know_the_last_batch_pass():
    check_trainer(
        facts(
            {"batch_eval_metrics": True}, compute_metrics=lambda pred, compute_result: {}, eval_dataset=GOOD
        )
    )


def test_a_stream_of_an_elastic_run_has_one_reader():
    given = {"train_dataset": (row for row in ())}
    for options in ({"num_workers": (1, 3)}, {"num_workers": 3, "dataloader_num_workers": 2}):
        check_trainer(facts(options, **given))
    with pytest.raises(
        ConfigurationError, match=r"dataloader_num_workers=2 .*is a stream.*dataloader_num_workers=1"
    ):
        check_trainer(facts({"num_workers": (1, 3), "dataloader_num_workers": 2}, **given))


class Unfreezes(TrainerCallback):
    """A callback of the user's."""


def test_a_frozen_model_is_left_to_a_callback_that_may_unfreeze_it():
    frozen = Model().requires_grad_(False)
    with pytest.raises(ConfigurationError, match="All 2 parameters of Model are frozen"):
        model_can_be_trained(facts(model=frozen))
    model_can_be_trained(facts(model=frozen, callbacks=(Unfreezes(),)))


@pytest.mark.parametrize("method", ["train", "evaluate", "predict"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_model_without_values_is_refused_before_anything_starts(tmp_path, num_workers, method):
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(num_hidden_layers=1, hidden_size=32))
    args = TrainingArguments(str(tmp_path), num_workers=num_workers, use_cpu=True, report_to="none")
    trainer = Trainer(model=model, args=args, train_dataset=GOOD, eval_dataset=GOOD)
    with pytest.raises(ModelError) as refused:
        getattr(trainer, method)(*([GOOD] if method == "predict" else []))
    text = str(refused.value)
    assert "14 of the 14 parameters and buffers of LlamaForCausalLM are on the meta device" in text
    assert "model.embed_tokens.weight, model.layers.0.self_attn.q_proj.weight" in text
    assert "and 11 more" in text
    assert "LlamaForCausalLM.from_pretrained(...)" in text
    assert "model.to_empty(device='cpu')" in text


def test_a_model_gets_values_after_it_was_given(tmp_path):
    model = Model().to("meta")
    check_trainer(facts(model=model))
    model.to_empty(device="cpu")
    check_again(facts(model=model))


def test_a_model_without_values_is_left_to_who_gives_it_some(monkeypatch):
    empty = Model().to("meta")
    with pytest.raises(ModelError, match="on the meta device"):
        check_again(facts(model=empty))
    check_again(facts(model=empty, overrides=frozenset({"_move_model_to_device"})))
    offloaded = Model()
    accelerate.cpu_offload(offloaded, torch.device("cpu"))
    assert offloaded.layer.weight.is_meta
    check_again(facts(model=offloaded))
    of_deepspeed = Model().to("meta")
    for parameter in of_deepspeed.parameters():
        parameter.ds_id = 0
    check_again(facts(model=of_deepspeed))
    for name, value in {
        "RANK": "1",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    check_again(facts({"fsdp": "full_shard"}, model=empty))
