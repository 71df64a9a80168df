"""``SFTConfig``: the arguments of supervised fine-tuning, in addition to ``TrainingArguments``.

Names and defaults are those of TRL's class of the same name. Each field is supported, or refused with a reason. Whether
the fields suit a dataset and a model is checked where those are known.
"""

# No `from __future__ import annotations`: HfArgumentParser evaluates the types of the fields below.
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import transformers

from raytrainer.arguments.aliases import warn_once
from raytrainer.arguments.convert import convert
from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.errors import ConfigurationError, UnknownArgumentError
from raytrainer.suggestions import did_you_mean

_CHOICES = {
    "packing_strategy": ("bfd", "bfd_split", "wrapped"),
    "truncation_mode": ("keep_start", "keep_end"),
    "loss_type": ("nll", "dft"),
}


@dataclass(repr=False)
class SFTConfig(TrainingArguments):
    """The arguments of supervised fine-tuning.

    Defaults that differ from ``TrainingArguments``: ``learning_rate=2e-5``, ``logging_steps=10``,
    ``activation_checkpointing=True``, and ``bf16=True`` unless ``fp16`` is set.

    Raises:
        ConfigurationError: For unknown, contradicting or unavailable arguments.
    """

    _VALID_DICT_FIELDS: ClassVar[list[str]] = [
        *TrainingArguments._VALID_DICT_FIELDS,
        "model_init_kwargs",
        "dataset_kwargs",
    ]

    learning_rate: float = field(
        default=2e-5, metadata={"help": "The highest learning rate of the schedule."}
    )
    logging_steps: float = field(
        default=10, metadata={"help": "Log every this many steps; below 1, this fraction of all steps."}
    )
    activation_checkpointing: bool | None = field(
        default=True, metadata={"help": "Recompute activations in the backward pass instead of keeping them."}
    )
    bf16: bool | None = field(
        default=None, metadata={"help": "Compute in bfloat16. Default: true unless fp16 is set."}
    )

    model_init_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Keyword arguments of from_pretrained, for a model given by name: dtype, revision, ..."
        },
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code from the repository of a model on the Hub."}
    )
    router_aux_loss_coef: float | None = field(
        default=None, metadata={"help": "Refused; set it in the model's config."}
    )
    chat_template_path: str | None = field(
        default=None,
        metadata={
            "help": "A Jinja file, or the directory or hub id of a tokenizer whose chat template is used."
        },
    )

    dataset_text_field: str = field(default="text", metadata={"help": "The column with the text."})
    dataset_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "{'skip_prepare_dataset': true} uses samples as they are; this is the only key."},
    )
    dataset_num_proc: int | None = field(
        default=None,
        metadata={"help": "Number of processes that tokenize; None tokenizes in the driver process."},
    )
    eos_token: str | None = field(
        default=None, metadata={"help": "The token that ends a text; that of the tokenizer by default."}
    )
    pad_token: str | None = field(
        default=None,
        metadata={"help": "The padding token; by default that of the tokenizer, else eos_token."},
    )
    max_length: int | None = field(
        default=1024,
        metadata={
            "help": "Maximum length of an example, or of a block when packing, in tokens. None: no limit.",
        },
    )
    max_seq_length: int | None = field(default=None, metadata={"help": "Former name of max_length."})
    truncation_mode: str = field(
        default="keep_start",
        metadata={
            "help": "Which end of an example truncation keeps.",
            "choices": list(_CHOICES["truncation_mode"]),
        },
    )
    shuffle_dataset: bool = field(
        default=False, metadata={"help": "Shuffle the rows with the seed before packing."}
    )
    packing: bool = field(default=False, metadata={"help": "Pack several examples into one block."})
    packing_strategy: str = field(
        default="bfd",
        metadata={
            "help": "bfd: best fit decreasing, truncates long examples; bfd_split: splits them; wrapped: concatenates "
            "all examples.",
            "choices": list(_CHOICES["packing_strategy"]),
        },
    )
    eval_packing: bool | None = field(
        default=None, metadata={"help": "Pack the evaluation data too; None: the same as packing."}
    )
    padding_free: bool = field(
        default=False, metadata={"help": "Concatenate a batch into one row instead of padding."}
    )
    pad_to_multiple_of: int | str | None = field(
        default="auto", metadata={"help": "Pad rows to a multiple of this length; 'auto' and None do not."}
    )

    completion_only_loss: bool | None = field(
        default=None,
        metadata={"help": "Compute the loss on completions only; None: if the dataset has prompts."},
    )
    assistant_only_loss: bool = field(
        default=False,
        metadata={"help": "Compute the loss only on what the chat template marks as the assistant's."},
    )
    loss_type: str = field(
        default="nll",
        metadata={
            "help": "nll: negative log-likelihood; dft: weighted by the probability of the target (arXiv 2508.05629).",
            "choices": [*_CHOICES["loss_type"], "chunked_nll"],
        },
    )
    activation_offloading: bool = field(
        default=False,
        metadata={"help": "Refused; use activation_checkpointing_kwargs={'offload': true}."},
    )

    def __post_init__(self) -> None:
        self._take_earlier_names()
        if self.bf16 is None:
            self.bf16 = not self.fp16  # pyright: ignore[reportIncompatibleVariableOverride]
        if isinstance(self.pad_to_multiple_of, str):
            self.pad_to_multiple_of = _multiple(self.pad_to_multiple_of)
        super().__post_init__()

    def _take_earlier_names(self) -> None:
        if self.max_seq_length is not None:
            warn_once("max_seq_length", "write `max_length` instead")
            set_once(self, "max_length", self.max_seq_length, keyword="max_seq_length")
            self.max_seq_length = None
        if self.loss_type == "chunked_nll":
            self.loss_type = "nll"
        if self.packing_strategy == "bfd-requeue":
            self.packing_strategy = "bfd_split"

    def _check_normalized(self) -> None:
        super()._check_normalized()
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigurationError(
                    f"{name}={getattr(self, name)!r} is not one of {list(choices)}. Use one of them."
                )
        for name in ("max_length", "dataset_num_proc", "pad_to_multiple_of"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigurationError(
                    f"{name}={value!r}, but a whole number above 0 was expected. Change it, or leave it out."
                )
        self._check_packing()
        self._check_refused()

    def _check_packing(self) -> None:
        if self.packs_training or self.packs_evaluation:
            if self.max_length is None:
                raise ConfigurationError(
                    "packing=True needs a block size, but max_length=None. Set max_length to the size of a block."
                )
            if self.truncation_mode != "keep_start":
                raise ConfigurationError(
                    "truncation_mode='keep_end' has no effect with packing=True, which truncates examples at the end "
                    "of a block. Leave one of the two out."
                )
        if self.use_cache and (self.packing or self.eval_packing or self.padding_free):
            raise ConfigurationError(
                "With use_cache=True transformers treats a block as one sequence, and its examples would attend to "
                "each other. Leave use_cache out."
            )

    def _check_refused(self) -> None:
        if self.activation_offloading:
            raise ConfigurationError(
                "`activation_offloading` is not available in this version of raytrainer: activations are not moved "
                "to the CPU this way. Use activation_checkpointing=True with "
                "activation_checkpointing_kwargs={'offload': True}."
            )
        if self.router_aux_loss_coef is not None:
            raise ConfigurationError(
                "`router_aux_loss_coef` is not available in this version of raytrainer: the model adds that loss, with "
                "the weight in its config. Set config.output_router_logits and config.router_aux_loss_coef."
            )
        unknown = sorted(set(self.dataset_options) - {"skip_prepare_dataset"})
        if unknown:
            raise ConfigurationError(
                f"dataset_kwargs has the unknown keys {unknown}; the only key is skip_prepare_dataset. For other "
                "options, prepare the dataset before you pass it."
            )

    @property
    def packs_training(self) -> bool:
        """Whether the training data is packed."""
        return self.packing

    @property
    def packs_evaluation(self) -> bool:
        """Whether evaluation data is packed."""
        return self.packing if self.eval_packing is None else self.eval_packing

    @property
    def dataset_options(self) -> dict[str, Any]:
        """``dataset_kwargs`` as a dict."""
        return dict(self.dataset_kwargs) if isinstance(self.dataset_kwargs, Mapping) else {}

    @property
    def prepares_datasets(self) -> bool:
        """Whether datasets are tokenized and packed here, rather than used as they are."""
        return not self.dataset_options.get("skip_prepare_dataset", False)


def _multiple(text: str) -> int | None:
    if text.lower() in ("auto", "none", "null"):
        return None
    if not text.isdigit():
        raise ConfigurationError(
            f"pad_to_multiple_of={text!r} is neither a whole number nor 'auto'. Use one of these."
        )
    return int(text)


def set_once(args: SFTConfig, name: str, value: object, *, keyword: str) -> None:
    """Set a field to the value of a keyword of the trainer's constructor.

    Args:
        args: The arguments; changed in place.
        name: The field.
        value: The value of the keyword.
        keyword: The name of the keyword.

    Raises:
        ConfigurationError: If the field already has a different value.
    """
    default = next(one.default for one in fields(args) if one.name == name)
    old = getattr(args, name)
    if old not in (default, value):
        raise ConfigurationError(
            f"{keyword}={value!r} and {name}={old!r} of the arguments contradict each other. Keep only the latter."
        )
    setattr(args, name, value)


KEYWORDS = {
    "max_seq_length": "max_length",
    **{
        name: name
        for name in (
            "dataset_text_field",
            "max_length",
            "packing",
            "packing_strategy",
            "eval_packing",
            "dataset_num_proc",
            "dataset_kwargs",
            "model_init_kwargs",
            "neftune_noise_alpha",
        )
    },
}
"""Keywords that the constructor took in earlier versions -> the current fields."""


def as_sft_config(args: transformers.TrainingArguments | None, keywords: Mapping[str, Any]) -> SFTConfig:
    """Return an ``SFTConfig`` for what was passed as ``args=`` and as keywords of earlier versions.

    Plain ``TrainingArguments`` keep all their values; their defaults are not replaced by those of ``SFTConfig``.

    Raises:
        ConfigurationError: If it is something else, or a keyword contradicts it.
    """
    if args is None:
        args = SFTConfig(output_dir="tmp_trainer")
    if isinstance(args, SFTConfig):
        made = args
    else:
        plain = convert(args)
        if type(plain) is not TrainingArguments:
            raise ConfigurationError(
                f"args= is a {type(plain).__name__}, but an SFTConfig or plain TrainingArguments were expected. "
                "Derive your own arguments from SFTConfig."
            )
        made = SFTConfig(**{one.name: getattr(plain, one.name) for one in fields(plain) if one.init})
        vars(made).update({"_legacy": vars(plain)["_legacy"]} if "_legacy" in vars(plain) else {})
    for keyword, value in keywords.items():
        if keyword not in KEYWORDS:
            known = [*KEYWORDS, "model", "args", "processing_class", "peft_config"]
            raise UnknownArgumentError(
                f"SFTTrainer has no argument {keyword!r}.{did_you_mean(keyword, known)} Correct the name, "
                "set it in SFTConfig, or leave it out."
            )
        if value is not None:
            set_once(made, KEYWORDS[keyword], value, keyword=keyword)
    made.check()
    return made
