"""``TrainingArguments``: what a user asks for, stored on the driver and bound to a device on a worker.

The driver and the workers are different machines. So constructing arguments only stores, normalizes and checks plain
values: it touches no device, creates no process group and no Accelerate state, and a laptop may ask for bf16 on GPUs.
``resolve`` binds arguments to one process; a pickle does not include that.
"""

# No `from __future__ import annotations`: HfArgumentParser evaluates the types of the fields below.
import contextlib
import os
from abc import ABCMeta
from collections.abc import Generator
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
import transformers

from raytrainer.arguments.accelerator_config import check_accelerator_config, normalize_accelerator_config
from raytrainer.arguments.aliases import read_legacy, warn_once
from raytrainer.arguments.combinations import (
    check_combinations,
    check_environment,
    check_placement,
    evaluation_has_an_interval,
)
from raytrainer.arguments.compilation import check_kernels, normalize_compilation
from raytrainer.arguments.debugging import check_files, normalize_debug
from raytrainer.arguments.elastic import check_elastic
from raytrainer.arguments.field_types import coerce_types
from raytrainer.arguments.hub import check_hub
from raytrainer.arguments.json_file import read_values
from raytrainer.arguments.keywords import translate_keywords
from raytrainer.arguments.log_levels import process_log_level
from raytrainer.arguments.optimizer_names import OPTIMIZERS
from raytrainer.arguments.process import BoundToProcess
from raytrainer.arguments.ray_options import RayOptions
from raytrainer.arguments.supported_fields import check_supported
from raytrainer.arguments.trackers import check_trackio
from raytrainer.arguments.values import check_values
from raytrainer.dialects.accelerate import fields_from_environment, fields_from_file, merge
from raytrainer.dialects.deepspeed import DeepSpeedOptions, read_deepspeed
from raytrainer.dialects.deepspeed_auto import check_against
from raytrainer.dialects.fsdp import ShardingOptions, canonical, read_sharding
from raytrainer.errors import ConfigurationError
from raytrainer.storage.locations import as_path, refuse_secrets

Made = TypeVar("Made")


