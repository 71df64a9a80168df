"""``HfArgumentParser`` that also reads the names of earlier versions, from command lines, dicts, JSON and YAML files.

The parser of transformers works with our arguments too, for the names of today. Old names are options that ``--help``
does not show; an argument that nothing takes is refused with the nearest valid names.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import transformers
from transformers.hf_argparser import string_to_bool

from raytrainer.arguments.aliases import ALIASES
from raytrainer.arguments.keywords import apply_alias, unknown_argument
from raytrainer.arguments.training_arguments import TrainingArguments


class HfArgumentParser(transformers.HfArgumentParser):
    """Parses into dataclasses, with the alias table for every ``TrainingArguments`` among them."""

    def __init__(self, dataclass_types: Any = None, **kwargs: Any) -> None:
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
        """Let a command line say what a field's annotation allows, where argparse was told less.

        Returns:
            The options that take one word or several.
        """
        # Not of the fields: the parser of transformers narrows those while it reads them.
        annotations = {name: hint for kind in kinds for name, hint in typing.get_type_hints(kind).items()}
        words = set()
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

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse as argparse does, and give what old names said to the fields of today."""
        parsed, rest = super().parse_known_args(args, namespace)
        for name in self._words:
            value = getattr(parsed, name, None)
            if isinstance(value, list) and len(value) == 1:
                setattr(parsed, name, value[0])
        self._translate(vars(parsed))
        return parsed, rest

    def parse_args_into_dataclasses(
        self, args: Any = None, return_remaining_strings: bool = False, **options: Any
    ) -> tuple[Any, ...]:
        """Parse a command line; see ``transformers.HfArgumentParser``.

        Raises:
            ConfigurationError: For an unknown argument, or values that cannot be honoured.
        """
        *made, rest = super().parse_args_into_dataclasses(args, return_remaining_strings=True, **options)
        self._remember(made)
        if return_remaining_strings:
            return (*made, rest)
        if rest:
            names = [
                word.lstrip("-").partition("=")[0].replace("-", "_") for word in rest if word.startswith("--")
            ]
            raise unknown_argument("The command line", names or rest, sorted(self._known_names()))
        return tuple(made)

    def parse_dict(self, args: Mapping[str, Any], allow_extra_keys: bool = False) -> tuple[Any, ...]:
        """Fill the dataclasses from a dict; see ``transformers.HfArgumentParser``.

        Raises:
            ConfigurationError: For an unknown key, or values that cannot be honoured.
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
        # A script of that time reads back the names that its user wrote.
        for one in made:
            if isinstance(one, TrainingArguments) and self._legacy:
                vars(one).update(_legacy=dict(self._legacy))

    def _known_names(self) -> set[str]:
        return {option.lstrip("-").replace("-", "_") for option in self._option_string_actions} - set(
            self._aliases
        )


def _text_or_flag(word: str) -> str | bool:
    """The value of an option that takes text, or true and false."""
    return {"true": True, "false": False}.get(word.lower(), word)
