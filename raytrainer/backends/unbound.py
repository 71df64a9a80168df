"""``trainer.accelerator`` before a trainer is bound to a process: what works then, and what is prepared later.

Code reads it in a subclass's ``__init__`` and in scripts before ``train()``: to print on the main process, to wait, to
unwrap a model, to prepare a teacher. Nothing is known of devices there, and on a driver the ranks do not exist. So
everything stays on the CPU, a driver acts for all ranks, and what is prepared is only noted. When a backend is open in
the process that trains, each note is carried out there with the real ``Accelerator``, and this object becomes an alias
of it.

What needs a rank, such as a backward pass, is an error that says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast

import accelerate.data_loader
import accelerate.utils
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import GradientState
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from raytrainer.arguments.accelerator_config import loader_configuration
from raytrainer.arguments.unbound_state import UnboundState, share_with_process
from raytrainer.backends.prepared_early import Preparation, carry_out, is_held, note
from raytrainer.dialects.accelerate_sharding import ACCELERATOR_PLUGIN, PLUGIN_ATTRIBUTES
from raytrainer.errors import ConfigurationError

if TYPE_CHECKING:
    from raytrainer.arguments.training_arguments import TrainingArguments

_loaders: Any = accelerate.data_loader
_utils: Any = accelerate.utils


class NeedsRankError(ConfigurationError, AttributeError):
    """Something was asked of the accelerator that only a rank can do."""


class UnboundAcceleratorState(UnboundState):
    """What ``accelerator.state`` has besides: precision, and no plugin, since sharding is not accelerate's here."""

    def __init__(self, args: TrainingArguments) -> None:
        super().__init__(args)
        self.mixed_precision: str = args.mixed_precision
        vars(self).update(dict.fromkeys(PLUGIN_ATTRIBUTES))
        self.parallelism_config = self.device_mesh = None
        self.is_fsdp2 = False


