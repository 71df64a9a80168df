"""Which type the value of an argument must have, by the annotation of its field; what is close to it is converted.

Text from YAML, a command line or the environment becomes what it says: ``"False"`` is False, ``"5e-5"`` is a number
(PyYAML reads it as text), ``"none"`` is None where None is allowed. Whole numbers may be written ``5.0``, numbers of
numpy and 0-dim tensors become Python's. Anything else is an error: a value must not mean something else than it says.

Fields that a user's own subclass adds are converted if they can be, and never refused. A value that equals the
default of its field is always allowed, whatever the annotation says.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import sys
import types
import typing
from collections.abc import Callable, Mapping, Set
from dataclasses import MISSING, Field, fields
from enum import Enum
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from raytrainer.errors import ConfigurationError, WrongTypeError

if TYPE_CHECKING:
    from raytrainer.arguments.training_arguments import TrainingArguments

_HAVE_READERS = frozenset(
    {
        "num_workers",
        "resources_per_worker",
        "label_selector",
        "resume_from_checkpoint",
        "accelerator_config",
        "parallelism_config",
        "deepspeed",
        "fsdp",
        "fsdp_config",
        "debug",
        "generation_config",
        "hub_token",
        "max_failures",
        "sigterm_exit_code",
        "include_num_input_tokens_seen",
    }
)
"""Fields with a notation of their own, which the file that reads it checks."""
_MAY_BE_INFINITE = frozenset({"max_grad_norm"})
"""Floats where infinity means something: a norm that is measured and clips nothing. Timeouts may be infinite too."""
_TRUE, _FALSE = ("true", "t", "yes", "y", "on", "1"), ("false", "f", "no", "n", "off", "0")
_NONE = ("none", "null")


class _NotThis(Exception):  # noqa: N818 - never leaves this file
    """A value does not have a type."""


def coerce_types(args: TrainingArguments) -> None:
    """Convert every field to the type that its annotation names.

    Raises:
        ConfigurationError: For the first value that does not have that type.
    """
    cls = type(args)
    hints, ours = _hints(cls), _fields_of_this_package(cls)
    for field in fields(args):
        if field.name in _HAVE_READERS:
            continue
        value = getattr(args, field.name)
        try:
            converted = _converted(field, value, hints.get(field.name, field.type))
        except _NotThis:
            if field.name in ours:
                raise _refusal(field, value, hints[field.name]) from None
            continue
        if converted is not value:
            setattr(args, field.name, converted)


@functools.cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    """The annotations of a class; a parser narrows the ``type`` of its fields, so these are read again."""
    try:
        return typing.get_type_hints(cls)
    except NameError:  # a user's annotation is imported for type checkers only
        return {**_hints(cls.__mro__[1]), **_known_hints(cls)}


def _known_hints(cls: type[Any]) -> dict[str, Any]:
    """Those of a class's own annotations that can be evaluated."""
    found: dict[str, Any] = {}
    for name, hint in vars(cls).get("__annotations__", {}).items():
        holder = types.SimpleNamespace(__annotations__={name: hint})
        with contextlib.suppress(NameError):
            found |= typing.get_type_hints(holder, globalns=vars(sys.modules[cls.__module__]))
    return found


@functools.cache
def _fields_of_this_package(cls: type[Any]) -> frozenset[str]:
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] == "raytrainer":
            return frozenset(field.name for field in fields(base))
    return frozenset()


def _members(hint: object) -> tuple[object, ...]:
    args = typing.get_args(hint)
    return args if args and typing.get_origin(hint) not in (list, dict, tuple, typing.Literal) else (hint,)


def _converted(field: Field[Any], value: Any, hint: object) -> Any:
    """The value in one of the types of a field.

    Raises:
        _NotThis: If it is none of them.
    """
    members = _members(hint)
    if any(isinstance(member, type) and issubclass(member, Enum) for member in members):
        return _interval_word(field.name, value)
    if value is None:
        return _none(field, members)
    if field.default is not MISSING and type(value) is type(field.default) and value == field.default:
        return value
    if type(None) in members and str not in members and isinstance(value, str) and value.lower() in _NONE:
        return None
    return _read(field.name, value, members)


def _read(name: str, value: Any, members: tuple[object, ...]) -> Any:
    """The value in the first of some types that it can be read in."""
    plain = _plain(value)
    kinds = [typing.get_origin(member) or member for member in members]
    for kind, member in zip(kinds, members, strict=True):
        if kind is typing.Literal:
            if plain in typing.get_args(member):
                return plain
            continue
        if kind is type(None) or (kind is str and dict in kinds):  # text is that of a dict, and nothing else
            continue
        reader = _READERS.get(kind)
        if reader is None:  # a type that this file does not know
            return value
        with contextlib.suppress(_NotThis):
            return reader(name, plain)
    raise _NotThis


def _interval_word(name: str, value: object) -> object:
    """A word that ``values`` checks; YAML reads ``no`` as False."""
    return "no" if name.endswith("_strategy") and value is False else value


def _none(field: Field[Any], members: tuple[object, ...]) -> Any:
    if field.name == "eval_delay":
        return 0  # what set_evaluate() of transformers 5.23 leaves behind
    if field.name == "report_to":
        return []  # scripts mean "to nobody"
    if type(None) in members or field.default is None:
        return None
    if field.default is False:
        return False  # what transformers takes it for, and no other default is meant
    raise _NotThis


