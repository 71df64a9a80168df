"""Modules that only the driver can import reach Ray's workers, whatever made them."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import Any

import evaluate
import pytest
import torch
import transformers

from raytrainer import Trainer, TrainingArguments
from tests.clients.tiny import own_caches

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240), pytest.mark.usefixtures("ray_cluster")]

METRIC = """
import datasets
import evaluate


class Share(evaluate.Metric):
    def _info(self):
        number = datasets.Value("int32")
        features = datasets.Features({"predictions": number, "references": number})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {"share": sum(a == b for a, b in zip(predictions, references)) / len(references)}
"""
MODEL = """
import torch
import transformers
from .configuration_tiny import TinyConfig


class TinyModel(transformers.PreTrainedModel):
    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.layer = torch.nn.Linear(2, 2)
        self.post_init()

    def forward(self, x, labels=None):
        logits = self.layer(x)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}
"""
CONFIG = """
import transformers


class TinyConfig(transformers.PretrainedConfig):
    model_type = "tiny_of_a_test"
    auto_map = {"AutoConfig": "configuration_tiny.TinyConfig", "AutoModel": "modeling_tiny.TinyModel"}
"""
TRAINER = """
from raytrainer import Trainer


class TrainerOfTheProject(Trainer):
    def compute_loss(self, model, inputs, **more):
        self.ran_in = __file__
        return super().compute_loss(model, inputs, **more)
"""
CALLBACK = """
import transformers


class Counter(transformers.TrainerCallback):
    def __init__(self):
        self.steps = []

    def on_step_end(self, args, state, control, **more):
        self.steps.append(step_of(state))


def step_of(state):
    return state.global_step
"""


@pytest.fixture(scope="module")
def trained(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A trained trainer, each part of which is of a module that a worker could not import."""
    directory = tmp_path_factory.mktemp("project")
    with own_caches(directory):
        trainer = make_trainer(directory)
        trainer.train()
        yield trainer, trainer.evaluate()
        trainer.end()


def make_trainer(directory: Path) -> Trainer:
    files = {
        "share/share.py": METRIC,
        "model/modeling_tiny.py": MODEL,
        "model/configuration_tiny.py": CONFIG,
        "src/trainer_of_the_project.py": TRAINER,
    }
    for name, text in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(text)
    metric = evaluate.load(str(directory / "share"))

    (directory / "model" / "config.json").write_text(
        '{"model_type": "tiny_of_a_test", "auto_map": {"AutoConfig": "configuration_tiny.TinyConfig", '
        '"AutoModel": "modeling_tiny.TinyModel"}}'
    )
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(
        transformers.AutoConfig.from_pretrained(directory / "model", trust_remote_code=True),
        trust_remote_code=True,
    )

    sys.path.insert(0, str(directory / "src"))
    trainer_class = importlib.import_module("trainer_of_the_project").TrainerOfTheProject

    made = types.ModuleType("made_by_the_program")
    made.__file__ = str(directory / "in_no_file.py")
    sys.modules["made_by_the_program"] = made
    exec(CALLBACK, vars(made))

    def compute_metrics(prediction: transformers.EvalPrediction) -> dict[str, float]:
        return metric.compute(predictions=prediction.predictions.argmax(-1), references=prediction.label_ids)

    rows = [{"x": torch.tensor([float(i % 3), 1.0]), "labels": i % 2} for i in range(16)]
    return trainer_class(
        model,
        TrainingArguments(
            str(directory / "out"),
            num_workers=2,
            max_steps=2,
            per_device_train_batch_size=4,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=rows,
        eval_dataset=rows,
        compute_metrics=compute_metrics,
        callbacks=[made.Counter()],
    )


def test_a_metric_that_evaluate_made_a_module_of_runs_on_workers(trained):
    _, metrics = trained
    assert type(metrics["eval_share"]) is float
    assert 0 <= metrics["eval_share"] <= 1


def test_a_model_with_remote_code_trains_on_workers(trained):
    trainer, _ = trained
    assert type(trainer.model).__module__.startswith("transformers_modules.")
    assert trainer.state.global_step == 2


def test_a_subclass_in_a_directory_that_the_program_added_runs_from_there(trained):
    trainer, _ = trained
    assert trainer.ran_in == sys.modules["trainer_of_the_project"].__file__


def test_a_callback_of_a_module_in_memory_runs_on_workers_and_comes_back(trained):
    trainer, _ = trained
    counter = trainer.callback_handler.callbacks[-2]  # the last one is the terminal's
    assert type(counter) is sys.modules["made_by_the_program"].Counter
    assert counter.steps == [1, 2]
