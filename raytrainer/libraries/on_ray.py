"""The driver's side of a trainer of ``transformers`` that runs as it is on Ray workers.

For trainers whose loop is their own, so that raytrainer's cannot take its place. The object that a user holds has no
trainer in it: each worker constructs one, and methods are called on all of them.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import TrainerState
from transformers.training_args import TrainingArguments as BaseArguments

from raytrainer.arguments.elastic import check_fixed
from raytrainer.arguments.ray_options import RayOptions
from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.driver.entry_points import new_run_id, runs_in_this_process
from raytrainer.driver.worker_group import WorkerGroup
from raytrainer.errors import ConfigurationError, GroupClosedError, UnknownArgumentError
from raytrainer.libraries.made_arguments import as_made, record_constructions
from raytrainer.libraries.remote_trainer import CallContext, CallResult, TrainedModel, TrainerCall
from raytrainer.storage.locations import is_uri
from raytrainer.suggestions import did_you_mean
from raytrainer.telemetry.events import WaitBegun
from raytrainer.telemetry.shown import Shown
from raytrainer.wire.hub_token import token_for_uploads, without_token
from raytrainer.wire.preparations import Preparations

if TYPE_CHECKING:
    from raytrainer.telemetry.console import Renderer

logger = logging.getLogger(__name__)

_SESSION = "raytrainer.libraries.own_session:open_session"
_OPTIONS = tuple(one.name for one in fields(RayOptions))


def on_ray(cls: type, **options: Any) -> Callable[..., Any]:
    """Run a subclass of ``transformers.Trainer`` on Ray workers as it is, with its own training loop.

    Use it for trainers that replace the loop, which ``patch_transformers`` therefore cannot serve. Each worker
    constructs the trainer as a process of torchrun would; progress, errors, Ctrl-C, restarts and committed
    checkpoints are raytrainer's.

    ::

        ZerothOrder = raytrainer.on_ray(ZerothOrderTrainer, num_workers=2)
        trainer = ZerothOrder(model, args, train_dataset=dataset)
        trainer.train()
        trainer.model.save_pretrained("trained")

    Call it before you construct the arguments: workers construct them again, from the same call. With
    ``num_workers=0``, and under torchrun, the trainer is constructed in this process, and is the class itself.

    Args:
        cls: The class.
        **options: How Ray runs the workers: ``num_workers``, ``use_gpu``, ``resources_per_worker``, ``max_failures``
            and the other Ray arguments of ``raytrainer.TrainingArguments``.

    Returns:
        A function with the parameters of the class's constructor; it returns a ``RemoteTrainer``.

    Raises:
        ConfigurationError: If the class does not derive from ``transformers.Trainer``, or an option is invalid.
    """
    _check_class(cls)
    for name in options:
        if name not in _OPTIONS:
            raise UnknownArgumentError(
                f"on_ray() has no option {name!r}.{did_you_mean(name, _OPTIONS)} Other arguments belong into the "
                "arguments of the trainer itself."
            )
    checked = TrainingArguments("unused", **options)  # which checks their values
    check_fixed(checked, "on_ray()", "the loop is the trainer's own, and its batches follow from that number")
    record_constructions()

    @functools.wraps(cls, updated=())
    def construct(*positional: Any, **keywords: Any) -> Any:
        bound = _bind(cls, positional, keywords)
        ours = _our_arguments(bound.get("args"), options)
        if runs_in_this_process(ours):
            return cls(*positional, **keywords)
        return RemoteTrainer(cls, positional, keywords, ours)

    return construct


def _check_class(cls: object) -> None:
    if isinstance(cls, type) and _is_ours(cls):
        raise ConfigurationError(
            f"{cls.__qualname__} derives from raytrainer.Trainer, which runs on Ray workers already. Construct it "
            "directly; num_workers= in its TrainingArguments says on how many. (A library that was imported after "
            "patch_transformers() derives from it too.)"
        )
    if not isinstance(cls, type) or not any(_is_theirs(kind) for kind in cls.__mro__):
        raise ConfigurationError(
            f"on_ray() got {cls!r}; a class that derives from transformers.Trainer was expected."
        )


def _is_ours(cls: type) -> bool:
    return any(kind.__module__ == "raytrainer.trainer" for kind in cls.__mro__)


def _is_theirs(kind: type) -> bool:
    return kind.__module__ == "transformers.trainer" and kind.__qualname__ == "Trainer"


def _bind(cls: type, positional: tuple[Any, ...], keywords: Mapping[str, Any]) -> Mapping[str, Any]:
    """Name the constructor's arguments.

    Raises:
        TypeError: As the constructor would, if they do not fit.
    """
    return inspect.signature(cls.__init__).bind(None, *positional, **keywords).arguments


def _our_arguments(theirs: Any, options: Mapping[str, Any]) -> TrainingArguments:
    """What a worker group reads, from the arguments of the trainer and the options of ``on_ray``.

    Raises:
        ConfigurationError: If they cannot be used.
    """
    if getattr(theirs, "async_save", False):
        raise ConfigurationError(
            "async_save=True needs raytrainer's own loop, and this trainer brings its own. Set async_save=False."
        )
    kept = ("use_cpu", "ddp_backend", "ddp_timeout", "full_determinism", "disable_tqdm")
    values = {name: getattr(theirs, name) for name in kept if hasattr(theirs, name)}
    return TrainingArguments(_output_dir(theirs), **values, **options)


def _output_dir(theirs: Any) -> str:
    given = str(getattr(theirs, "output_dir", None) or "trainer_output")
    if is_uri(given):
        raise ConfigurationError(
            f"output_dir={given!r} is a URI, and a trainer of transformers writes its files itself, into a directory. "
            "Give a path that all workers share, for instance on NFS or on a mounted bucket."
        )
    return os.path.abspath(given)


class RemoteTrainer:
    """A trainer of ``transformers`` on Ray workers. Made by ``on_ray``.

    Methods of the class are called on all workers, and return what rank 0 returns. Other attributes are read from
    rank 0 while the workers stand; none can be set, because the workers would not see it.
    """

    def __init__(
        self, cls: type, positional: tuple[Any, ...], keywords: Mapping[str, Any], options: TrainingArguments
    ) -> None:
        bound = _bind(cls, positional, keywords)
        vars(self)["_remote"] = _Remote(cls, positional, keywords, options, bound)

    _remote: _Remote

    @property
    def args(self) -> Any:
        """The arguments. Changes of fields reach the workers with the next call."""
        return self._remote.args

    @property
    def state(self) -> TrainerState:
        """The state after the last call."""
        return self._remote.state

    @property
    def model(self) -> Any:
        """The model that was given, with the weights of the workers; the workers' own if the trainer made another."""
        return self._remote.read_model()

    def end(self) -> None:
        """End the workers; the trained weights come to the driver first."""
        self._remote.end()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        remote = self._remote
        if callable(inspect.getattr_static(remote.kind, name, None)):
            return functools.partial(remote.run, name)
        if not remote.is_open:
            raise AttributeError(
                f"{remote.kind.__qualname__} has no method {name!r}, and its attributes exist on the workers, which "
                "are not running: call train() or another method first."
            )
        exists, value = remote.run("_attribute", name)
        if not exists:
            raise AttributeError(f"the {remote.kind.__qualname__} on the workers has no attribute {name!r}")
        return value

    def __setattr__(self, name: str, value: object) -> None:
        raise ConfigurationError(
            f"{name} cannot be set on a trainer whose object is on the workers, which would not see it. Pass it to the "
            "constructor, set it in __init__ of a subclass, or change trainer.args."
        )

    def __repr__(self) -> str:
        return f"<{self._remote.kind.__qualname__} on Ray workers>"


