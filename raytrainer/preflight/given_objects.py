"""Whether each object that a Trainer was given is one that can be used in its place.

Reads no dataset and calls nothing. What the samples of a dataset are like is looked at in ``first_batch``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset

from raytrainer.arguments.launched import launched
from raytrainer.errors import ConfigurationError, ModelError, WrongTypeError
from raytrainer.optim.ties import check_covers, check_tied
from raytrainer.preflight.datasets import named_datasets
from raytrainer.preflight.facts import MAKES_OPTIMIZER, PLACES_MODEL, USES_INPUTS, TrainerFacts, is_users_own

_NAMED = 3
"""So many parameters are named."""
_PLAIN = (bool, int, float, complex, str, bytes, bytearray)


def optimizer_pair(given: Any) -> tuple[Any, Any]:
    """Read ``optimizers=``.

    Raises:
        WrongTypeError: If it is not a pair.
    """
    described = _described(given)
    if not isinstance(given, tuple | list) or len(cast("tuple[object, ...]", given)) != 2:
        raise WrongTypeError(
            f"optimizers={described}, but a pair was expected: optimizers=(optimizer, schedule), "
            "where each may be None. Pass optimizers=(optimizer, None) if you have no schedule."
        )
    optimizer, schedule = cast("tuple[Any, Any]", given)
    return optimizer, schedule


def listed_callbacks(given: object) -> list[Any]:
    """Read ``callbacks=``.

    Raises:
        WrongTypeError: If it is not a list. Each callback is checked where it is added.
    """
    described = _described(given)
    if given is None:
        return []
    if isinstance(given, (*_PLAIN, Mapping)) or not isinstance(given, Iterable):
        raise WrongTypeError(
            f"callbacks={described}, but a list of callbacks was expected. Pass a list, also for "
            "one: callbacks=[MyCallback()]."
        )
    return list(cast("Iterable[Any]", given))


def datasets_can_be_read(facts: TrainerFacts) -> None:
    """A dataset is read by index, or iterated over."""
    if facts.train_dataset is not None:
        check_is_dataset("train_dataset", facts.train_dataset)
        if isinstance(facts.train_dataset, Mapping):
            _is_no_dict_of_datasets(cast("Mapping[Any, Any]", facts.train_dataset))
    check_eval_datasets("eval_dataset", facts.eval_dataset)


def check_eval_datasets(keyword: str, given: object) -> None:
    """Check what is to be evaluated: a dataset, or a dict of them.

    Raises:
        ConfigurationError: If it is something else.
    """
    if given is None:
        return
    if isinstance(given, Mapping):
        names = list(cast("Mapping[object, object]", given))
        if not names:
            raise ConfigurationError(
                f"{keyword}={{}} names no dataset, so nothing would be evaluated. Pass a dataset, or leave it out."
            )
        wrong = [name for name in names if not isinstance(name, str)]
        if wrong:
            raise WrongTypeError(
                f"{keyword} has the key {wrong[0]!r}, {_kind(wrong[0])}, but the names of datasets are text: metrics "
                f"are called after them. Write {str(wrong[0])!r}."
            )
    for name, dataset in named_datasets(given, keyword):
        check_is_dataset(name, dataset)


def check_is_dataset(name: str, dataset: object) -> None:
    """Check that something can be read as a dataset.

    Raises:
        WrongTypeError: If it cannot.
        ConfigurationError: If its length cannot be read.
    """
    described = _described(dataset)
    expected = "a dataset was expected: a torch.utils.data.Dataset, a datasets.Dataset, or a list of samples"
    if isinstance(dataset, DataLoader):
        raise WrongTypeError(
            f"{name} is a DataLoader, but {expected}; loaders are made from it on each worker. Pass its dataset, and "
            "per_device_train_batch_size; or override get_train_dataloader."
        )
    if isinstance(dataset, type):
        raise WrongTypeError(
            f"{name} is the class {dataset.__name__}, but {expected}. Pass an instance of it."
        )
    readable = isinstance(dataset, Dataset | Iterable) or hasattr(dataset, "__getitem__")
    if dataset is None or isinstance(dataset, (*_PLAIN, set, frozenset)) or not readable:
        hint = " To load one by name, call datasets.load_dataset first." if isinstance(dataset, str) else ""
        raise WrongTypeError(f"{name}={described}, but {expected}. Pass one of these.{hint}")
    if hasattr(cast("object", dataset), "__len__"):
        _check_length(name, cast("Any", dataset))


def _check_length(name: str, dataset: Any) -> None:
    try:
        len(dataset)
    except (TypeError, NotImplementedError):
        return  # has none, like a stream; what needs one says so
    except Exception as error:
        raise ConfigurationError(
            f"The length of {name} cannot be read: len() of the {type(dataset).__name__} raised "
            f"{type(error).__name__}: {error}. Return the number of samples from its __len__, or leave that out."
        ) from error


def _is_no_dict_of_datasets(given: Mapping[Any, Any]) -> None:
    inner = [name for name, one in given.items() if isinstance(one, Dataset) or hasattr(one, "column_names")]
    if inner:
        raise WrongTypeError(
            f"train_dataset is a {type(given).__name__} of datasets ({', '.join(map(str, inner))}), but one dataset "
            f"was expected. Pass one of them, for instance train_dataset=data[{inner[0]!r}], or concatenate them."
        )


def functions_can_be_called(facts: TrainerFacts) -> None:
    """What makes batches and metrics is a function that takes what it will be given."""
    _is_no_class("compute_loss_func", facts.compute_loss_func, "(outputs, labels, num_items_in_batch)")
    _check_function("data_collator", facts.data_collator, "(samples): a list of samples", 1)
    metrics = "(prediction): an EvalPrediction"
    if not facts.args.batch_eval_metrics:  # else it also takes compute_result, which has a rule of its own
        _check_function("compute_metrics", facts.compute_metrics, metrics, 1)
    elif facts.compute_metrics is not None:
        _check_function("compute_metrics", facts.compute_metrics, metrics, None)
    _check_function(
        "preprocess_logits_for_metrics", facts.preprocess_logits_for_metrics, "(logits, labels)", 2
    )


def _check_function(name: str, function: Any, expected: str, num_arguments: int | None) -> None:
    if function is None:
        return
    _is_no_class(name, function, expected)
    if not callable(function):
        raise WrongTypeError(
            f"{name}= is a {type(function).__name__}, which cannot be called. A function {expected} was expected. "
            "Pass one, or an object with __call__."
        )
    if num_arguments is None:
        return
    problem = _why_not_callable_with(function, num_arguments)
    if problem is not None:
        raise ConfigurationError(
            f"{name}= cannot be called with {expected}: {problem}. Change what it takes."
        )


def _is_no_class(name: str, function: Any, expected: str) -> None:
    if isinstance(function, type):
        raise WrongTypeError(
            f"{name}= is the class {function.__name__}, but a function {expected} was expected. Pass an instance, "
            f"{name}={function.__name__}(...)."
        )


def _why_not_callable_with(function: Callable[..., Any], num_arguments: int, **keywords: Any) -> str | None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a function of C without a signature
        return None
    try:
        signature.bind(*[None] * num_arguments, **keywords)
    except TypeError as error:
        return f"it takes {signature}, {error}"
    return None


def optimizers_can_step(facts: TrainerFacts) -> None:
    """``optimizers=`` and ``optimizer_cls_and_kwargs=`` are what their names say, and train this model."""
    optimizer, schedule = facts.optimizers
    for what, one in (("an optimizer", optimizer), ("a learning rate schedule", schedule)):
        # accelerate's DummyOptim and DummyScheduler, which stand for those of a DeepSpeed config, do not step.
        is_stand_in = type(one).__module__.startswith("accelerate.")
        if one is not None and (
            isinstance(one, type) or not (callable(getattr(one, "step", None)) or is_stand_in)
        ):
            shown = f"the class {one.__name__}" if isinstance(one, type) else _kind(one)
            raise WrongTypeError(
                f"optimizers= has {shown} where {what} was expected, which has a step(). Pass optimizers=(optimizer, "
                "schedule); either may be None. To have it built on the workers, pass optimizer_cls_and_kwargs=."
            )
    if isinstance(facts.model, torch.nn.Module) and optimizer is not None:
        check_covers(optimizer, list(facts.model.named_parameters()))
    if not facts.overrides & MAKES_OPTIMIZER or optimizer is not None:
        check_tied(optimizer, schedule)
    given: object = facts.optimizer_cls_and_kwargs
    if given is not None:
        _check_class_and_options(given)


def _check_class_and_options(given: object) -> None:
    described = _described(given)
    pair = cast("tuple[Any, ...]", given) if isinstance(given, tuple | list) else ()
    if len(pair) != 2 or not callable(pair[0]) or not isinstance(pair[1], Mapping):
        raise WrongTypeError(
            f"optimizer_cls_and_kwargs={described}, but a pair of an optimizer's class and a "
            "dict of its arguments was expected, for instance (torch.optim.AdamW, {'lr': 1e-3})."
        )
    make, options = cast("tuple[Callable[..., Any], Mapping[Any, Any]]", pair)
    if make.__module__ == "builtins":
        raise WrongTypeError(
            f"optimizer_cls_and_kwargs= names {make.__name__}, but an optimizer's class was "
            "expected, for instance (torch.optim.AdamW, {'lr': 1e-3})."
        )
    groups = [name for name in ("params", "model", "optimizer_dict") if name in options]
    named = {str(name): value for name, value in options.items() if name not in groups}
    problem = _why_not_callable_with(make, 1, **named)
    if problem is not None:
        raise ConfigurationError(
            f"optimizer_cls_and_kwargs= has arguments that {getattr(make, '__name__', make)} does not take: {problem}. "
            "Correct them."
        )
    if make.__module__.startswith("torch.optim"):
        _try_options(make, named)


def _try_options(make: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Build an optimizer of torch on one number, to see whether it takes the values of its options."""
    try:
        make([torch.nn.Parameter(torch.zeros(1))], **options)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"optimizer_cls_and_kwargs= has arguments that {make.__name__} refuses: {options!r}: {error}. Correct them."
        ) from error