def add_accelerate_settings(cls: type, keywords: dict[str, Any]) -> None:
    """Add the settings of an accelerate config file and of a launcher's environment to a constructor's keywords.

    Args:
        cls: The class that is constructed.
        keywords: Its keywords; changed in place.

    Raises:
        ConfigurationError: If the settings contradict the keywords, or are not available.
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
    """Translates names of earlier versions before any ``__init__`` sees them, including that of a subclass."""

    def __call__(cls: type[Made], *args: object, **kwargs: object) -> Made:
        """Construct arguments from current names and those of earlier versions."""
        keywords, legacy = translate_keywords(cls, kwargs)
        add_accelerate_settings(cls, keywords)
        made = super().__call__(*args, **keywords)
        made.__dict__.update({"_legacy": legacy} if legacy else {})
        return made


@dataclass(repr=False)
class TrainingArguments(BoundToProcess, RayOptions, transformers.TrainingArguments, metaclass=ArgumentsType):
    """The arguments of ``transformers.TrainingArguments``, and those that say how Ray runs the workers.

    Every field is supported or refused with a reason (``arguments.supported_fields``), contradictions raise at once,
    and names of earlier versions are accepted with a warning (``arguments.aliases``).

    Raises:
        ConfigurationError: For unknown, contradictory or unavailable arguments.
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
            "help": "A token with write access to the Hub. By default the uploading process uses its own: HF_TOKEN, "
            "or that of `hf auth login`."
        },
    )
    logging_dir: str | None = field(
        default=None,
        metadata={"help": "Directory for TensorBoard logs; output_dir/runs/... by default."},
    )

    rank_check_steps: int = field(
        default=100,
        metadata={
            "help": "How often, in steps, to compare the weights that should be equal on all workers, and stop if they "
            "differ. 0: never."
        },
    )
    async_save: bool | None = field(
        default=None,
        metadata={
            "help": "Write checkpoints beside training: a save copies the state to memory, and a process of its own "
            "writes and commits it while training goes on. Needs memory for one copy of what a worker saves. By "
            "default this is done on CPUs, where it can be and a worker saves 64 MiB or more. True: always, or it is "
            "an error. False: never."
        },
    )
    async_save_overlap: str = field(
        default="wait",
        metadata={
            "help": "What follows when a save is due while the one before is still being written beside training. "
            "'wait': training waits for it. 'merge': training goes on, and as soon as the one before is committed the "
            "state of that step is saved, once for all saves that were due meanwhile; it needs async_save=True.",
            "choices": ["wait", "merge"],
        },
    )
    report_page: bool = field(
        default=True,
        metadata={
            "help": "Write report.html, the page of the run, into output_dir when train() ends, if raytrainer[report] "
            "is installed. `raytrainer report` writes it at any time."
        },
    )
    accelerate_config: str | None = field(
        default=None,
        metadata={
            "help": "A file that `accelerate config` wrote: number of processes, precision, FSDP. An argument that "
            "contradicts it is an error."
        },
    )

    sigterm_exit_code: int | None = field(
        default=143,
        metadata={
            "help": "With what status this process ends after SIGTERM, once the run has been saved: 143 says that it "
            "was terminated. None: train() returns, and the script goes on."
        },
    )

    def __post_init__(self) -> None:
        if self.logging_dir is not None:
            warn_once("logging_dir", "set the environment variable TENSORBOARD_LOGGING_DIR instead")
        check_environment()
        self._check_fields()
        self.normalize_sharding()
        normalize_debug(self)
        with self._as_if_on_cpu():
            super().__post_init__()  # calls _validate_args, which checks combinations
        normalize_accelerator_config(self)
        self.normalize_deepspeed()
        normalize_compilation(self)
        if self.use_cpu:
            self.dataloader_pin_memory = False
        self._check_normalized()

    def check(self) -> None:
        """Check everything again, for arguments that were changed after they were constructed.

        Raises:
            ConfigurationError: As the constructor does.
        """
        self._check_fields()
        check_combinations(self)
        normalize_accelerator_config(self)
        self._check_normalized()

    def _check_fields(self) -> None:
        """Turn values into those of their types, and check what transformers need not have filled in for that."""
        # "<HUB_TOKEN>" is what to_dict() writes in place of any token, also of none; True means that of the machine.
        if self.hub_token in ("<HUB_TOKEN>", "", True):
            self.hub_token = None
        coerce_types(self)
        if self.output_dir is not None:
            self.output_dir = as_path(self.output_dir)
        self.normalize_ray_options()
        check_values(self)
        check_supported(self)
        evaluation_has_an_interval(self)
        if self.output_dir is not None:
            refuse_secrets(str(self.output_dir))

    def _check_normalized(self) -> None:
        """Check what needs every value in its final form; a subclass with fields of its own extends this."""
        check_placement(self)
        check_elastic(self)
        check_files(self)
        check_kernels(self)
        check_trackio(self)
        check_hub(self)
        check_accelerator_config(self)

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Self:
        """Read the arguments of a run from the ``training_args.json`` beside its model.

        Tokens are masked in the file, so ``hub_token`` is None again.

        Raises:
            ConfigurationError: If the file cannot be read, or its arguments are not valid here.
        """
        return cls(**read_values(Path(path)))

    def get_process_log_level(self) -> int:
        """Return the log level of this process: by default INFO on the main one and WARNING on the others."""
        return process_log_level(self)

    def normalize_sharding(self) -> None:
        """Rewrite ``fsdp`` and ``fsdp_config``, in whatever vocabulary, in that of FSDP2.

        Raises:
            ConfigurationError: For an option that does not exist or is not available.
        """
        options = self.sharding
        if options is None:
            self.fsdp, self.fsdp_config = None, None
            return
        self.fsdp, self.fsdp_config = True, canonical(options)  # pyright: ignore[reportAttributeAccessIssue]
        if options.activation_checkpointing:
            self.activation_checkpointing = True

    @property
    def sharding(self) -> ShardingOptions | None:
        """How FSDP shards parameters; None if it was not asked for."""
        return read_sharding(self.fsdp, self.fsdp_config)

    @property
    def sharded_by(self) -> str | None:
        """The argument that asks to shard the model; None if none does."""
        return "fsdp" if self.fsdp else "deepspeed" if self._deepspeed else None

    def normalize_deepspeed(self) -> None:
        """Read DeepSpeed's config, which may be a file, and check it against the other arguments.

        Raises:
            ConfigurationError: For a key that does not exist, is not available, or contradicts another argument.
        """
        options = self.zero
        if options is None:
            self.deepspeed = None
            return
        if self.sharding is not None:
            raise ConfigurationError(
                "fsdp and deepspeed both shard the model. Keep one of them: fsdp=True and DeepSpeed's ZeRO stage 3 do "
                "the same."
            )
        if self.bf16_full_eval or self.fp16_full_eval:
            raise ConfigurationError(
                "bf16_full_eval and fp16_full_eval convert the model, but DeepSpeed's engine owns its weights. Use "
                "bf16=True or fp16=True, which evaluate in that precision too."
            )
        self.deepspeed = options.config
        check_against(options, self, world_size=self.max_workers or None)

    @property
    def _deepspeed(self) -> dict[str, Any] | str | None:
        return self.deepspeed  # pyright: ignore[reportUnknownVariableType]

    @property
    def zero(self) -> DeepSpeedOptions | None:
        """What was asked of DeepSpeed; None if it was not asked for."""
        return read_deepspeed(self._deepspeed)

    @property
    def _setup_devices(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.device

    def _validate_args(self) -> None:
        # Before transformers' own checks, for messages that say what to do.
        check_combinations(self)
        super()._validate_args()

    @contextlib.contextmanager
    def _as_if_on_cpu(self) -> Generator[None]:
        """Let transformers normalize values without looking for hardware, then put back what the user asked for."""
        # deepspeed is among them because transformers would set up Accelerate for it.
        looks_at_hardware = (
            "use_cpu",
            "tf32",
            "dataloader_pin_memory",
            "dataloader_multiprocessing_context",
        )
        compiles = ("torch_compile", "torch_compile_backend", "torch_compile_mode")
        kept = {name: getattr(self, name) for name in (*looks_at_hardware, *compiles, "deepspeed")}
        self.torch_compile, self.torch_compile_backend, self.torch_compile_mode = False, None, None
        if self.optim in OPTIMIZERS:  # transformers knows its own names only
            kept["optim"], self.optim = self.optim, "adamw_torch"
        self.use_cpu, self.tf32, self.deepspeed = True, None, None
        try:
            yield
        except ConfigurationError:
            raise
        except (ValueError, TypeError, OSError) as error:
            raise ConfigurationError(
                f"transformers.TrainingArguments refuses these values: {error} Correct the argument that "
                "this names."
            ) from error
        finally:
            for name, value in kept.items():
                setattr(self, name, value)

    def __getattr__(self, name: str) -> Any:
        # Called for missing attributes only: scripts written for earlier versions read the names that they set.
        return read_legacy(self, name)