class _Remote:
    """The workers of one trainer, and what the driver has of it."""

    def __init__(
        self,
        kind: type,
        positional: tuple[Any, ...],
        keywords: Mapping[str, Any],
        options: TrainingArguments,
        bound: Mapping[str, Any],
    ) -> None:
        self.kind = kind
        self.args: Any = bound.get("args")
        self.state = TrainerState()
        self._positional = positional
        self._keywords = keywords
        self._options = options
        self._model: Any = bound.get("model")
        self._weights: Mapping[str, Any] | None = None
        """Trained weights of a model that the trainer made itself."""
        self._group: WorkerGroup | None = None
        self._sent_call: TrainerCall | None = None
        """What the workers construct; they end when nothing refers to it any more."""
        self._renderer: Renderer | None = None
        self._trained_run_id: str | None = None
        self._trained_step = 0
        self._weights_are_on_workers = False
        self._sent: dict[str, str] = {}
        """Fields of the arguments as the workers got them when they were started."""
        self._changed: set[str] = set()
        """Fields that have been different since."""
        self._describe()  # arguments that cannot be made again are refused now

    @property
    def is_open(self) -> bool:
        return self._group is not None and self._group.is_open

    # ---- calls --------------------------------------------------------------------------------------------------

    def run(self, method: str, *positional: Any, **keywords: Any) -> Any:
        """Call a method of the session on all workers and return what rank 0 returned."""
        from raytrainer.telemetry.console import Renderer  # with rich, for who shows something

        renderer = self._renderer = Renderer(shown=lambda: Shown(progress=not self._options.disable_tqdm))
        try:
            result = self._call(method, positional, keywords)
        finally:
            renderer.close()
        self.state = result.state
        return result.value

    def _call(self, method: str, positional: tuple[Any, ...], keywords: dict[str, Any]) -> CallResult:
        for _ in range(2):
            group = self._open_group()
            group.hub_token = token_for_uploads(self.args)
            run_id = new_run_id()
            context = CallContext(
                trained_run_id=self._trained_run_id,
                trained_step=self._trained_step,
                changes=self._changes(),
            )
            try:
                result: CallResult = group.call(method, positional, keywords, task_id=run_id, context=context)
            except GroupClosedError:
                # They left because no call came; their weights go to the next group.
                self._forget_group()
                continue
            if method == "train":
                self._trained_run_id, self._trained_step = run_id, result.state.global_step
                self._weights_are_on_workers = True
            return result
        raise GroupClosedError("The workers left twice while they were given a call. Call again.")

    def _open_group(self) -> WorkerGroup:
        if self._group is not None and not self._group.is_open:
            self._forget_group()
        if self._group is None:
            self._trained_run_id = None
            self._sent, self._changed = self._fields(), set()
            self._sent_call = self._describe()
            self._show(WaitBegun(what="starting the workers"))
            self._group = WorkerGroup(
                self._sent_call,
                self._options,
                self._show,
                open_session=_SESSION,
                preparations=Preparations(),  # the trainer is that of transformers, whatever this process has patched
            )
            self._group.hub_token = token_for_uploads(self.args)
            self._group.start()
        return self._group

    def _forget_group(self) -> None:
        self.read_model()
        if self._group is not None:
            self._group.kill()
        self._group = None

    def end(self) -> None:
        """End the workers; their weights come to the driver first."""
        if self._group is None:
            return
        self.read_model()
        self._group.end()
        self._group = None

    def _show(self, event: object) -> None:
        if self._renderer is not None:
            self._renderer.handle(event)

    # ---- what the workers construct -----------------------------------------------------------------------------

    def _describe(self) -> TrainerCall:
        return TrainerCall(
            kind=self.kind,
            positional=tuple(self._described(value) for value in self._positional),
            keywords={name: self._described(value) for name, value in self._keywords.items()},
            given_model=self._model if isinstance(self._model, nn.Module) else None,
            weights=self._weights,
        )

    def _described(self, value: object) -> Any:
        if not isinstance(value, BaseArguments):
            return value
        made = as_made(value)
        # Workers may have another working directory.
        return replace(made, changes={**made.changes, "output_dir": _output_dir(value)})

    def _fields(self) -> dict[str, str]:
        if self.args is None:
            return {}
        return {one.name: repr(getattr(self.args, one.name)) for one in fields(self.args)}

    def _changes(self) -> Mapping[str, Any]:
        """Fields that were changed since the workers were started, also those that were changed back."""
        self._changed |= {name for name, text in self._fields().items() if self._sent.get(name) != text}
        return without_token({name: getattr(self.args, name) for name in self._changed})

    # ---- weights ------------------------------------------------------------------------------------------------

    def read_model(self) -> Any:
        """The driver's model, with the weights of the workers."""
        if not self._weights_are_on_workers:
            return self._model
        group = self._group
        assert group is not None, "only workers can have the weights"
        trained: TrainedModel | None = self.run("_trained") if group.is_open else group.final_weights()
        self._weights_are_on_workers = False
        if trained is None:
            logger.warning("The trained weights were lost with their workers; load the last checkpoint.")
        elif trained.model is None:
            self._model.load_state_dict(trained.weights)
        else:
            self._model, self._weights = trained.model, trained.weights
            self._model.load_state_dict(trained.weights)
        return self._model
