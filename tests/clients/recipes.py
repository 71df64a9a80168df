"""One small trainer of each library, made the same way whether the library stands on transformers or on raytrainer.

A library is imported where it is used, after a patch has begun or without one. Models and tokenizers are made here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers

SPECIAL = ["<pad>", "<unk>", "<end>", "<user>", "<assistant>"]
TEXT = "a an the old young red green cat dog bird fish sees hears likes eats one two three and in on under"
WORDS = TEXT.split()
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<assistant> {{ message['content'] }} <end> "
    "{% else %}<user> {{ message['content'] }} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
NUM_STEPS = 4
COMMON: dict[str, Any] = {
    "use_cpu": True,
    "per_device_train_batch_size": 2,
    "max_steps": NUM_STEPS,
    "learning_rate": 0.05,
    "optim": "sgd",  # Adam's first steps amplify gradients that are nearly zero
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 2,
    "report_to": "none",
    "disable_tqdm": True,
    "seed": 3,
}


def make_tokenizer() -> Any:
    words = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        eos_token="<end>",
        pad_token="<pad>",
        model_max_length=64,
    )
    made.chat_template = TEMPLATE
    return made


def sentences(count: int, *, shortest: int = 3, longest: int = 9, seed: int = 3) -> list[str]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        length = int(torch.randint(shortest, longest + 1, (1,), generator=generator))
        picks = torch.randint(0, len(WORDS), (length,), generator=generator)
        made.append(" ".join(WORDS[int(pick)] for pick in picks))
    return made


def llama_config(**more: Any) -> Any:
    return transformers.LlamaConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        eos_token_id=2,
        bos_token_id=None,
        attention_dropout=0.1,
        **more,
    )


def causal_model() -> Any:
    torch.manual_seed(7)
    return transformers.LlamaForCausalLM(llama_config())


def scoring_model() -> Any:
    torch.manual_seed(7)
    return transformers.LlamaForSequenceClassification(llama_config(num_labels=1))


def pairs(count: int = 24) -> Dataset:
    return Dataset.from_dict(
        {
            "prompt": sentences(count),
            "chosen": [f" {text}" for text in sentences(count, seed=4)],
            "rejected": [f" {text}" for text in sentences(count, seed=5)],
        }
    )


def trl_arguments(kind: Any, directory: Path, **options: Any) -> Any:
    return kind(
        output_dir=str(directory), **(COMMON | {"bf16": False, "gradient_checkpointing": False} | options)
    )


def sft(directory: Path, **options: Any) -> Any:
    from trl import SFTConfig, SFTTrainer

    return SFTTrainer(
        causal_model(),
        trl_arguments(SFTConfig, directory, gradient_accumulation_steps=2, **options),
        train_dataset=Dataset.from_dict({"text": sentences(32)}),
        processing_class=make_tokenizer(),
    )


def dpo(directory: Path, **options: Any) -> Any:
    from trl import DPOConfig, DPOTrainer

    return DPOTrainer(
        causal_model(),
        ref_model=causal_model(),
        args=trl_arguments(DPOConfig, directory, **options),
        train_dataset=pairs(),
        processing_class=make_tokenizer(),
    )


def reward(directory: Path, **options: Any) -> Any:
    from trl import RewardConfig, RewardTrainer

    return RewardTrainer(
        scoring_model(),
        args=trl_arguments(RewardConfig, directory, **options),
        train_dataset=pairs(),
        processing_class=make_tokenizer(),
    )


def counts_cats(completions: list[str], **_: Any) -> list[float]:
    return [float(text.split().count("cat")) + 0.1 * len(text) for text in completions]


def grpo(directory: Path, **options: Any) -> Any:
    from trl import GRPOConfig, GRPOTrainer

    return GRPOTrainer(
        causal_model(),
        reward_funcs=counts_cats,
        args=trl_arguments(
            GRPOConfig,
            directory,
            num_generations=2,
            max_completion_length=6,
            **options,
        ),
        train_dataset=Dataset.from_dict({"prompt": sentences(16)}),
        processing_class=make_tokenizer(),
    )


def sentence_model(directory: Path) -> Any:
    """A sentence transformer of a tiny encoder, which has to be on storage to be one; all modes share it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    torch.manual_seed(7)
    config = transformers.BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    path = directory / "encoder"
    if not path.exists():
        transformers.BertModel(config).save_pretrained(path)
        make_tokenizer().save_pretrained(path)
    encoder = Transformer(str(path))
    return SentenceTransformer(modules=[encoder, Pooling(16)], device="cpu")


def sentence(directory: Path, **options: Any) -> Any:
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    model = sentence_model(directory.parents[2])
    return SentenceTransformerTrainer(
        model,
        SentenceTransformerTrainingArguments(
            output_dir=str(directory), **(COMMON | {"per_device_train_batch_size": 4} | options)
        ),
        train_dataset=Dataset.from_dict({"anchor": sentences(32), "positive": sentences(32, seed=4)}),
        loss=MultipleNegativesRankingLoss(model),
    )


def setfit(directory: Path, **options: Any) -> Any:
    from setfit import SetFitModel, Trainer, TrainingArguments
    from sklearn.linear_model import LogisticRegression

    model = SetFitModel(model_body=sentence_model(directory.parents[2]), model_head=LogisticRegression())
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=str(directory),
            batch_size=4,
            max_steps=NUM_STEPS,
            body_learning_rate=0.05,
            logging_steps=1,
            save_strategy="steps",
            save_steps=2,
            save_total_limit=None,
            report_to="none",
            seed=3,
        ),
        train_dataset=Dataset.from_dict({"text": sentences(8), "label": [0, 1] * 4}),
    )
    # The arguments of setfit have no fields of transformers: it makes those itself.
    for name, value in ({"use_cpu": True, "disable_tqdm": True, "optim": "sgd"} | options).items():
        setattr(trainer.st_trainer.args, name, value)
    return trainer


RECIPES = {"sft": sft, "dpo": dpo, "reward": reward, "grpo": grpo, "sentence": sentence, "setfit": setfit}
SAMPLES_ONLINE = {"grpo"}
"""What a rank generates depends on its position in its stream of random numbers."""


def inner(trainer: Any) -> Any:
    """The trainer that has a loop, under one that delegates to it."""
    return getattr(trainer, "st_trainer", trainer)


def losses(trainer: Any) -> list[float]:
    logs = inner(trainer).state.log_history
    return [log[name] for log in logs for name in ("loss", "embedding_loss") if name in log]
