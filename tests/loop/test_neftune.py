"""NEFTune: the formula, when noise is added, and that no hook remains afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import raytrainer
from raytrainer.errors import ConfigurationError, EngagementError
from raytrainer.loop.neftune import EmbeddingNoise, noise_for, real_tokens
from tests.parity.twins import LIBRARIES, assert_equal_runs, make_model, make_samples, make_trainer, rows

WIDTH = 64
ALPHA = 5.0


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


class Watch(transformers.TrainerCallback):
    """Counts the hooks on the embeddings at a step and in an evaluation."""

    def __init__(self, at_step: Any = None) -> None:
        self.hooks: list[int] = []
        self.at_step = at_step

    def on_step_end(self, args, state, control, **kwargs):
        self.hooks.append(len(kwargs["model"].get_input_embeddings()._forward_hooks))
        if self.at_step is not None:
            raise self.at_step


def test_noise_is_uniform_and_scaled_by_the_real_length_of_each_sequence():
    mask = torch.ones(2, 100, dtype=torch.int64)
    mask[1, 25:] = 0
    noise = noise_for(torch.zeros(2, 100, WIDTH), ALPHA, real_tokens({"attention_mask": mask}))
    for row, length in ((0, 100), (1, 25)):
        bound = ALPHA / (length * WIDTH) ** 0.5
        found = noise[row, :length]
        assert found.abs().max() <= bound
        assert found.abs().max() > 0.99 * bound
        # A uniform distribution on [-b, b] has the standard deviation b / sqrt(3).
        assert found.std() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_padding_gets_no_noise():
    mask = torch.tensor([[0, 0, 1, 1]])
    noise = noise_for(torch.zeros(1, 4, WIDTH), ALPHA, real_tokens({"attention_mask": mask}))
    assert not noise[0, :2].any()
    assert noise[0, 2:].all()


def test_sequences_packed_into_a_row_have_lengths_of_their_own():
    positions = torch.tensor([[0, 1, 2, 0, 1, 0]])
    real = real_tokens({"position_ids": positions})
    assert real is not None
    assert real.tolist() == [[3, 3, 3, 2, 2, 1]]


def test_without_padding_the_run_is_that_of_transformers(tmp_path: Path):
    trainers = {}
    for name, library in LIBRARIES.items():
        trainers[name] = make_trainer(library, tmp_path / name, max_steps=4, neftune_noise_alpha=ALPHA)
        watch = Watch()
        trainers[name].add_callback(watch)
        trainers[name].train()
        assert watch.hooks == [1] * 4
    assert_equal_runs(trainers["ours"], trainers["theirs"])
    plain = make_trainer(raytrainer, tmp_path / "plain", max_steps=4)
    plain.train()
    assert abs(rows(plain)[0][1] - rows(trainers["ours"])[0][1]) > 1e-4, "the noise did nothing"


@pytest.mark.parametrize("end", [None, RuntimeError("broken"), KeyboardInterrupt()], ids=repr)
def test_no_hook_is_left_however_training_ends(tmp_path: Path, end: Any):
    trainer = make_trainer(raytrainer, tmp_path, max_steps=2, neftune_noise_alpha=ALPHA)
    watch = Watch(at_step=end)
    trainer.add_callback(watch)
    model = trainer.model
    if end is None:
        trainer.train()
    else:
        with pytest.raises(type(end)):
            trainer.train()
    assert watch.hooks[0] == 1
    assert hooks_of(model) == 0


def test_evaluation_and_prediction_get_no_noise(tmp_path: Path):
    options: dict[str, Any] = {"max_steps": 2, "learning_rate": 0.0}
    noisy = make_trainer(
        raytrainer, tmp_path / "a", neftune_noise_alpha=50.0, eval_strategy="steps", eval_steps=1, **options
    )
    noisy.train()
    during = [log["eval_loss"] for log in noisy.state.log_history if "eval_loss" in log]
    plain = make_trainer(raytrainer, tmp_path / "b", **options)
    expected = plain.evaluate()["eval_loss"]
    assert during == [expected] * 2
    assert noisy.evaluate()["eval_loss"] == expected
    assert torch.equal(
        torch.as_tensor(noisy.predict(make_samples(4)).predictions),
        torch.as_tensor(plain.predict(make_samples(4)).predictions),
    )


def test_a_resumed_run_draws_the_same_noise_and_its_checkpoint_has_none_of_it(tmp_path: Path):
    options: dict[str, Any] = {
        "max_steps": 6,
        "neftune_noise_alpha": ALPHA,
        "save_strategy": "steps",
        "save_steps": 3,
    }
    whole = make_trainer(raytrainer, tmp_path / "whole", **options)
    whole.train()
    resumed = make_trainer(raytrainer, tmp_path / "resumed", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert rows(resumed) == rows(whole)
    saved = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "whole" / "checkpoint-6")
    assert saved.state_dict().keys() == make_model().state_dict().keys()


def test_the_embeddings_under_an_adapter_are_found(tmp_path: Path):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(make_model(), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    noise = EmbeddingNoise(model, ALPHA)
    assert noise.modules == [model.base_model.model.model.embed_tokens]


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_encoder_and_decoder_scale_by_lengths_of_their_own(kind: str, monkeypatch: pytest.MonkeyPatch):
    small: dict[str, Any] = {"vocab_size": 50, "d_model": 16, "decoder_start_token_id": 0}
    if kind == "t5":
        model: Any = transformers.T5ForConditionalGeneration(
            transformers.T5Config(**small, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
        )
    else:
        layers = {"encoder_layers": 1, "decoder_layers": 1}
        heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
        model = transformers.BartForConditionalGeneration(
            transformers.BartConfig(**small, **layers, **heads, encoder_ffn_dim=16, decoder_ffn_dim=16)
        )
    seen: list[Any] = []

    def spy(embeddings, alpha, real):
        seen.append(real)
        return torch.zeros_like(embeddings)

    monkeypatch.setattr("raytrainer.loop.neftune.noise_for", spy)
    with EmbeddingNoise(model, ALPHA)():
        model.train()(
            input_ids=torch.ones(1, 4, dtype=torch.int64),
            attention_mask=torch.tensor([[1, 1, 1, 0]]),
            labels=torch.tensor([[5, 6, -100, -100]]),
        )
    assert [real.tolist() for real in seen] == [[[3, 3, 3, 0]], [[2, 2, 0, 0]]]


def test_a_model_that_bypasses_its_embeddings_is_an_error(tmp_path: Path):
    model = make_model()
    with EmbeddingNoise(model, ALPHA)(), pytest.raises(EngagementError, match="inputs_embeds"):
        model.train()(inputs_embeds=torch.zeros(1, 3, 32))


def test_a_model_without_input_embeddings_is_refused_before_training(tmp_path: Path):
    trainer = make_trainer(raytrainer, tmp_path, model=Plain(), neftune_noise_alpha=ALPHA)
    with pytest.raises(ConfigurationError, match="get_input_embeddings"):
        trainer.train()


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, input_ids: Any, labels: Any = None) -> Any:
        return self.layer(input_ids)


def test_a_negative_alpha_is_refused(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="neftune_noise_alpha=-1"):
        raytrainer.TrainingArguments(output_dir=str(tmp_path), neftune_noise_alpha=-1)