def _plain(value: Any) -> Any:
    """A number of numpy or torch as one of Python."""
    is_scalar = getattr(value, "ndim", None) == 0 and hasattr(value, "item")
    return value.item() if is_scalar else value


def read_switch(name: str, value: object) -> bool:
    """What the text of an argument of an earlier version that is True or False says.

    Raises:
        WrongTypeError: If it is something else.
    """
    try:
        return _read_bool(name, value)
    except _NotThis:
        raise WrongTypeError(f"{name}={value!r} is neither True nor False. Write one of them.") from None


def _read_bool(_name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else str(value) if isinstance(value, int) else ""
    if word not in (*_TRUE, *_FALSE):
        raise _NotThis
    return word in _TRUE


def _read_int(_name: str, value: object) -> int:
    number = _number(value)
    if isinstance(number, float) and not number.is_integer():
        raise _NotThis
    return int(number)


def _read_float(name: str, value: object) -> int | float:
    """A whole number stays one: ``warmup_steps=10`` is a number of steps, and ``0.1`` a ratio."""
    number = _number(value)
    may_be_infinite = name in _MAY_BE_INFINITE or name.endswith("_timeout_s")
    if math.isnan(number) or (math.isinf(number) and not may_be_infinite):
        raise _NotThis
    return number


def _number(value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _NotThis
    if not isinstance(value, str):
        return value
    try:
        parsed = float(value)
    except ValueError as error:
        raise _NotThis from error
    is_whole = parsed.is_integer() and "." not in value and "e" not in value.lower()
    return int(value) if is_whole else parsed


def _read_text(name: str, value: object) -> str:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)  # YAML reads run_name: 2024 as a number
    if isinstance(value, os.PathLike):
        value = os.fspath(cast("os.PathLike[str]", value))
    if isinstance(value, BaseContext):
        return value.get_start_method()  # of multiprocessing, as DataLoader takes it
    if not isinstance(value, str):
        raise _NotThis
    if "\0" in value:
        raise ConfigurationError(
            f"{name}={value!r} contains a NUL character, which no path and no name may have. Remove it."
        )
    return value


def _read_names(_name: str, value: object) -> list[str]:
    names: object = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple | Set):
        raise _NotThis
    given = cast("list[object] | tuple[object, ...] | Set[object]", names)
    listed = given if isinstance(given, list) else list(given)
    if listed == [None]:
        return []
    if not all(isinstance(one, str) for one in listed):
        raise _NotThis
    return cast("list[str]", listed)


def _read_dict(name: str, value: object) -> dict[str, Any]:
    found = value
    if isinstance(value, str):
        if not value:
            return {}
        try:
            found = json.loads(value)
        except ValueError as error:
            raise ConfigurationError(
                f"{name}={value!r} is text, but not that of a JSON object ({error}). Give a dict, or for instance "
                f"{name}='{{\"key\": 1}}' on a command line."
            ) from error
    if not isinstance(found, Mapping):
        raise _NotThis
    given = cast("Mapping[Any, Any]", found)
    if not all(isinstance(key, str) for key in given):
        raise _NotThis
    return given if type(given) is dict else dict(given)  # pyright: ignore[reportUnknownVariableType]


def _read_path(_name: str, value: object) -> Path:
    if not isinstance(value, Path):
        raise _NotThis
    return value


_READERS: dict[object, Callable[[str, Any], object]] = {
    bool: _read_bool,
    int: _read_int,
    float: _read_float,
    str: _read_text,
    list: _read_names,
    dict: _read_dict,
    Path: _read_path,
}
_WORDS: dict[object, tuple[str, str]] = {
    bool: ("True or False", "Write True or False."),
    int: ("a whole number", "Round it."),
    float: ("a number", "Give a finite number, for instance {name}={example}."),
    str: ("text", "Write it in quotes."),
    list: ("a list of text", "Give a list such as {name}=['one', 'two']."),
    dict: ("a dict with text as keys", "Give a dict, or a JSON object on a command line."),
}


def _refusal(field: Field[Any], value: object, hint: object) -> ConfigurationError:
    known = [typing.get_origin(one) or one for one in _members(hint)]
    words = [_WORDS[one] for one in known if one in _WORDS]
    expected = " or ".join(one[0] for one in words)
    if type(None) in known:
        expected += ", or None"
    default = None if field.default is MISSING else field.default
    if value is None:
        return WrongTypeError(
            f"{field.name}=None, but {expected} was expected. Leave it out for the default, {default!r}."
        )
    shown = repr(value)
    shown = shown if len(shown) <= 100 else f"{shown[:100]}..."
    kind = "text" if isinstance(value, str) else f"a {type(value).__name__}"
    if int in known and _is_number(value):
        kind = "not a whole number"
    elif isinstance(value, float):
        kind = "not a finite number"
    advice = words[0][1].format(name=field.name, example=default if isinstance(default, int | float) else 1)
    if int in known and kind != "not a whole number":
        advice = (
            f"Give a whole number, for instance {field.name}={default if isinstance(default, int) else 1}."
        )
    return WrongTypeError(f"{field.name}={shown} is {kind}, but {expected} was expected. {advice}")


def _is_number(value: object) -> bool:
    try:
        _number(value)
    except _NotThis:
        return False
    return True
