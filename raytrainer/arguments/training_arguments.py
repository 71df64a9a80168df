"""``TrainingArguments``: what a user asks for, written down on the driver and bound to a device on a worker.

The driver and the workers are different machines. So constructing arguments only stores, normalizes and checks plain
values: no device is touched, no process group and no Accelerate state is made, and a laptop may ask for bf16 on GPUs.
``resolve`` binds them to one process; a pickle never carries that.
"""

# No `from __future__ import annotations`: HfArgumentParser evaluates the types of the fields below.
import contextlib
import os
from abc import ABCMeta
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

import torch
import transformers

from raytrainer.arguments.accelerator_config import check_accelerator_config, normalize_accelerator_config
from raytrainer.arguments.aliases import read_legacy, warn_once
from raytrainer.arguments.combinations import (
    check_combinations,
    check_environment,
    evaluation_has_an_interval,
)
from raytrainer.arguments.compilation import check_kernels, normalize_compilation
from raytrainer.arguments.hub import check_hub
from raytrainer.arguments.keywords import translate_keywords
from raytrainer.arguments.log_levels import process_log_level
from raytrainer.arguments.optimizer_names import OPTIMIZERS
from raytrainer.arguments.process import BoundToProcess
from raytrainer.arguments.ray_options import RayOptions
from raytrainer.arguments.supported_fields import check_supported
from raytrainer.arguments.trackers import check_trackio
from raytrainer.arguments.values import check_values, coerce_text
from raytrainer.dialects.accelerate import fields_from_environment, fields_from_file, merge
from raytrainer.dialects.deepspeed import DeepSpeedOptions, read_deepspeed
from raytrainer.dialects.deepspeed_auto import check_against
from raytrainer.dialects.fsdp import ShardingOptions, canonical, read_sharding
from raytrainer.errors import ConfigurationError


def add_accelerates(cls: Any, keywords: dict[str, Any]) -> None:
    """Add what an accelerate config file, or a launcher's environment, says to the keywords of a constructor.

    Raises:
        ConfigurationError: If they contradict the keywords, or ask for what cannot be done.
    """
    found = fields_from_environment(os.environ)
    if keywords.get("accelerate_config"):
        path = keywords["accelerate_config"]
        found.append((str(path), fields_from_file(path)))
    if found:
        defaults = {one.name: one.default for one in fields(cls) if one.default is not MISSING}
        for source, values in found:
            merge(keywords, values, source=source, defaults=defaults)


class ArgumentsType(ABCMeta):
    """Translates names of earlier versions before any ``__init__`` sees them, also that of a subclass."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make arguments from today's names and those of earlier versions."""
        keywords, legacy = translate_keywords(cls, kwargs)
        add_accelerates(cls, keywords)
        made = super().__call__(*args, **keywords)
        made.__dict__.update({"_legacy": legacy} if legacy else {})
        return made