class UnboundAccelerator(Accelerator):
    """The accelerator of a trainer that is not bound yet.

    Args:
        args: Of the trainer.
    """

    # Accelerate's constructor takes a device, and changes the state of the whole process.
    def __init__(self, args: TrainingArguments) -> None:
        self.state: Any = UnboundAcceleratorState(args)
        share_with_process(self.state)
        self.preparations: list[Preparation] = []
        self.gradient_state = GradientState()
        self.scaler = None
        self.native_amp = False
        self.trackers: list[Any] = []
        config = loader_configuration(args)
        self._loading: dict[str, Any] = {name: getattr(config, name) for name in (*OF_LOADING, "data_seed")}

    # ---- values of several ranks ------------------------------------------------------------------------------------

    def gather(self, tensor: Any) -> Any:
        """All ranks of a launcher: concatenate their tensors. A driver, which acts for all ranks, gets its own back."""
        return self._over_ranks(_utils.gather, tensor)

    def gather_for_metrics(self, input_data: Any, use_gather_object: bool = False) -> Any:
        """As ``gather``, without the samples that only filled the last batch up."""
        return cast("Any", super()).gather_for_metrics(input_data, use_gather_object=use_gather_object)

    def reduce(self, tensor: Any, reduction: str = "sum", scale: float = 1.0) -> Any:
        """All ranks of a launcher: reduce their tensors. A driver gets its own back."""
        return self._over_ranks(_utils.reduce, tensor, reduction=reduction, scale=scale)

    def pad_across_processes(
        self, tensor: Any, dim: int = 0, pad_index: int = 0, pad_first: bool = False
    ) -> Any:
        """All ranks of a launcher: pad to the size of the largest. A driver gets its own back."""
        return self._over_ranks(
            _utils.pad_across_processes, tensor, dim=dim, pad_index=pad_index, pad_first=pad_first
        )

    def _over_ranks(self, collective: Callable[..., Any], tensor: Any, **options: Any) -> Any:
        if not self.state.use_distributed:
            return tensor
        # The group of a launcher may know GPUs only, and everything here is on the CPU.
        on_device = _utils.send_to_device(tensor, PartialState().device)
        return _utils.send_to_device(collective(on_device, **options), self.state.device)

    # ---- models, optimizers, data -----------------------------------------------------------------------------------

    def prepare(self, *args: Any, device_placement: list[bool] | None = None) -> Any:
        """Note that each of the objects is to be prepared; a loader can be used here and now."""
        places = [None] * len(args) if device_placement is None else device_placement
        prepared = tuple(
            self._prepare_one(one, device_placement=place) for one, place in zip(args, places, strict=True)
        )
        return prepared[0] if len(prepared) == 1 else prepared

    def _prepare_one(self, obj: Any, first_pass: bool = False, device_placement: bool | None = None) -> Any:
        if isinstance(obj, DataLoader):
            return self.prepare_data_loader(cast("DataLoader[Any]", obj), device_placement)
        if isinstance(obj, nn.Module):
            return self.prepare_model(obj, device_placement)
        if isinstance(obj, Optimizer):
            return self.prepare_optimizer(obj, device_placement)
        return self.prepare_scheduler(obj) if isinstance(obj, LRScheduler) else obj

    def prepare_model(
        self, model: nn.Module, device_placement: bool | None = None, evaluation_mode: bool = False
    ) -> Any:
        """Note that a model is to be prepared on each rank; until then it stays as it is."""
        options = {"device_placement": device_placement, "evaluation_mode": evaluation_mode}
        return self._note("prepare_model", model, options)

    def prepare_optimizer(self, optimizer: Optimizer, device_placement: bool | None = None) -> Any:
        """Note that an optimizer is to be prepared on each rank."""
        return self._note("prepare_optimizer", optimizer, {"device_placement": device_placement})

    def prepare_scheduler(self, scheduler: LRScheduler) -> Any:
        """Note that a schedule is to be prepared on each rank, after its optimizer."""
        return self._note("prepare_scheduler", scheduler, {})

    def prepare_data_loader(
        self,
        data_loader: DataLoader[Any],
        device_placement: bool | None = None,
        slice_fn_for_dispatch: Callable[..., Any] | None = None,
    ) -> Any:
        """Note that a loader is to be divided over the ranks, and return one for this process.

        A launcher's rank gets its share. A driver, which acts for all ranks, gets all batches.
        """
        if getattr(data_loader, "_is_accelerate_prepared", False):
            return data_loader
        is_rank = self.state.use_distributed
        here: Any = _loaders.prepare_data_loader(
            data_loader,
            self.state.device,
            num_processes=self.state.num_processes if is_rank else 1,
            process_index=self.state.process_index if is_rank else 0,
            put_on_device=True,
            **{**self._loading, "dispatch_batches": False},
        )
        here._is_accelerate_prepared = True
        options = {"device_placement": device_placement, "slice_fn_for_dispatch": slice_fn_for_dispatch}
        self._add(note("prepare_data_loader", data_loader, options, here))
        return here

    def _note(self, method: str, given: Any, options: dict[str, Any]) -> Any:
        if all(one.given is not given for one in self.preparations):
            self._add(note(method, given, options, given))
        return given

    def _add(self, preparation: Preparation) -> None:
        self.preparations = [one for one in self.preparations if one.result is not None]
        self.preparations.append(preparation)

    def unwrap_model(
        self, model: Any, keep_fp32_wrapper: bool = True, keep_torch_compile: bool = True
    ) -> Any:
        """The user's module inside a wrapped one."""
        return _utils.extract_model_from_parallel(model, keep_fp32_wrapper, keep_torch_compile)

    def get_state_dict(self, model: Any, unwrap: bool = True) -> dict[str, torch.Tensor]:
        """The weights of a module of this process."""
        return (self.unwrap_model(model) if unwrap else model).state_dict()

    def skip_first_batches(self, dataloader: Any, num_batches: int = 0) -> Any:
        """A loader that begins later."""
        return _loaders.skip_first_batches(dataloader, num_batches=num_batches)

    def verify_device_map(self, model: nn.Module) -> bool:
        """Whether a model was spread over several devices when it was loaded."""
        return super().verify_device_map(model)

    def save(self, obj: Any, f: Any, safe_serialization: bool = False) -> None:
        """Write an object on the main process."""
        if self.state.is_main_process:
            _utils.save(obj, f, safe_serialization=safe_serialization)

    def free_memory(self, *objects: Any) -> list[None]:
        """Nones to replace the objects by; what was noted is prepared all the same."""
        return [None] * len(objects)

    def clear(self, *objects: Any) -> list[None]:
        """The same as ``free_memory``."""
        return self.free_memory(*objects)

    def no_sync(self, model: nn.Module) -> contextlib.AbstractContextManager[None]:
        """A block that changes nothing: no gradients are reduced here."""
        return contextlib.nullcontext()

    def autocast(self, autocast_handler: Any = None) -> contextlib.AbstractContextManager[Any]:
        """The precision of training, as far as the CPU has it: bf16, else full precision."""
        if self.state.mixed_precision == "bf16":
            return torch.autocast("cpu", dtype=torch.bfloat16)
        return contextlib.nullcontext()

    # ---- binding ----------------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        alive = [one for one in self.preparations if one.result is not None]
        return {**vars(self), "preparations": alive}

    def num_kept(self, holders: list[dict[str, Any]]) -> int:
        """How many of the notes matter to a rank: those of loaders that nobody stored do not.

        Args:
            holders: Where they may have been stored, by name.
        """
        return sum(one.loader is None or is_held(one.result, holders) for one in self.preparations)

    def bind(self, accelerator: Accelerator, *holders: dict[str, Any]) -> None:
        """All ranks: carry out what was noted, and become an alias of the accelerator of this process.

        Args:
            accelerator: The real one.
            *holders: Where results may have been stored, by name; those that change are replaced there.
        """
        carry_out(self.preparations, accelerator, list(holders))
        self.__class__ = _BoundAlias  # pyright: ignore[reportAttributeAccessIssue]
        self.__dict__ = vars(accelerator)


