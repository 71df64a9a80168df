"""A word tokenizer with a chat template, a tiny model for it, and some rows of each format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers

import raytrainer

SPECIAL = ["<pad>", "<unk>", "<end>", "<user>", "<assistant>"]
TEXT = (
    "a an the old young red green cat dog bird fish sees hears likes eats finds one two three and then who what is it "
    "in house garden tree on under"
)
WORDS = TEXT.split()
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<assistant> {% generation %}{{ message['content'] }} <end> "
    "{% endgeneration %}{% else %}<user> {{ message['content'] }} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def make_tokenizer(*, pad_token: str | None = "<pad>", template: str | None = TEMPLATE) -> Any:
    words = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>", pad_token=pad_token
    )
    made.add_special_tokens({"additional_special_tokens": ["<user>", "<assistant>"]})
    made.chat_template = template
    return made


def make_model(**options: Any) -> Any:
    torch.manual_seed(7)
    config = transformers.LlamaConfig(
        **{
            "vocab_size": len(SPECIAL) + len(WORDS),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 256,
            "pad_token_id": 0,
            "eos_token_id": 2,
            "bos_token_id": None,
            **options,
        }
    )
    return transformers.LlamaForCausalLM(config)


def sentences(count: int = 24, *, shortest: int = 3, longest: int = 14) -> list[str]:
    generator = torch.Generator().manual_seed(3)
    made = []
    for _ in range(count):
        length = int(torch.randint(shortest, longest + 1, (1,), generator=generator))
        picks = torch.randint(0, len(WORDS), (length,), generator=generator)
        made.append(" ".join(WORDS[int(pick)] for pick in picks))
    return made


def texts(count: int = 24) -> Dataset:
    return Dataset.from_dict({"text": sentences(count)})


def answers(count: int = 24) -> Dataset:
    """Prompts and completions."""
    return Dataset.from_dict(
        {
            "prompt": [f"{text} " for text in sentences(count)],
            "completion": sentences(2 * count)[count:],
        }
    )


def chats(count: int = 24) -> Dataset:
    said = sentences(2 * count)
    return Dataset.from_list(
        [
            {
                "messages": [
                    {"role": "user", "content": said[index]},
                    {"role": "assistant", "content": said[count + index]},
                ]
            }
            for index in range(count)
        ]
    )


def make_args(directory: Path, **options: Any) -> Any:
    return raytrainer.SFTConfig(
        **{
            "output_dir": str(directory),
            "num_workers": 0,
            "per_device_train_batch_size": 4,
            "max_steps": 4,
            "logging_steps": 1,
            "optim": "sgd",  # Adam's first steps amplify gradients that are nearly zero
            "learning_rate": 0.5,
            "bf16": False,
            "activation_checkpointing": False,
            "use_cpu": True,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            **options,
        }
    )


def make_trainer(directory: Path, dataset: Any = None, **options: Any) -> Any:
    """Make a trainer; keywords that the constructor does not have go to the arguments."""
    own = {
        name: options.pop(name)
        for name in (
            "model",
            "eval_dataset",
            "peft_config",
            "formatting_func",
            "processing_class",
            "data_collator",
        )
        if name in options
    }
    if "model" not in own:
        own["model"] = make_model()
    return raytrainer.SFTTrainer(
        **{
            "model": make_model() if "model" not in own else None,
            "processing_class": make_tokenizer(),
            **own,
        },
        args=make_args(directory, **options),
        train_dataset=texts() if dataset is None else dataset,
    )


def losses(trainer: Any) -> list[float]:
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def samples(trainer: Any) -> list[tuple[list[int], list[int]]]:
    return [(row["input_ids"], row["labels"]) for row in trainer.train_dataset]