@dataclass(repr=False)
class TrainingArguments(BoundToProcess, RayOptions, transformers.TrainingArguments, metaclass=ArgumentsType):
    """The arguments of ``transformers.TrainingArguments``, and those that say how Ray runs the workers.

    Every field is honoured or refused with a reason (``arguments.supported_fields``), contradictions raise at once, and
    names of earlier versions are accepted with a warning (``arguments.aliases``).

    Raises:
        ConfigurationError: For unknown, contradicting or unavailable arguments.
    """

    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={
            "help": "Leave NaN and infinite losses out of the logged average. Off by default: a NaN is reported as NaN."
        },
    )
    hub_token: str | None = field(
        default=None,
        # A dataclass that derives from this one gets a __repr__ of its own, which must not show it.
        repr=False,
        metadata={
            "help": "The token that may write to the Hub. Left out, the process that uploads takes its own: HF_TOKEN, "
            "or that of `hf auth login`."
        },
    )
    logging_dir: str | None = field(
        default=None,
        metadata={"help": "Directory of TensorBoard logs; output_dir/runs/... by default."},
    )

    rank_check_steps: int = field(
        default=100,
        metadata={
            "help": "Compare, every so many steps, the weights of which each worker should have the same copy, and "
            "stop when they differ; 0 never compares."
        },
    )
    accelerate_config: str | None = field(
        default=None,
        metadata={
            "help": "A file that `accelerate config` wrote: number of processes, precision, FSDP. An argument that "
            "says something else is an error."
        },
    )

    def __post_init__(self) -> None:
        if self.hub_token in ("<HUB_TOKEN>", ""):  # what to_dict() writes in place of any token, also of none
            self.hub_token = None
        if self.logging_dir is not None:
            warn_once("logging_dir", "today's name is the environment variable TENSORBOARD_LOGGING_DIR")
        check_environment()
        coerce_text(self)
        self.normalize_ray_options()
        check_values(self)
        check_supported(self)
        evaluation_has_an_interval(self)
        self.normalize_sharding()
        with self._as_if_on_cpu():
            super().__post_init__()
        normalize_accelerator_config(self)
        self.normalize_deepspeed()
        normalize_compilation(self)
        if self.use_cpu:
            self.dataloader_pin_memory = False
        self.check()

    def check(self) -> None:
        """Check everything again, for arguments that were changed after they were made.

        Raises:
            ConfigurationError: As the constructor does.
        """
        coerce_text(self)
        self.normalize_ray_options()
        normalize_accelerator_config(self)
        check_values(self)
        check_supported(self)
        check_combinations(self)
        check_kernels(self)
        check_trackio(self)
        check_hub(self)
        check_accelerator_config(self)

    def get_process_log_level(self) -> int:
        """The log level of this process: by default INFO on the main one and WARNING on the others."""
        return process_log_level(self)

    def normalize_sharding(self) -> None:
        """Write what was asked of FSDP, in whatever words, in those of FSDP2.

        Raises:
            ConfigurationError: For what does not exist or cannot be done.
        """
        options = self.sharding
        if options is None:
            self.fsdp, self.fsdp_config = None, None
            return
        self.fsdp, self.fsdp_config = True, canonical(options)  # type: ignore[assignment]
        if options.activation_checkpointing:
            self.activation_checkpointing = True

    @property
    def sharding(self) -> ShardingOptions | None:
        """How parameters are sharded; None when they are not."""
        return read_sharding(self.fsdp, self.fsdp_config)

    def normalize_deepspeed(self) -> None:
        """Read DeepSpeed's JSON, if it is a file, and check it against the other arguments.

        Raises:
            ConfigurationError: For what does not exist, cannot be done, or contradicts another argument.
        """
        options = self.zero
        if options is None:
            self.deepspeed = None
            return
        if self.sharding is not None:
            raise ConfigurationError(
                "fsdp and deepspeed both shard the model. Keep one: fsdp=True, or deepspeed with ZeRO stage 3, which "
                "does the same."
            )
        if self.bf16_full_eval or self.fp16_full_eval:
            raise ConfigurationError(
                "bf16_full_eval and fp16_full_eval convert the model, which deepspeed holds. Use bf16=True or "
                "fp16=True: then evaluation is in that precision too."
            )
        self.deepspeed = options.config
        ranks = self.num_workers if isinstance(self.num_workers, int) and self.num_workers > 0 else None
        check_against(options, self, world_size=ranks)

    @property
    def zero(self) -> DeepSpeedOptions | None:
        """What DeepSpeed shards; None when it is not asked for."""
        return read_deepspeed(self.deepspeed)

    @property
    def _setup_devices(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.device

    def _validate_args(self) -> None:
        # Before the anchor's own checks, for a message that says what to do.
        check_combinations(self, devices=False)
        super()._validate_args()

    @contextlib.contextmanager
    def _as_if_on_cpu(self) -> Iterator[None]:
        """Let the anchor normalize without looking for hardware, then put back what was wished for."""
        # DeepSpeed's JSON is read here; the anchor would set up Accelerate for it.
        looks_at_hardware = (
            "use_cpu",
            "tf32",
            "dataloader_pin_memory",
            "dataloader_multiprocessing_context",
        )
        compiles = ("torch_compile", "torch_compile_backend", "torch_compile_mode")
        kept = {name: getattr(self, name) for name in (*looks_at_hardware, *compiles, "deepspeed")}
        self.torch_compile, self.torch_compile_backend, self.torch_compile_mode = False, None, None
        if self.optim in OPTIMIZERS:  # the anchor knows its own names only
            kept["optim"], self.optim = self.optim, "adamw_torch"
        self.use_cpu, self.tf32, self.deepspeed = True, None, None
        try:
            yield
        except ConfigurationError:
            raise
        except (ValueError, TypeError, OSError) as error:
            raise ConfigurationError(
                f"transformers.TrainingArguments refuses these values: {error} Correct the argument that "
                "it names."
            ) from error
        finally:
            for name, value in kept.items():
                setattr(self, name, value)

    def __getattr__(self, name: str) -> Any:
        # Called for missing attributes only: scripts of earlier versions read the names that they set.
        return read_legacy(self, name)