def processing_class_can_be_saved(facts: TrainerFacts) -> None:
    """A processing class is an object, and not the name of one."""
    given = facts.processing_class
    described = _described(given)
    if isinstance(given, (*_PLAIN, list, tuple, dict, set, type)) or type(given) is object:
        hint = (
            f" Load it first: AutoTokenizer.from_pretrained({given!r})."
            if isinstance(given, str)
            else " Pass one, or leave it out."
        )
        raise WrongTypeError(
            f"processing_class={described}, but a tokenizer, image processor, feature extractor "
            f"or processor was expected.{hint}"
        )


def model_can_be_trained(facts: TrainerFacts) -> None:
    """At least one parameter is trainable, unless code of the user's may unfreeze it.

    Raises:
        ModelError: If none is.
    """
    model = facts.model
    if not isinstance(model, torch.nn.Module) or facts.overrides & (MAKES_OPTIMIZER | USES_INPUTS):
        return
    parameters = list(model.parameters())
    if any(parameter.requires_grad for parameter in parameters):
        return
    name = type(model).__name__
    if not parameters:
        raise ModelError(
            f"{name} has no parameters, so there is nothing to train. Register them: a list of modules is an "
            "nn.ModuleList, a tensor an nn.Parameter."
        )
    if any(is_users_own(callback) for callback in facts.callbacks):
        return
    raise ModelError(
        f"All {len(parameters)} parameters of {name} are frozen (requires_grad=False), so there is nothing to train. "
        "Unfreeze some, for instance model.requires_grad_(True), or add an adapter."
    )


