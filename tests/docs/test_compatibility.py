"""docs/compatibility.md lists every name of transformers, and agrees with the tables in the code."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from pathlib import Path

import pytest
import torch
import transformers
from transformers.integrations import integration_utils
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from docs.generate import compatibility
from docs.generate.differences import DIFFERENCES, ELSEWHERE
from raytrainer.arguments.aliases import ALIASES
from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.errors import ConfigurationError
from raytrainer.preflight.unsupported_methods import ONLY_FOR_USERS
from raytrainer.trainer import Trainer

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")


def names_of(section: str) -> set[str]:
    part = re.split(r"^## ", TEXT, flags=re.MULTILINE)
    (found,) = [text for text in part if text.startswith(f"{section}\n")]
    return set(re.findall(r"^\| `(\w+)` \| \*(?:same|better|refused)\*", found, flags=re.MULTILINE))


def methods(cls: type, *, private: bool) -> set[str]:
    names = [name for name, value in vars(cls).items() if callable(value) or isinstance(value, staticmethod)]
    return {name for name in names if not name.startswith("__") and name.startswith("_") == private}


def parameters(cls: type) -> set[str]:
    return set(inspect.signature(cls.__init__).parameters) - {"self"}


def fields(cls: type) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)}


IN_TRANSFORMERS = {
    "Arguments of the constructor": parameters(transformers.Trainer)
    | parameters(transformers.Seq2SeqTrainer),
    "Methods that are called": methods(transformers.Trainer, private=False),
    "Methods with an underscore": methods(transformers.Trainer, private=True),
    "TrainingArguments": fields(transformers.TrainingArguments),
    "Seq2SeqTrainer": methods(transformers.Seq2SeqTrainer, private=False),
    "Seq2SeqTrainingArguments": fields(transformers.Seq2SeqTrainingArguments)
    - fields(transformers.TrainingArguments),
    "Events of callbacks": {name for name in vars(transformers.TrainerCallback) if name.startswith("on_")},
    "Schedules (`lr_scheduler_type`)": {kind.value for kind in SchedulerType},
    "Reporters (`report_to`)": set(INTEGRATION_TO_CALLBACK),
    "Optimizers (`optim`)": {kind.value for kind in OptimizerNames},
    "Names of earlier versions": set(ALIASES),
}


def test_the_page_is_what_the_tables_say() -> None:
    assert compatibility.page() == TEXT, "Run: python -m docs.generate.compatibility"


@pytest.mark.parametrize("section", IN_TRANSFORMERS)
def test_every_name_of_transformers_is_on_the_page(section: str) -> None:
    assert IN_TRANSFORMERS[section]
    assert IN_TRANSFORMERS[section] - names_of(section) == set()


@pytest.mark.parametrize("key", [*DIFFERENCES, *ELSEWHERE])
def test_a_difference_is_on_the_page_and_its_proof_is_a_test(key: str) -> None:
    difference = (DIFFERENCES | ELSEWHERE)[key]
    assert difference.what in TEXT
    path, _, name = difference.proof.partition("::")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def status_of(name: str, section: str) -> str:
    (status,) = set(re.findall(rf"^\| `{name}` \| \*(\w+)\*", section, flags=re.MULTILINE))
    return status


def names_called_in(*paths: Path) -> set[str]:
    return {
        node.attr
        for path in paths
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


METHODS = TEXT[TEXT.index("## Methods that are called") : TEXT.index("## TrainingArguments")]
ARGUMENTS = TEXT[TEXT.index("## TrainingArguments") : TEXT.index("## Events of callbacks")]
ASKING = {
    "ddp_backend": "mpi",
    "debug": "tpu_metrics_debug",
    "parallelism_config": object(),
    "save_on_each_node": True,
}
"""A value of each refused argument."""
PACKAGE = names_called_in(*(ROOT / "raytrainer").rglob("*.py"))
THEIRS = names_called_in(Path(inspect.getfile(transformers.Trainer)))
REUSED = names_called_in(
    Path(inspect.getfile(transformers.TrainerCallback)), Path(inspect.getfile(integration_utils))
)
"""What the callbacks of transformers read, which run here too."""


@pytest.mark.parametrize(
    "name", sorted(IN_TRANSFORMERS["Methods that are called"] | IN_TRANSFORMERS["Methods with an underscore"])
)
def test_a_method_of_transformers_is_called_or_refused_with_an_error(name: str) -> None:
    if status_of(name, METHODS) == "refused":
        with pytest.raises(ConfigurationError, match=f"`Trainer.{name}` is not available"):
            getattr(Trainer, name)(None)
    elif name in ONLY_FOR_USERS:
        with pytest.raises(ConfigurationError, match=rf"\.{name} overrides"):
            type("Mine", (Trainer,), {name: lambda self: None})(torch.nn.Linear(1, 1))
    else:
        assert name in PACKAGE or name not in THEIRS, "an override would be ignored"


@pytest.mark.parametrize(
    "name", sorted(IN_TRANSFORMERS["TrainingArguments"] | IN_TRANSFORMERS["Seq2SeqTrainingArguments"])
)
def test_an_argument_of_transformers_is_read_or_refused_with_an_error(name: str) -> None:
    if status_of(name, ARGUMENTS) == "refused":
        with pytest.raises(ConfigurationError, match=f"`{name}`"):
            TrainingArguments(**{name: ASKING[name]}).check()
    else:
        assert name in PACKAGE | REUSED or name not in THEIRS, "it would have no effect"


def test_every_event_on_the_page_is_dispatched() -> None:
    assert names_of("Events of callbacks") - PACKAGE == set()


def test_a_page_is_written_where_it_was_asked_for(tmp_path: Path) -> None:
    compatibility.main([str(tmp_path / "page.md")])
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == compatibility.page()
