"""How an event of the run reaches the callbacks, and what their answers do.

The handler is transformers' own, so every ``transformers.TrainerCallback`` works unchanged: the same 16 events, order,
keyword arguments and resets of the control flags. What differs here is dispatch:

- A callback may answer with a mapping of control flags, as the example in the transformers guide does. An answer that
  means nothing is an error, never ignored.
- Events are dispatched several times per optimizer step, so one that no callback overrides costs one comparison of
  lists and one dictionary lookup. The comparison also notices users who edit ``handler.callbacks`` directly.

``on_log`` passes one and the same ``logs`` dict to all callbacks, in order. Users rely on it: a callback that adds a
value (memory, throughput) places itself before the reporters so that they send it too. A caller that wants to keep its
dict passes a copy.

This file never decides when to log, evaluate or save, and knows nothing of ranks: the loop makes ranks agree.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import trainer_callback
from transformers.trainer_callback import (
    DefaultFlowCallback,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
)

from raytrainer.errors import ConfigurationError, WrongTypeError
from raytrainer.user_types import ProcessingClass

if TYPE_CHECKING:
    from transformers import TrainingArguments
    from transformers.trainer_callback import TrainerState

    Event = Callable[..., TrainerControl]

logger = logging.getLogger(__name__)

CONTROL_FLAGS: tuple[str, ...] = (
    "should_training_stop",
    "should_epoch_stop",
    "should_save",
    "should_evaluate",
    "should_log",
)
"""The flags of ``TrainerControl`` that a callback may set, in the order in which ranks agree on them."""

EVENTS: tuple[str, ...] = (
    "on_init_end",
    "on_train_begin",
    "on_train_end",
    "on_epoch_begin",
    "on_epoch_end",
    "on_step_begin",
    "on_pre_optimizer_step",
    "on_optimizer_step",
    "on_substep_end",
    "on_step_end",
    "on_evaluate",
    "on_predict",
    "on_save",
    "on_log",
    "on_prediction_step",
    "on_push_begin",
)
"""All events of transformers."""


class CallbackHandler(trainer_callback.CallbackHandler):
    """Calls a list of callbacks in order.

    Args:
        callbacks: Callback classes (instantiated without arguments) or instances.
        model: Passed to every callback.
        processing_class: Passed to every callback.
        optimizer: Passed to every callback; may be set later.
        lr_scheduler: Passed to every callback; may be set later.
    """

    if TYPE_CHECKING:
        # The base class types neither its keywords nor what it returns.
        on_init_end: Event
        on_train_end: Event
        on_epoch_begin: Event
        on_epoch_end: Event
        on_step_begin: Event
        on_pre_optimizer_step: Event
        on_optimizer_step: Event
        on_substep_end: Event
        on_step_end: Event
        on_evaluate: Event
        on_predict: Event
        on_save: Event
        on_log: Event
        on_prediction_step: Event
        on_push_begin: Event

    callbacks: list[Any]
    model: Any
    processing_class: Any
    optimizer: Any
    lr_scheduler: Any
    train_dataloader: Any
    eval_dataloader: Any

    def __init__(
        self,
        callbacks: Iterable[type | object],
        model: nn.Module | None,
        processing_class: ProcessingClass | None,
        optimizer: Optimizer | None,
        lr_scheduler: LRScheduler | None,
    ) -> None:
        # Given a default flow, the base class does not warn; the warning below says what its absence means.
        super().__init__([DefaultFlowCallback], model, processing_class, optimizer, lr_scheduler)
        self.callbacks = []
        self._indexed: list[Any] = []
        self._listeners: dict[str, tuple[Any, ...]] = {}
        for callback in callbacks:
            self.add_callback(callback)
        self._of_constructor = list(self.callbacks)
        """Those that were there when the trainer was constructed; others are not told that it was."""
        if not any(isinstance(callback, DefaultFlowCallback) for callback in self.callbacks):
            logger.warning(
                "No DefaultFlowCallback among the callbacks (%s): nothing decides when to log, evaluate, save and "
                "stop. Add one with `trainer.add_callback(DefaultFlowCallback)`.",
                _one_line(self.callback_list),
            )

    def add_callback(self, callback: type | object) -> None:
        """Append a callback; a class is instantiated. A second one of the same class is allowed, with a warning.

        Raises:
            WrongTypeError: If it listens to no event, or is a class that cannot be instantiated without arguments.
        """
        _check_listens(callback)
        instance = callback() if isinstance(callback, type) else callback
        if type(instance) in [type(present) for present in self.callbacks]:
            logger.warning(
                "You are adding a %s to the callbacks of this Trainer, but there is already one (%s). Both will be "
                "called.",
                type(instance).__name__,
                _one_line(self.callback_list),
            )
        if type(instance) in SHOWN_BY_CONSOLE:
            _silence(instance)
        self.callbacks.append(instance)

    def overrides(self, event: str) -> bool:
        """Whether any callback listens to ``event``, so that the loop can skip preparing for it."""
        return bool(self._listeners_of(event))

    def call_event(
        self,
        event: str,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> TrainerControl:
        """Call ``event`` on every callback that overrides it, in order.

        Args:
            event: Name of the method, ``on_*``.
            args: The training arguments.
            state: The state of the run.
            control: The control flags; callbacks change them in place, or return another control.
            **kwargs: Passed on, besides the objects of the handler (model, optimizer, ...).

        Returns:
            The control that is valid from now on.

        Raises:
            ConfigurationError: If a callback returned a mapping with a key that is not a control flag.
            TypeError: If a callback returned something that is neither None, a control nor a mapping.
        """
        # Inlined from _listeners_of: for most events this is all that happens, several times per step.
        listeners = self._listeners.get(event) if self.callbacks == self._indexed else None
        if listeners is None:
            listeners = self._listeners_of(event)
        return self._call(listeners, event, args, state, control, kwargs) if listeners else control

    def _call(
        self,
        callbacks: Iterable[Any],
        event: str,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        kwargs: dict[str, object],
    ) -> TrainerControl:
        for callback in callbacks:
            try:
                answer = getattr(callback, event)(
                    args,
                    state,
                    control,
                    model=self.model,
                    processing_class=self.processing_class,
                    optimizer=self.optimizer,
                    lr_scheduler=self.lr_scheduler,
                    train_dataloader=self.train_dataloader,
                    eval_dataloader=self.eval_dataloader,
                    **kwargs,
                )
            except Exception as error:
                error.add_note(f"Raised by the callback {type(callback).__qualname__} in {event}.")
                raise
            if answer is not None and answer is not control:
                control = _apply(answer, control, callback, event)
        return control

    def open_trackers(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl
    ) -> TrainerControl:
        """Tell the trackers that the constructor has ended, in the process that trains: they open what belongs to it.

        Args:
            args: The training arguments.
            state: The state of the trainer.
            control: The control flags.
        """
        told = [
            callback
            for callback in self.callbacks
            if is_tracker(callback) and any(callback is one for one in self._of_constructor)
        ]
        return self._call(told, "on_init_end", args, state, control, {})

    def _listeners_of(self, event: str) -> tuple[Any, ...]:
        if self.callbacks != self._indexed:
            self._forget_listeners()
        listeners = self._listeners.get(event)
        if listeners is None:
            found = [one for one in self.callbacks if _listens(one, event)]
            if event == "on_init_end":
                found = [one for one in found if not is_tracker(one)]  # see open_trackers
            listeners = self._listeners[event] = tuple(found)
        return listeners

    def _forget_listeners(self) -> None:
        """Forget who listens to what; each event is looked up again when it is next dispatched."""
        self._indexed = list(self.callbacks)
        self._listeners = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> TrainerControl:
        """Training begins."""
        self._forget_listeners()  # Methods may have been replaced on an instance since they were last looked up.
        base: Any = super()
        return base.on_train_begin(args, state, control, **kwargs)


def _check_listens(callback: object) -> None:
    is_class = isinstance(callback, type)
    name = callback.__name__ if is_class else type(callback).__name__
    if not any(callable(getattr(callback, event, None)) for event in EVENTS):
        raise WrongTypeError(
            f"The callback {callback!r} is {'the class' if is_class else 'a'} {name}, which listens to no event. "
            "Derive it from transformers.TrainerCallback, or give it a method such as on_log or on_step_end."
        )
    if is_class and not _takes_nothing(callback):
        raise WrongTypeError(
            f"The callback {name} is a class that takes arguments ({inspect.signature(callback)}). Pass an instance, "
            f"callbacks=[{name}(...)]."
        )


def _takes_nothing(cls: Callable[..., Any]) -> bool:
    try:
        inspect.signature(cls).bind()
    except TypeError:
        return False
    except ValueError:  # a class of C without a signature
        return True
    return True


SHOWN_BY_CONSOLE = (ProgressCallback, PrinterCallback)
"""Callbacks whose work the console does, on the driver's terminal."""