def model_has_values(facts: TrainerFacts) -> None:
    """No parameter or buffer is on the meta device, unless something would give it memory and values.

    accelerate's hooks do, where it keeps weights elsewhere, and DeepSpeed, which has parameters of its own. So may code
    of the user's that places the model, and another rank of a launcher, from which a rank gets its shards.

    Raises:
        ModelError: If one is.
    """
    model = facts.model
    if not isinstance(model, torch.nn.Module) or facts.overrides & PLACES_MODEL:
        return
    if facts.args.sharding is not None and launched("RANK"):
        return
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    found = [name for name, one in tensors.items() if one.is_meta and not hasattr(one, "ds_id")]
    if not found or any(hasattr(module, "_hf_hook") for module in model.modules()):
        return
    name = type(model).__name__
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    can_load = hasattr(model, "from_pretrained")
    load = f"{name}.from_pretrained(...)" if can_load else "or build it outside of torch.device('meta')"
    raise ModelError(
        f"{len(found)} of the {len(tensors)} parameters and buffers of {name} are on the meta device, which holds "
        f"their shapes and no values: {', '.join(found[:_NAMED])}{more}. A model with values was expected. "
        f"Load it, {load}; or give it memory, model.to_empty(device='cpu'), and then values, by a state_dict or its "
        "own initialization. A model that is too large for that can be given by name, with "
        "fsdp_config={'cpu_ram_efficient_loading': True}."
    )


def _described(value: Any) -> str:
    return f"{_shown(value)} is {_kind(value)}"


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    if isinstance(value, tuple | list):
        return f"a {name} of {len(cast('list[object]', value))}"
    return "text" if isinstance(value, str) else f"{'an' if name[0].lower() in 'aeio' else 'a'} {name}"


def _shown(value: Any) -> str:
    """A short form of a value; objects may be large, and text may be a secret's neighbor."""
    if isinstance(value, _PLAIN) or value is None:
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:57]}..."
    return "..."
