"""Adapters, quantized models, models by name, and what a run leaves for the next one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from raytrainer import ConfigurationError
from raytrainer.wire.pickling import pack, unpack
from tests.sft.words import losses, make_model, make_tokenizer, make_trainer, texts

peft = pytest.importorskip("peft")

SAVING: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2}


def lora(**options: Any) -> Any:
    return peft.LoraConfig(r=4, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM", **options)


def trainable(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


@pytest.fixture
def by_name(tmp_path: Path) -> str:
    """Directory of a model with its tokenizer."""
    make_model(hidden_size=64, intermediate_size=128).save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_only_the_adapter_is_trained_and_saved(tmp_path: Path):
    before = make_model().state_dict()
    trainer = make_trainer(tmp_path / "run", peft_config=lora(), **SAVING)
    trainer.train()
    assert {"lora_A", "lora_B"} == {name.split(".")[-3] for name in trainable(trainer.model)}
    base = trainer.model.get_base_model().state_dict()
    for name, value in before.items():
        found = base.get(name, base.get(name.replace(".weight", ".base_layer.weight")))
        assert torch.equal(found, value), name
    with safe_open(tmp_path / "run" / "checkpoint-4" / "adapter_model.safetensors", "pt") as file:
        assert len(list(file.keys())) == len(trainable(trainer.model))
    assert not (tmp_path / "run" / "checkpoint-4" / "model.safetensors").exists()


@pytest.mark.parametrize("bits", [None, 4, 8])
def test_a_resumed_run_is_bitwise_the_same_as_one_that_was_not_interrupted(
    bits: int | None, by_name: str, tmp_path: Path
):
    options: dict[str, Any] = {"packing": True, "max_length": 24, "activation_checkpointing": True, **SAVING}
    options |= {"peft_config": lora(lora_dropout=0.1), "logging_steps": 3}
    if bits is not None:
        pytest.importorskip("bitsandbytes")
        from transformers import BitsAndBytesConfig

        config = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
        options["model_init_kwargs"] = {"quantization_config": config}
    whole = make_trainer(tmp_path / "whole", model=by_name, **options)
    whole.train()
    stored = whole.model.get_base_model().model.layers[0].mlp.up_proj.base_layer.weight.dtype
    assert stored == {None: torch.float32, 4: torch.uint8, 8: torch.int8}[bits]
    resumed = make_trainer(tmp_path / "resumed", model=by_name, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for name, value in trainable(whole.model).items():
        assert torch.equal(trainable(resumed.model)[name], value), name
    wanted, found = (
        [log for log in one.state.log_history if "num_tokens" in log] for one in (whole, resumed)
    )
    assert wanted == found
    assert wanted[-1]["num_tokens"] > 0


def test_a_4_bit_model_has_gradients_from_the_first_step_and_after_an_evaluation(
    by_name: str, tmp_path: Path
):
    # on a CPU with AVX512-BF16, bitsandbytes repacks weights in eval mode, for a kernel without gradients
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    quantization = {"quantization_config": BitsAndBytesConfig(load_in_4bit=True)}
    trainer = make_trainer(
        tmp_path / "run",
        model=by_name,
        peft_config=lora(),
        packing=True,
        max_length=24,
        model_init_kwargs=quantization,
        eval_dataset=texts(4),
        eval_strategy="steps",
        eval_steps=2,
        logging_steps=1,
    )
    trainer.train()
    norms = [log["grad_norm"] for log in trainer.state.log_history if "grad_norm" in log]
    assert len(norms) == 4
    assert min(norms) > 0


def test_a_model_by_name_begins_like_the_same_model_as_an_instance(by_name: str, tmp_path: Path):
    runs = []
    for model in (by_name, make_model(hidden_size=64, intermediate_size=128)):
        torch.manual_seed(len(runs))
        trainer = make_trainer(tmp_path / str(len(runs)), model=model, peft_config=lora(), processing_class=None
                               if isinstance(model, str) else make_tokenizer())  # fmt: skip
        trainer.train()
        runs.append(losses(trainer))
    assert runs[0] == runs[1]


def test_a_model_by_name_is_loaded_as_the_keywords_say(by_name: str, tmp_path: Path):
    options = {"dtype": "bfloat16", "attn_implementation": "eager"}
    trainer = make_trainer(tmp_path / "run", model=by_name, model_init_kwargs=options, max_steps=1)
    assert isinstance(trainer._own_model, str)
    trainer.train()
    assert {value.dtype for value in trainer.model.parameters()} == {torch.bfloat16}
    assert trainer.model.config._attn_implementation == "eager"


def test_constructing_an_adapter_draws_nothing_after_the_seed(tmp_path: Path):
    make_trainer(tmp_path, model=make_model(), peft_config=lora())
    with_adapter = torch.get_rng_state()
    make_trainer(tmp_path, model=make_model())
    assert torch.equal(torch.get_rng_state(), with_adapter)


def test_recomputing_activations_changes_nothing(tmp_path: Path):
    runs = []
    for recompute in (False, True):
        trainer = make_trainer(
            tmp_path / str(recompute), peft_config=lora(), activation_checkpointing=recompute
        )
        trainer.train()
        assert trainer.model.is_gradient_checkpointing is recompute
        runs.append(losses(trainer))
    assert runs[0] == runs[1]


def test_what_goes_back_to_the_driver_is_what_was_trained(tmp_path: Path):
    trainer = make_trainer(tmp_path, peft_config=lora())
    driver = unpack(pack(trainer))
    trainer.train()
    weights = trainer._export_weights()
    assert weights.keys() == trainable(trainer.model).keys()
    driver._take_weights(weights)
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(driver.model.state_dict()[name], value), name


def test_an_adapter_that_is_there_is_trained(tmp_path: Path):
    trainer = make_trainer(tmp_path, model=peft.get_peft_model(make_model(), lora()))
    before = trainable(trainer.model)
    trainer.train()
    assert any(not torch.equal(before[name], value) for name, value in trainable(trainer.model).items())


def test_two_adapters_are_refused(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="already has an adapter, but peft_config= asks for another"):
        make_trainer(tmp_path, model=peft.get_peft_model(make_model(), lora()), peft_config=lora())


def test_a_quantized_model_without_an_adapter_is_refused(by_name: str, tmp_path: Path):
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True)
    with pytest.raises(ConfigurationError, match="quantized weights cannot be trained"):
        make_trainer(tmp_path / "a", model=by_name, model_init_kwargs={"quantization_config": config})
    loaded = AutoModelForCausalLM.from_pretrained(by_name, quantization_config=config)
    with pytest.raises(ConfigurationError, match="quantized weights cannot be trained"):
        make_trainer(tmp_path / "b", model=loaded)


def test_an_unsupported_peft_config_is_refused(tmp_path: Path):
    with pytest.raises(ConfigurationError, match=r"peft_config= is a dict"):
        make_trainer(tmp_path, peft_config={"r": 4})
    with pytest.raises(ConfigurationError, match="puts tokens before each row"):
        make_trainer(
            tmp_path, peft_config=peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
        )


def test_a_run_that_is_resumed_has_the_same_samples_in_the_same_order(tmp_path: Path):
    options: dict[str, Any] = {"packing": True, "max_length": 20, "shuffle_dataset": True, **SAVING}
    whole = make_trainer(tmp_path / "whole", texts(40), **options)
    whole.train()
    resumed = make_trainer(tmp_path / "resumed", texts(40), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