def _silence(callback: object) -> None:
    """Have one of them do nothing even where a library calls all callbacks by itself."""
    for event in vars(type(callback)).keys() & set(EVENTS):
        setattr(callback, event, _say_nothing)


def _say_nothing(*args: object, **kwargs: object) -> None:
    """Takes the place of an event."""


def is_tracker(callback: object) -> bool:
    """Whether a callback is one of transformers' reporters: they open what belongs to the process that reports."""
    return any(kind.__module__.startswith("transformers.integrations.") for kind in type(callback).__mro__)


def _listens(callback: TrainerCallback | type[TrainerCallback], event: str) -> bool:
    """Whether ``callback`` has a method of its own for ``event``; duck-typed objects may lack some events."""
    if type(callback) in SHOWN_BY_CONSOLE:
        return False
    method = getattr(callback, event, None)
    if method is None:
        return False
    inherited = getattr(TrainerCallback, event, None)
    return inherited is None or getattr(method, "__func__", method) is not inherited


def _apply(answer: object, control: TrainerControl, callback: object, event: str) -> TrainerControl:
    """Return the control that results from what ``callback`` answered to ``event``."""
    if isinstance(answer, TrainerControl):
        return answer
    name = type(callback).__qualname__
    if not isinstance(answer, Mapping):
        raise TypeError(
            f"The callback {name} returned {type(answer).__name__} from {event}. Expected None, the `control` "
            f"it was given, or a dict of control flags such as {{'should_training_stop': True}}."
        )
    for key, value in cast("Mapping[object, object]", answer).items():
        if key not in CONTROL_FLAGS:
            raise ConfigurationError(
                f"The callback {name} returned the key {key!r} from {event}, which is not a control flag. "
                f"Use one of: {', '.join(CONTROL_FLAGS)}."
            )
        if isinstance(value, str):
            raise TypeError(
                f"The callback {name} returned {{{key!r}: {value!r}}} from {event}. Every non-empty string is true, "
                "so this is probably not what you mean. Return True or False."
            )
        setattr(control, str(key), bool(value))
    return control


def _one_line(names: str) -> str:
    return names.replace("\n", ", ") or "none"