class _BoundAlias(Accelerator):
    """An unbound accelerator that was kept, once its trainer is bound. It belongs to its process."""

    def __reduce__(self) -> Any:
        raise TypeError("an Accelerator belongs to one process")


OF_STATE = (
    "distributed_type",
    "num_processes",
    "process_index",
    "local_process_index",
    "device",
    "is_main_process",
    "is_local_main_process",
    "is_last_process",
    "use_distributed",
    "mixed_precision",
    ACCELERATOR_PLUGIN,
    "is_fsdp2",
    "parallelism_config",
    "wait_for_everyone",
    "print",
    "main_process_first",
    "local_main_process_first",
    "split_between_processes",
    "on_main_process",
    "on_local_main_process",
    "on_last_process",
    "on_process",
    "on_local_process",
)
"""What the state answers; ``num_processes`` is the number of ranks that there will be."""
OF_LOADING = ("split_batches", "dispatch_batches", "even_batches", "use_seedable_sampler", "non_blocking")
"""What ``accelerator_config`` says."""
CONSTANTS: dict[str, Any] = {
    "multi_device": False,
    "is_composable_parallelism_enabled": False,
    "sync_gradients": True,
    "gradient_accumulation_steps": 1,
    "optimizer_step_was_skipped": False,
    "use_stateful_dataloader": False,
}
"""What is so as long as nothing trains: the loop accumulates by itself, and the backend shards by itself."""


def _constant(value: Any) -> property:
    return property(lambda _: value)


def _of_loading(name: str) -> property:
    return property(lambda self: self._loading[name])


def _refusing(name: str) -> property:
    def refuse(self: UnboundAccelerator) -> Any:
        raise NeedsRankError(
            f"`accelerator.{name}` needs a rank, and this trainer is not bound to a process yet: train(), evaluate() "
            "and predict() bind it. Use it in a hook or a callback, which run on the ranks."
        )

    return property(refuse, doc="Needs a rank.")


def _complete(cls: type[UnboundAccelerator]) -> None:
    """Give the class every public name of Accelerate's: answered, constant, or refused; nothing is inherited."""
    for name in OF_STATE:
        setattr(cls, name, property(attrgetter(f"state.{name}")))
    for name in OF_LOADING:
        setattr(cls, name, _of_loading(name))
    for name, value in CONSTANTS.items():
        setattr(cls, name, _constant(value))
    cls.should_save_model = property(attrgetter("state.is_main_process"))  # pyright: ignore[reportAttributeAccessIssue]
    for name in dir(Accelerator):
        if not name.startswith("_") and name not in vars(cls):
            setattr(cls, name, _refusing(name))


_complete(UnboundAccelerator)
