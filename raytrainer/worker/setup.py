"""The composition root: sets up a trainer, which so far only stored things, in this process.

Everything that exists once per process is created here, in this order: device, backend, model on its device,
callbacks. Nothing here runs on a driver that launches workers.
"""

# The underscore of a trainer's attribute keeps users out; the files of this package share it.

from __future__ import annotations

import logging
import os

import torch
import transformers
from torch import nn

from raytrainer.arguments.log_levels import apply_log_level
from raytrainer.arguments.placement import Placement
from raytrainer.arguments.seeding import seed_process
from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.backends.choose import forget_earlier_backend, open_backend
from raytrainer.checkpoint.locate import forget_copies, readable_on_all
from raytrainer.runtimes.base import Runtime
from raytrainer.storage.locations import is_uri
from raytrainer.trainer_protocol import TrainerProtocol
from raytrainer.worker.kernels import apply_kernels
from raytrainer.worker.memory_metrics import MemoryTracker
from raytrainer.worker.sharded_loading import class_of, load_config, load_in_shards

logger = logging.getLogger(__name__)


def set_up(trainer: TrainerProtocol, runtime: Runtime) -> None:
    """All ranks: make a trainer ready to work in this process.

    Args:
        trainer: Constructed here, or received from the driver.
        runtime: Where this rank runs.
    """
    args: TrainingArguments = trainer.args
    args.resolve(placement_of(args, runtime))
    apply_log_level(args)
    if trainer._trial is not None and args.num_workers != 0:
        say_only_in_log_files()
    forget_earlier_backend(args)
    trainer._process.runtime = runtime
    memory = trainer._process.memory_tracker = MemoryTracker(args.skip_memory_metrics)
    memory.start()
    given = trainer._own_model
    model = given if isinstance(given, nn.Module) else None
    name = None if given is None or isinstance(given, nn.Module) else str(readable_on_all(given, runtime))
    loads_in_shards = args.sharding is not None and args.sharding.loads_on_meta
    loads_late = args.zero is not None  # transformers shards it, once the backend has set stage 3
    if name is not None and not loads_in_shards and not loads_late:
        model = trainer._load_named_model(name)
    backend = trainer._process.backend = open_backend(args)
    trainer._bind_accelerator(backend.accelerator)
    if name is not None and loads_in_shards:
        model = load_in_shards(name, backend, args.device)
    elif name is not None and loads_late:
        model = trainer._load_named_model(name)
    if given is not None and not isinstance(given, nn.Module) and is_uri(given):
        runtime.barrier()  # the ranks of a machine read one copy
        forget_copies()
    if model is not None:
        set_model(trainer, model)
    state, handler = trainer.state, trainer.callback_handler
    state.is_local_process_zero = runtime.local_rank == 0
    state.is_world_process_zero = runtime.rank == 0
    handler.model = model
    trainer.control = handler.open_trackers(args, state, trainer.control)
    memory.stop_and_update_metrics()


def say_only_in_log_files() -> None:
    """In a worker of a trial: transformers writes into log files, and not between the lines of the sweep's table."""
    transformers.utils.logging.disable_default_handler()
    # A logger without any handler writes its warnings to stderr.
    transformers.utils.logging.add_handler(logging.NullHandler())
    transformers.utils.logging.disable_progress_bar()


def placement_of(args: TrainingArguments, runtime: Runtime) -> Placement:
    """Which device this rank uses."""
    device = torch.device("cpu")
    if not args.use_cpu and args.use_gpu is not False:
        named = os.environ.get("ACCELERATE_TORCH_DEVICE")
        if torch.cuda.is_available():
            device = torch.device(named) if named else torch.device("cuda", runtime.local_rank)
        elif torch.backends.mps.is_available() and runtime.world_size == 1:
            device = torch.device("mps")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return Placement(
        rank=runtime.rank,
        local_rank=runtime.local_rank,
        world_size=runtime.world_size,
        local_world_size=runtime.local_world_size,
        device=device,
        backend="nccl" if device.type == "cuda" else "gloo",
    )


def load_model(name: str) -> nn.Module:
    """Load a model by hub id or path, in the class that its config names.

    Raises:
        ConfigurationError: If transformers has no such class.
        OSError: If its files are not there, or the Hub cannot be reached.
    """
    try:
        return class_of(load_config(name), name).from_pretrained(name)
    except OSError as error:
        error.add_note(
            f"This was the model {name!r}, which each worker loads by its name: a directory that all of them see, or a "
            "model of the Hub that they can reach or have in their cache."
        )
        raise


def set_model(trainer: TrainerProtocol, model: nn.Module) -> None:
    """Make a model the one to train: move it to its device, inspect it once, and apply kernels."""
    args = trainer.args
    if trainer.place_model_on_device:
        trainer._move_model_to_device(model, args.device)
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "use_cache"):
        config.use_cache = args.use_cache
    trainer._use_model(model)
    apply_kernels(model, args)


def build_model(trainer: TrainerProtocol) -> None:
    """Build the model of a trainer with ``model_init`` again, from the run's seed, and drop its optimizer."""
    seed_process(trainer.args)
    set_model(trainer, trainer.call_model_init(trainer._trial))
    trainer.optimizer = trainer.lr_scheduler = None
