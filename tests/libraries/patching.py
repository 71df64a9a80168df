"""Patches transformers in a process of its own, because other tests derive classes from it; prints what it saw."""

from __future__ import annotations

import gc
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import Trainer as EarlyName

import raytrainer
from raytrainer.wire.preparations import preparations

LIBRARY = "import transformers\nclass LibraryTrainer(transformers.Trainer):\n    pass\n"


def patch_too_late(found: dict[str, Any]) -> None:
    library = importlib.import_module("late_library")
    try:
        raytrainer.patch_transformers()
    except raytrainer.ConfigurationError as error:
        found["error"] = str(error)
    found["names_after_the_error"] = transformers.Trainer.__module__
    del sys.modules["late_library"], library
    gc.disable()  # the class is garbage now, but still there

    plain = transformers.TrainingArguments("out", use_cpu=True, learning_rate=0.25)
    with raytrainer.patch_transformers() as patch:
        found["names"] = {
            name: getattr(transformers, name) is getattr(raytrainer, name)
            for name in (
                "Trainer",
                "TrainingArguments",
                "Seq2SeqTrainer",
                "Seq2SeqTrainingArguments",
                "HfArgumentParser",
            )
        }
        from transformers.trainer import Trainer as InItsModule

        found["in_its_module"] = InItsModule is raytrainer.Trainer
        found["imported_before"] = EarlyName is raytrainer.Trainer
        found["ours_kept"] = raytrainer.TrainingArguments.__mro__[3].__module__
        found["again"] = raytrainer.patch_transformers() is patch

        early_library = importlib.import_module("early_library")
        trainer = early_library.LibraryTrainer(
            transformers.BertForSequenceClassification(transformers.BertConfig(hidden_size=12)), plain
        )
        found["base"] = isinstance(trainer, raytrainer.Trainer)
        found["plain_arguments"] = [type(trainer.args).__module__, trainer.args.learning_rate]
        from accelerate.utils import set_seed

        set_seed(11, device_specific=True)
        found["seed"] = [torch.initial_seed(), preparations().after]
        found["transformers_own_set_seed"] = transformers.set_seed.__module__
    found["in_effect_after_the_block"] = patch.is_in_effect
    found["names_after_the_block"] = [transformers.Trainer.__module__, EarlyName.__module__]
    found["class_after_the_block"] = issubclass(early_library.LibraryTrainer, raytrainer.Trainer)


def main() -> None:
    """Try it early, late, twice, and to the end."""
    directory = Path(sys.argv[1])
    for name in ("late_library", "early_library"):
        (directory / f"{name}.py").write_text(LIBRARY, encoding="utf-8")
    sys.path.insert(0, str(directory))
    found: dict[str, Any] = {}
    patch_too_late(found)
    (directory / "found.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
