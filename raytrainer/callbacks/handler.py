"""How an event of the run reaches the callbacks, and what their answers do.

Every ``transformers.TrainerCallback`` works unchanged: the same 16 events, order, keyword arguments and resets of
the control flags. Beyond that, a callback may answer with a mapping of control flags, as the guide's example does.
An answer that means nothing is an error, never ignored.

Events are dispatched several times per optimizer step, so those that no callback overrides cost one list
comparison and one dict lookup. The comparison also notices users who edit ``handler.callbacks`` directly.

``on_log`` hands one and the same ``logs`` dict to all callbacks, in order. Users rely on it: a callback that adds
a value (memory, throughput) places itself before the reporters so that they send it too. The price is that
``PrinterCallback`` removes ``total_flos`` for those after it; a caller that wants to keep its dict passes a copy.

This file never decides when to log, evaluate or save, and knows nothing of ranks: agreement over them is the
loop's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from transformers.trainer_callback import DefaultFlowCallback, TrainerCallback, TrainerControl

from raytrainer.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import TrainingArguments
    from transformers.trainer_callback import TrainerState

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
"""All events."""


class CallbackHandler(TrainerCallback):
    """Calls a list of callbacks in order. Same surface as transformers' handler of that name.

    Args:
        callbacks: Callback classes (instantiated without arguments) or instances.
        model: Passed to every callback.
        processing_class: Passed to every callback.
        optimizer: Passed to every callback; may be set later.
        lr_scheduler: Passed to every callback; may be set later.
    """

    def __init__(
        self,
        callbacks: Iterable[type | object],
        model: Any,
        processing_class: Any,
        optimizer: Any,
        lr_scheduler: Any,
    ) -> None:
        self.callbacks: list[Any] = []
        self.model = model
        self.processing_class = processing_class
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.train_dataloader: Any = None
        self.eval_dataloader: Any = None
        self._indexed: list[Any] = []
        self._listeners: dict[str, tuple[Any, ...]] = {}
        for callback in callbacks:
            self.add_callback(callback)
        if not any(isinstance(callback, DefaultFlowCallback) for callback in self.callbacks):
            logger.warning(
                "No DefaultFlowCallback among the callbacks (%s): nothing decides when to log, evaluate, save and "
                "stop. Add one with `trainer.add_callback(DefaultFlowCallback)`.",
                _one_line(self.callback_list),
            )

    # ---- The list -------------------------------------------------------------------------------------------

    def add_callback(self, callback: type | object) -> None:
        """Append a callback; a class is instantiated. A second one of the same class is allowed, with a warning."""
        instance = callback() if isinstance(callback, type) else callback
        if type(instance) in [type(present) for present in self.callbacks]:
            logger.warning(
                "You are adding a %s to the callbacks of this Trainer, but there is already one (%s). Both will be "
                "called.",
                type(instance).__name__,
                _one_line(self.callback_list),
            )
        self.callbacks.append(instance)

    def pop_callback(self, callback: type | object) -> Any | None:
        """Remove and return the first callback that is an instance of, or equal to, ``callback``; None if none."""
        for present in self.callbacks:
            if isinstance(present, callback) if isinstance(callback, type) else present == callback:
                self.callbacks.remove(present)
                return present
        return None

    def remove_callback(self, callback: type | object) -> None:
        """Remove the first callback of a class, silently if there is none; or this instance, which must be there."""
        if isinstance(callback, type):
            self.pop_callback(callback)
        else:
            self.callbacks.remove(callback)

    @property
    def callback_list(self) -> str:
        """The class names of the callbacks, one a line."""
        return "\n".join(type(callback).__name__ for callback in self.callbacks)

    # ---- Dispatch -------------------------------------------------------------------------------------------

    def overrides(self, event: str) -> bool:
        """Whether any callback listens to ``event``, so that the loop can skip preparing for it."""
        if self.callbacks != self._indexed:
            self._index()
        if event not in self._listeners:
            self._listeners[event] = tuple(cb for cb in self.callbacks if _listens(cb, event))
        return bool(self._listeners[event])

    def call_event(
        self, event: str, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Call ``event`` on every callback that has it, in order.

        Args:
            event: Name of the method, ``on_*``.
            args: The training arguments.
            state: The state of the run.
            control: The flags; changed in place by callbacks, or replaced by one that they return.
            **kwargs: Passed on, after the objects of the handler (model, optimizer, ...).

        Returns:
            The control to go on with.

        Raises:
            ConfigurationError: If a callback returned a mapping with a key that is no control flag.
            TypeError: If a callback returned something that is neither None, a control nor a mapping.
        """
        if self.callbacks != self._indexed:
            self._index()
        listeners = self._listeners.get(event)
        if listeners is None:
            listeners = self._listeners[event] = tuple(cb for cb in self.callbacks if _listens(cb, event))
        for callback in listeners:
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
            if answer is not None:
                control = _apply(answer, control, callback, event)
        return control

    def _index(self) -> None:
        """Forget who listens to what; each event is looked up again when it is dispatched next."""
        self._indexed = list(self.callbacks)
        self._listeners = {}

    # ---- The events (the resets of flags are the anchor's) --------------------------------------------------

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """The Trainer is constructed."""
        return self.call_event("on_init_end", args, state, control, **kwargs)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Training begins; a stop that was asked for before is forgotten."""
        self._index()  # Methods may have been replaced on an instance since the list was last looked at.
        control.should_training_stop = False
        return self.call_event("on_train_begin", args, state, control, **kwargs)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Training ended."""
        return self.call_event("on_train_end", args, state, control, **kwargs)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """An epoch begins."""
        control.should_epoch_stop = False
        return self.call_event("on_epoch_begin", args, state, control, **kwargs)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """An epoch ended."""
        return self.call_event("on_epoch_end", args, state, control, **kwargs)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """A step begins: its first micro-batch comes next."""
        control.should_log = False
        control.should_evaluate = False
        control.should_save = False
        return self.call_event("on_step_begin", args, state, control, **kwargs)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Gradients are clipped, the optimizer comes next."""
        return self.call_event("on_pre_optimizer_step", args, state, control, **kwargs)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """The optimizer stepped, gradients are still there."""
        return self.call_event("on_optimizer_step", args, state, control, **kwargs)

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """A micro-batch that does not end its step is done."""
        return self.call_event("on_substep_end", args, state, control, **kwargs)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """A step is done."""
        return self.call_event("on_step_end", args, state, control, **kwargs)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: Any,
    ) -> TrainerControl:
        """An evaluation ended."""
        control.should_evaluate = False
        return self.call_event("on_evaluate", args, state, control, metrics=metrics, **kwargs)

    def on_predict(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: Any,
    ) -> TrainerControl:
        """A prediction ended."""
        return self.call_event("on_predict", args, state, control, metrics=metrics, **kwargs)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """A checkpoint is saved."""
        control.should_save = False
        return self.call_event("on_save", args, state, control, **kwargs)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any],
        **kwargs: Any,
    ) -> TrainerControl:
        """Values are logged."""
        control.should_log = False
        return self.call_event("on_log", args, state, control, logs=logs, **kwargs)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """A batch of an evaluation or prediction is done."""
        return self.call_event("on_prediction_step", args, state, control, **kwargs)

    def on_push_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """The model is about to be pushed to the hub."""
        return self.call_event("on_push_begin", args, state, control, **kwargs)


def _listens(callback: Any, event: str) -> bool:
    """Whether ``callback`` has a method of its own for ``event``; duck-typed objects may lack some events."""
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
    for key, value in answer.items():
        if key not in CONTROL_FLAGS:
            raise ConfigurationError(
                f"The callback {name} returned the key {key!r} from {event}, which is no control flag. "
                f"Use one of: {', '.join(CONTROL_FLAGS)}."
            )
        if isinstance(value, str):
            raise TypeError(
                f"The callback {name} returned {{{key!r}: {value!r}}} from {event}. Every non-empty string is true, "
                "so this cannot be what you mean; return True or False."
            )
        setattr(control, key, bool(value))
    return control


def _one_line(names: str) -> str:
    return names.replace("\n", ", ") or "none"
