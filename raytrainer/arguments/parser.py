"""``HfArgumentParser`` that also accepts the names of earlier versions, in command lines, dicts, JSON and YAML files.

The parser of transformers works with our arguments too, for current names. Former names are options that ``--help``
does not show; an unknown argument is refused with the nearest valid names.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import transformers
from transformers.hf_argparser import DataClassType, string_to_bool  # pyright: ignore[reportUnknownVariableType]

from raytrainer.arguments.aliases import ALIASES
from raytrainer.arguments.keywords import apply_alias, unknown_argument
from raytrainer.arguments.training_arguments import TrainingArguments


class HfArgumentParser(transformers.HfArgumentParser):
    """Parses into dataclasses; the alias table applies if one of them is a ``TrainingArguments``."""

    def __init__(
        self, dataclass_types: DataClassType | Iterable[DataClassType] | None = None, **kwargs: object
    ) -> None:
        super().__init__(dataclass_types, **kwargs)
        self._taken = {field.name for kind in self.dataclass_types for field in dataclasses.fields(kind)}
        ours = [kind for kind in self.dataclass_types if issubclass(kind, TrainingArguments)]
        self._arguments = ours[0] if ours else None
        self._words = self._correct_options(ours)
        self._legacy: dict[str, Any] = {}
        self._aliases = [name for name in ALIASES if name not in self._taken] if ours else []
        for name in self._aliases:
            self._add_alias(name)

    def _correct_options(self, kinds: list[type]) -> frozenset[str]:
        """Let a command line accept what a field's annotation allows, where transformers declares less.

        Returns:
            The options that take one word or several.
        """
        # Annotations, not `Field.type`: the parser of transformers narrows that while it reads the fields.
        annotations = {name: hint for kind in kinds for name, hint in typing.get_type_hints(kind).items()}
        words: set[str] = set()
        for action in self._actions:
            members = set(typing.get_args(annotations.get(action.dest)))
            if {str, list[str]} <= members:
                action.nargs = "+"
                words.add(action.dest)
            elif {str, bool} <= members:
                action.type = _text_or_flag
            elif dict in (action.type, typing.get_origin(action.type)):
                action.type = json.loads
        return frozenset(words)

    def _add_alias(self, name: str) -> None:
        kind = ALIASES[name].kind
        spellings = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
        options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
        if kind is bool:
            options.update(type=string_to_bool, nargs="?", const=True)
        else:
            options["type"] = kind
        self.add_argument(*spellings, **options)

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse as argparse does, and move the values of former names to the current fields."""
        parsed, rest = super().parse_known_args(args, namespace or argparse.Namespace())
        for name in self._words:
            value: list[str] | str | None = getattr(parsed, name, None)
            if isinstance(value, list) and len(value) == 1:
                setattr(parsed, name, value[0])
        self._translate(vars(parsed))
        return parsed, rest

    def parse_args_into_dataclasses(
        self, args: Sequence[str] | None = None, return_remaining_strings: bool = False, **options: Any
    ) -> tuple[Any, ...]:
        """Parse a command line; see ``transformers.HfArgumentParser``.

        Raises:
            ConfigurationError: For an unknown argument, or values that are invalid or not supported.
        """
        parsed: tuple[Any, ...] = super().parse_args_into_dataclasses(
            args, return_remaining_strings=True, **options
        )
        made, rest = parsed[:-1], cast("list[str]", parsed[-1])
        self._remember(made)
        if return_remaining_strings:
            return (*made, rest)
        if rest:
            names = [
                word.lstrip("-").partition("=")[0].replace("-", "_") for word in rest if word.startswith("--")
            ]
            raise unknown_argument("The command line", names or rest, sorted(self._known_names()))
        return made

    def parse_dict(self, args: Mapping[str, Any], allow_extra_keys: bool = False) -> tuple[Any, ...]:
        """Fill the dataclasses from a dict; see ``transformers.HfArgumentParser``.

        Raises:
            ConfigurationError: For an unknown key, or values that are invalid or not supported.
        """
        values = dict(args)
        self._translate(values)
        unknown = [str(name) for name in values if name not in self._taken]
        if unknown and not allow_extra_keys:
            raise unknown_argument("The configuration", unknown, sorted(self._taken))
        made = super().parse_dict(values, allow_extra_keys=allow_extra_keys)
        self._remember(made)
        return made

    def _translate(self, values: dict[str, Any]) -> None:
        self._legacy = {name: values.pop(name) for name in self._aliases if name in values}
        if self._legacy and self._arguments is not None:
            defaults = {field.name: field for field in dataclasses.fields(self._arguments)}
            for name, value in self._legacy.items():
                apply_alias(name, value, values, defaults)

    def _remember(self, made: Iterable[Any]) -> None:
        # Scripts for earlier versions read back the former names that they set.
        for one in made:
            if isinstance(one, TrainingArguments) and self._legacy:
                vars(one).update(_legacy=dict(self._legacy))

    def _known_names(self) -> set[str]:
        return {option.lstrip("-").replace("-", "_") for option in self._option_string_actions} - set(
            self._aliases
        )


def _text_or_flag(word: str) -> str | bool:
    """The value of an option that takes text or a boolean."""
    return {"true": True, "false": False}.get(word.lower(), word)
