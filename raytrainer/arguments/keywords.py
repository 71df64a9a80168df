"""Keywords of earlier versions become today's, and unknown ones are refused with the nearest valid names.

Used for keyword construction, dicts, JSON, YAML and command lines alike. An old and a new name that say the same are
fine, different ones are an error. A field counts as said when its value is not the default.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

from raytrainer.arguments.aliases import ALIASES, warn_once
from raytrainer.errors import ConfigurationError, UnknownArgumentError
from raytrainer.suggestions import did_you_mean


def translate_keywords(cls: type, keywords: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Translate keywords for the constructor of a class of arguments.

    Args:
        cls: ``TrainingArguments`` or a subclass.
        keywords: As the user wrote them.

    Returns:
        The keywords of today, and the old ones with their values.

    Raises:
        UnknownArgumentError: For a keyword that the constructor does not take.
        ConfigurationError: For an old name that cannot be honoured, or that contradicts a new one.
    """
    parameters = inspect.signature(cls.__init__).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    today: dict[str, Any] = {}
    legacy: dict[str, Any] = {}
    for name, value in keywords.items():
        if name in parameters:
            today[name] = value
        elif name in ALIASES:
            legacy[name] = value
        elif takes_any:
            today[name] = value
        else:
            raise unknown_argument(cls.__name__, [name], list(parameters)[1:])
    defaults = {field.name: field for field in fields(cls)}
    for name, value in legacy.items():
        apply_alias(name, value, today, defaults)
    return today, legacy


def apply_alias(name: str, value: Any, today: dict[str, Any], defaults: Mapping[str, Field[Any]]) -> None:
    """Write the fields that an old name stands for into ``today``.

    Args:
        name: A name of the alias table.
        value: Its value.
        today: Values of fields, changed in place.
        defaults: The fields of the arguments, for what counts as said.

    Raises:
        ConfigurationError: If the value cannot be honoured, or a field says something else.
    """
    alias = ALIASES[name]
    warn_once(name, alias.hint)
    for field, new in alias.translate(value).items():
        old = today.get(field, MISSING)
        if old is MISSING or _is_default(defaults[field], old):
            today[field] = new
        else:
            today[field] = _joined(name, value, field, old, new)


def _is_default(field: Field[Any], value: Any) -> bool:
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    return value == default


def _joined(name: str, value: Any, field: str, old: Any, new: Any) -> Any:
    plain = getattr(old, "value", old)
    if plain == new:
        return old
    if isinstance(old, list) and isinstance(new, list):
        return old + [item for item in new if item not in old]
    if (
        isinstance(old, dict)
        and isinstance(new, dict)
        and all(old.get(key, new[key]) == new[key] for key in new)
    ):
        return old | new
    if field.endswith("_token"):
        raise ConfigurationError(f"{name} and {field} hold different tokens. Keep {field} alone.")
    raise ConfigurationError(
        f"{name}={value!r} and {field}={plain!r} contradict each other: {name} is the old spelling of "
        f"{field}={new!r}. Keep {field} alone."
    )


def unknown_argument(owner: str, names: list[str], known: list[str]) -> UnknownArgumentError:
    """Make the error for names that nothing takes.

    Args:
        owner: Whose arguments they would be.
        names: The unknown names.
        known: All valid names.
    """
    names_of_today_and_before = [*known, *ALIASES]
    sentences = [
        f"{owner} has no argument {name!r}.{did_you_mean(name, names_of_today_and_before, count=3)}"
        for name in names
    ]
    return UnknownArgumentError(f"{' '.join(sentences)} Correct the name, or leave it out.")
