"""Which names of ``transformers`` stand for raytrainer's classes while a patch is in effect.

A library that says ``class SFTTrainer(transformers.Trainer)`` takes its base class from ``transformers`` at the moment
it is imported. While the patch is in effect, that base class is ours. A class that was made before keeps the base class
that it has: Python cannot exchange it without breaking the constructors that dataclasses generate. So the patch refuses
to begin when there is such a class, because a library that stays half on one trainer and half on the other would train
without a word about it. A name that was merely imported before (``from transformers import Trainer``) is exchanged.

``accelerate.utils.set_seed`` is exchanged too, which libraries call in constructors (``libraries.seeds``).

Workers import the library again, so a patch is repeated there before anything is unpacked (``wire.preparations``).
"""

from __future__ import annotations

import gc
import importlib
import sys
from dataclasses import dataclass, field
from types import ModuleType, TracebackType

from raytrainer.errors import ConfigurationError
from raytrainer.libraries.seeds import accelerates_set_seed, set_seed
from raytrainer.wire.preparations import prepare_workers_with

_OURS = {
    "HfArgumentParser": ("transformers.hf_argparser", "raytrainer.arguments.parser"),
    "Seq2SeqTrainer": ("transformers.trainer_seq2seq", "raytrainer.seq2seq.trainer"),
    "Seq2SeqTrainingArguments": ("transformers.training_args_seq2seq", "raytrainer.seq2seq.arguments"),
    "Trainer": ("transformers.trainer", "raytrainer.trainer"),
    "TrainingArguments": ("transformers.training_args", "raytrainer.arguments.training_arguments"),
}
"""Name -> the module of transformers that defines it, and the module of this package that does."""
_HARMLESS_AS_BASES = frozenset({"HfArgumentParser"})
"""A class that derives from one of these trains nothing, whichever it is."""


@dataclass(kw_only=True)
class Patch:
    """Names of ``transformers`` that stand for raytrainer's classes, until ``undo()`` or the end of a ``with``."""

    _replaced: list[tuple[ModuleType, str, object]] = field(
        default_factory=list[tuple[ModuleType, str, object]]
    )
    """Module, name, and what the name stood for."""

    @property
    def is_in_effect(self) -> bool:
        """Whether the names stand for raytrainer's classes."""
        return bool(self._replaced)

    def replace(self, theirs: object, ours: object) -> None:
        """Let every global of a module that stands for one object stand for another."""
        for module, name in _places_of(theirs):
            self._replaced.append((module, name, theirs))
            setattr(module, name, ours)

    def undo(self) -> None:
        """Give the names their own classes back. Classes that were derived meanwhile stay on raytrainer."""
        for module, name, value in reversed(self._replaced):
            setattr(module, name, value)
        self._replaced.clear()

    def __enter__(self) -> Patch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()


_patch = Patch()


def patch_transformers() -> Patch:
    """Let libraries that subclass ``transformers.Trainer`` run on raytrainer.

    From this call on, ``transformers.Trainer``, ``TrainingArguments``, ``Seq2SeqTrainer``, ``Seq2SeqTrainingArguments``
    and ``HfArgumentParser`` are raytrainer's classes, so the classes that a library derives from them train on Ray
    workers, and its arguments take ``num_workers`` and the other arguments of raytrainer. Workers repeat the patch.
    Call it before the library is imported. A second call changes nothing.

    ::

        import raytrainer

        raytrainer.patch_transformers()
        from trl import SFTConfig, SFTTrainer

        SFTTrainer(model, SFTConfig("out", num_workers=2), train_dataset=dataset).train()

    Returns:
        The patch. ``undo()`` ends it, and so does the end of a ``with`` block that began with this call.

    Raises:
        ConfigurationError: If classes already derive from those of ``transformers``; names their library.
    """
    if _patch.is_in_effect:
        return _patch
    theirs = {name: getattr(importlib.import_module(home), name) for name, (home, _) in _OURS.items()}
    ours = {name: getattr(importlib.import_module(home), name) for name, (_, home) in _OURS.items()}
    _check_bases_are_free([kind for name, kind in theirs.items() if name not in _HARMLESS_AS_BASES])
    prepare_workers_with(f"{__name__}:patch_transformers")
    for name, kind in theirs.items():
        _patch.replace(kind, ours[name])
    _patch.replace(accelerates_set_seed, set_seed)
    return _patch


def _check_bases_are_free(kinds: list[type]) -> None:
    """Refuse to begin when classes outside of transformers and this package derive from what is to be exchanged.

    Raises:
        ConfigurationError: If there are any.
    """
    if _derived_from(kinds):
        gc.collect()  # a class that was defined again in a notebook is garbage, but in a cycle with itself
    found = _derived_from(kinds)
    if not found:
        return
    packages = sorted({kind.__module__.partition(".")[0] for kind in found})
    names = sorted(f"{kind.__module__}.{kind.__qualname__}" for kind in found)
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    libraries = " and ".join(packages)
    raise ConfigurationError(
        f"patch_transformers() came too late for {libraries}: {shown} already derived from the classes of "
        "transformers, and would go on training with its loop. Call raytrainer.patch_transformers() at the top of the "
        f"script, before {libraries} is imported or such a class is defined; in a notebook, restart the kernel first."
    )


def _derived_from(kinds: list[type]) -> set[type]:
    found: set[type] = set()
    left = list(kinds)
    while left:
        for kind in type.__subclasses__(left.pop()):
            package = kind.__module__.partition(".")[0]
            # What derives from our own arguments derives from those of transformers too, and is where it should be.
            if package == "raytrainer" or kind in found:
                continue
            if package != "transformers":
                found.add(kind)
            left.append(kind)
    return found


def _places_of(thing: object) -> list[tuple[ModuleType, str]]:
    """Where an object is a global of a module, under whatever name; modules of this package keep what they imported."""
    is_of_transformers = str(getattr(thing, "__module__", "")).startswith("transformers.")
    places: list[tuple[ModuleType, str]] = []
    for module in _modules():
        package = module.__name__.partition(".")[0]
        if package == "raytrainer":
            continue
        names = {name for name, value in list(vars(module).items()) if value is thing}
        if module.__name__ == "transformers" and is_of_transformers:
            names.add(
                str(getattr(thing, "__name__", ""))
            )  # this module looks a name up when it is first read
        places += [(module, name) for name in sorted(names)]
    return places


def _modules() -> list[ModuleType]:
    """All modules, also copies of ``transformers``: it loads itself again when it first lists its own processors."""
    loaded = [module for module in list(sys.modules.values()) if _is_module(module)]
    copies = [
        value
        for module in loaded
        for value in list(vars(module).values())
        if _is_module(value) and value.__name__ == "transformers"
    ]
    return list({id(module): module for module in (*loaded, *copies)}.values())


def _is_module(value: object) -> bool:
    return issubclass(
        type(value), ModuleType
    )  # isinstance() would wake up what is loaded when it is first used
