"""Translate argument names of earlier versions, and refuse unknown names with the nearest valid ones.

Used for keyword construction, dicts, JSON, YAML and command lines alike. A former and a current name may both be given
if they agree; if they contradict each other, that is an error. A field counts as given if its value is not the default.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, cast

from raytrainer.arguments.aliases import ALIASES, warn_once
from raytrainer.arguments.field_types import read_switch
from raytrainer.errors import ConfigurationError, UnknownArgumentError
from raytrainer.suggestions import did_you_mean


def translate_keywords(cls: type, keywords: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Translate keywords for the constructor of a class of arguments.

    Args:
        cls: ``TrainingArguments`` or a subclass.
        keywords: As the user wrote them.

    Returns:
        The keywords with current names, and the former names with their values.

    Raises:
        UnknownArgumentError: For a keyword that the constructor does not take.
        ConfigurationError: For a former name that is not supported any more, or that contradicts a current one.
    """
    parameters = inspect.signature(cls.__init__).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    current: dict[str, Any] = {}
    legacy: dict[str, Any] = {}
    for name, value in keywords.items():
        if name in parameters:
            current[name] = value
        elif name in ALIASES:
            is_word = ALIASES[name].kind is bool and isinstance(value, str)
            legacy[name] = read_switch(name, value) if is_word else value
        elif takes_any:
            current[name] = value
        else:
            raise unknown_argument(cls.__name__, [name], list(parameters)[1:])
    defaults = {field.name: field for field in fields(cls)}
    for name, value in legacy.items():
        apply_alias(name, value, current, defaults)
    return current, legacy


def apply_alias(name: str, value: Any, current: dict[str, Any], defaults: Mapping[str, Field[Any]]) -> None:
    """Write the fields that a former name stands for into ``current``.

    Args:
        name: A name of the alias table.
        value: Its value.
        current: Values of fields, changed in place.
        defaults: The fields of the arguments; one that has its default counts as not given.

    Raises:
        ConfigurationError: If the value is not supported any more, or contradicts a field.
    """
    alias = ALIASES[name]
    warn_once(name, alias.hint)
    for field, new in alias.translate(value).items():
        old = current.get(field, MISSING)
        if old is MISSING or _is_default(defaults[field], old):
            current[field] = new
        else:
            current[field] = _joined(name, value, field, old, new)


def _is_default(field: Field[Any], value: Any) -> bool:
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    return value == default


def _joined(name: str, value: Any, field: str, old: Any, new: Any) -> Any:
    plain = getattr(old, "value", old)
    if plain == new:
        return old
    if isinstance(old, list) and isinstance(new, list):
        items, more = cast("list[Any]", old), cast("list[Any]", new)
        return items + [item for item in more if item not in items]
    if isinstance(old, dict) and isinstance(new, dict):
        keys, added = cast("dict[str, Any]", old), cast("dict[str, Any]", new)
        if all(keys.get(key, item) == item for key, item in added.items()):
            return keys | added
    if field.endswith("_token"):
        raise ConfigurationError(f"{name} and {field} are different tokens. Keep only {field}.")
    raise ConfigurationError(
        f"{name}={value!r} and {field}={plain!r} contradict each other: {name} is the former spelling of "
        f"{field}={new!r}. Keep only {field}."
    )


def unknown_argument(owner: str, names: list[str], known: list[str]) -> UnknownArgumentError:
    """Make the error for unknown names.

    Args:
        owner: What was given these names; the subject of the message.
        names: The unknown names.
        known: All valid names.
    """
    current_and_former = [*known, *ALIASES]
    sentences = [
        f"{owner} has no argument {name!r}.{did_you_mean(name, current_and_former, count=3)}"
        for name in names
    ]
    return UnknownArgumentError(f"{' '.join(sentences)} Correct the name, or leave it out.")
