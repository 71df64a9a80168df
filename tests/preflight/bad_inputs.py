"""Bad inputs of every kind, each with the message that it must give before any worker starts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback

from raytrainer import Trainer, TrainingArguments
from tests.preflight.given import Rows

SAMPLE = {"x": [1.0, 2.0], "labels": 1.0}
DATA = Rows(*[SAMPLE] * 4)
NAN, INF = float("nan"), float("inf")
OTHER = object()


class Model(nn.Module):
    """Takes ``x`` and ``labels``, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        logits = self.layer(x)
        return {"loss": logits.sum(), "logits": logits}


class WithoutParameters(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class NegativeLength(Rows):
    def __len__(self) -> int:
        return -1


class BrokenLength(Rows):
    def __len__(self) -> int:
        raise RuntimeError("not counted yet")


class NeedsPatience:
    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_log(self, *args: object, **kwargs: object) -> None:
        """Listens."""


@dataclass(frozen=True)
class Bad:
    """One bad input."""

    what: str
    give: Callable[[], object]
    """Does what a script does with it, up to the call that would start workers."""
    words: str
    """A regular expression that the message must match."""


def arguments(**options: Any) -> TrainingArguments:
    return TrainingArguments(**{"output_dir": "out", "num_workers": 2, "use_cpu": True, **options})


def trainer(options: dict[str, Any] | None = None, **given: Any) -> Trainer:
    return Trainer(**{"model": Model(), "args": arguments(**options or {}), "train_dataset": DATA, **given})


def catalogue() -> Iterator[Bad]:
    yield from of_wrong_types()
    yield from out_of_range()
    yield from of_datasets()
    yield from of_objects()
    yield from of_optimizers()
    yield from of_places()
    yield from of_calls()
    yield from changed_since()


def short(value: object) -> str:
    return re.sub(r"0x\w+", "", repr(value))[:40]


# ---- arguments --------------------------------------------------------------------------------------------------

BOOLS = [
    "average_tokens_across_devices",
    "bf16",
    "fp16",
    "bf16_full_eval",
    "fp16_full_eval",
    "tf32",
    "activation_checkpointing",
    "gradient_checkpointing",
    "torch_compile",
    "use_liger_kernel",
    "auto_find_batch_size",
    "logging_first_step",
    "log_on_each_node",
    "logging_nan_inf_filter",
    "disable_tqdm",
    "prediction_loss_only",
    "eval_on_start",
    "eval_do_concat_batches",
    "eval_use_gather_object",
    "batch_eval_metrics",
    "save_only_model",
    "push_to_hub",
    "hub_private_repo",
    "hub_always_push",
    "load_best_model_at_end",
    "greater_is_better",
    "ignore_data_skip",
    "restore_callback_states_from_checkpoint",
    "full_determinism",
    "use_cpu",
    "dataloader_drop_last",
    "dataloader_pin_memory",
    "dataloader_persistent_workers",
    "dataloader_in_order",
    "remove_unused_columns",
    "ddp_find_unused_parameters",
    "ddp_broadcast_buffers",
    "skip_memory_metrics",
    "do_train",
    "do_eval",
    "do_predict",
    "use_gpu",
]
WHOLE = [
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "max_steps",
    "gradient_accumulation_steps",
    "torch_empty_cache_steps",
    "eval_accumulation_steps",
    "save_total_limit",
    "seed",
    "data_seed",
    "dataloader_num_workers",
    "dataloader_prefetch_factor",
    "ddp_bucket_cap_mb",
    "ddp_timeout",
    "rank_check_steps",
]
FLOATS = [
    "num_train_epochs",
    "learning_rate",
    "warmup_steps",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "label_smoothing_factor",
    "neftune_noise_alpha",
    "logging_steps",
    "eval_steps",
    "eval_delay",
    "save_steps",
    "worker_idle_timeout_s",
    "cluster_timeout_s",
    "placement_timeout_s",
    "elastic_timeout_s",
]
TEXTS = [
    "optim_args",
    "torch_compile_backend",
    "torch_compile_mode",
    "log_level",
    "run_name",
    "project",
    "hub_model_id",
    "hub_revision",
    "metric_for_best_model",
    "train_sampling_strategy",
    "length_column_name",
    "ddp_backend",
    "accelerator_type",
    "ray_address",
    "logging_dir",
]
DICTS = ("lr_scheduler_kwargs", "gradient_checkpointing_kwargs", "activation_checkpointing_kwargs")


def of_wrong_types() -> Iterator[Bad]:
    for name in BOOLS:
        for value in ("maybe", 2, []):
            yield argument(
                name, value, f"{name}={re.escape(repr(value))} is .*, but True or False.* was expected"
            )
    for name in WHOLE:
        for value in (1.5, NAN, INF, "many", True):
            yield argument(name, value, f"{name}=.* is (not a|text|a bool).*whole number.* was expected")
    for name in FLOATS:
        for value in (NAN, "fast", [1]):
            yield argument(name, value, f"{name}=.* is .*, but a number.* was expected")
    for name in TEXTS:
        for value in (True, ["one"], {}):
            yield argument(name, value, f"{name}=.* is a \\w+, but text.* was expected")
    for name in DICTS:
        for value in ("abc", 5, [1], "[1]"):
            yield argument(name, value, f"{name}=.* is .*(a JSON object|a dict)")
    for value in (5, {"labels": 1}, [1]):
        yield argument("label_names", value, "label_names=.* but a list of text, or None was expected")
        yield argument("include_for_metrics", value, "include_for_metrics=.* but a list of text was expected")


def argument(name: str, value: object, words: str) -> Bad:
    return Bad(f"{name}={short(value)}", lambda: arguments(**{name: value}), words)


RANGES: tuple[tuple[dict[str, Any], str], ...] = (
    ({"per_device_train_batch_size": 0}, "per_device_train_batch_size=0 is not a number of 1 or more"),
    ({"per_device_train_batch_size": -8}, "per_device_train_batch_size=-8 is not a number of 1 or more"),
    ({"per_device_eval_batch_size": 0}, "per_device_eval_batch_size=0 is not a number of 1 or more"),
    ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps=0 is not a number of 1 or more"),
    ({"learning_rate": -1}, "learning_rate=-1 is not a number of 0 or more"),
    ({"learning_rate": INF}, "learning_rate=inf is not a finite number"),
    ({"weight_decay": -0.1}, "weight_decay=-0.1 is not a number of 0 or more"),
    ({"adam_beta1": 1.0}, "adam_beta1=1.0 is not a number of 0 or more and less than 1"),
    ({"adam_beta2": -0.1}, "adam_beta2=-0.1 is not a number of 0 or more and less than 1"),
    ({"max_grad_norm": -1}, "max_grad_norm=-1 is not a number of 0 or more"),
    ({"label_smoothing_factor": 1}, "label_smoothing_factor=1 is not a number of 0 or more and less than 1"),
    ({"warmup_steps": -1}, "warmup_steps=-1 is not a number of 0 or more"),
    ({"save_total_limit": -1}, "save_total_limit=-1 is not a number of 0 or more"),
    ({"seed": -1}, "seed=-1 is not a number of 0 or more"),
    ({"dataloader_num_workers": -1}, "dataloader_num_workers=-1 is not a number of 0 or more"),
    ({"ddp_timeout": 0}, "ddp_timeout=0 is not a number of 1 or more"),
    ({"logging_steps": -5}, "logging_steps=-5 is not a number of 0 or more"),
    ({"logging_steps": 0}, "logging"),
    ({"eval_strategy": "epochs"}, "eval_strategy='epochs' is not one of .*Did you mean 'epoch'"),
    ({"save_strategy": "step"}, "save_strategy='step' is not one of .*Did you mean 'steps'"),
    ({"logging_strategy": 5}, "logging_strategy=5 is not one of"),
    ({"hub_strategy": "always"}, "hub_strategy='always' is not one of"),
    ({"lr_scheduler_type": "cosin"}, "lr_scheduler_type='cosin' is not one of .*Did you mean 'cosine'"),
    ({"optim": "adamx"}, "optim='adamx' is not one of"),
    ({"report_to": "tensorbord"}, "report_to='tensorbord' is not one of .*Did you mean 'tensorboard'"),
    ({"debug": "overflow"}, "debug='overflow' is not one of"),
    ({"log_level": "loud"}, "log_level"),
    ({"train_sampling_strategy": "shuffled"}, "train_sampling_strategy"),
    ({"num_workers": -1}, "num_workers=-1 is not a whole number of 0 or more"),
    ({"num_workers": 1.5}, "num_workers=1.5 is not a whole number of 0 or more"),
    ({"num_workers": "two"}, "num_workers='two' is not a whole number of 0 or more"),
    ({"num_workers": (4, 1)}, r"num_workers=\(4, 1\): 4 is more than 1"),
    ({"num_workers": (0, 1)}, r"num_workers=\(0, 1\): at least 0"),
    ({"max_failures": 1.5}, "max_failures=1.5 is not a whole number"),
    ({"placement_strategy": "SPRED"}, "placement_strategy='SPRED' is not one of"),
    ({"resources_per_worker": "abc"}, "resources_per_worker='abc' is not JSON"),
    ({"resources_per_worker": {"CPU": "two"}}, "CPU='two', which is not an amount"),
    ({"resources_per_worker": {"gpu": 1}}, "Ray's name is 'GPU'"),
    ({"placement_timeout_s": -1}, "placement_timeout_s=-1 is not a number of seconds"),
    ({"sigterm_exit_code": 256}, "sigterm_exit_code=256 is not an exit status"),
    ({"bf16": True, "fp16": True}, "bf16.*fp16|fp16.*bf16"),
    ({"load_best_model_at_end": True}, "load_best_model_at_end"),
    ({"include_num_input_tokens_seen": "some"}, "include_num_input_tokens_seen='some' is not one of"),
    ({"hub_model_id": "my model"}, "hub_model_id='my model' is not a valid name"),
    ({"no_cuda": "maybe"}, "no_cuda='maybe' is neither True nor False"),
    ({"lerning_rate": 1}, "lerning_rate.*[Dd]id you mean .*learning_rate"),
    (
        {"max_steps": None},
        "max_steps=None, but a whole number was expected. Leave it out for the default, -1",
    ),
    (
        {"average_tokens_across_devices": None},
        "average_tokens_across_devices=None, but True or False was expected",
    ),
)


def out_of_range() -> Iterator[Bad]:
    for options, words in RANGES:
        yield Bad(short(options), lambda options=options: arguments(**options), words)


# ---- data -------------------------------------------------------------------------------------------------------

NO_DATASETS: tuple[tuple[Any, str], ...] = (
    (5, "=5 is an int, but a dataset was expected"),
    (True, "=True is a bool, but a dataset was expected"),
    (1.5, "=1.5 is a float, but a dataset was expected"),
    ("squad", "='squad' is text, but a dataset was expected.*call datasets.load_dataset first"),
    (b"x", "=b'x' is a bytes, but a dataset was expected"),
    ({1, 2}, " is a set, but a dataset was expected"),
    (OTHER, " is an object, but a dataset was expected"),
    (Rows, " is the class Rows, but a dataset was expected.*Pass an instance"),
    (lambda: DATA, " is a function, but a dataset was expected"),
    (DataLoader(DATA), " is a DataLoader, but a dataset was expected.*override get_train_dataloader"),
    (
        NegativeLength(SAMPLE),
        r"The length of \w+ cannot be read: .*raised ValueError: __len__\(\) should return >= 0",
    ),
    (BrokenLength(SAMPLE), r"The length of \w+ cannot be read: .*raised RuntimeError: not counted yet"),
    (Rows(), "has no samples"),
    ([], "has no samples"),
)
NO_BATCHES: tuple[tuple[Any, str], ...] = (
    ([1, 2, 3], "The first 3 samples of .* make no batch"),
    (np.zeros(3), "make no batch"),
    (torch.zeros(3), "first batch of .* is empty"),
    (Rows("abc", "abc"), "make no batch"),
    (Rows(None), "make no batch"),
    (Rows({}), "first batch of .* is empty|make no batch"),
    (Rows((1, 2)), "make no batch"),
    (Rows({"x": "text", "labels": 1.0}), "missing a required argument: 'x'"),
    (Rows(SAMPLE, {"x": [1.0, 2.0]}), "make no batch.*but sample 1"),
    (Rows(SAMPLE, {"x": [1.0], "labels": 1.0}), "make no batch.*but sample 1"),
    (Rows({"labels": 1.0}), "missing a required argument: 'x'"),
    (Rows({"y": [1.0], "z": 2}), "the model takes none of them"),
)


def of_datasets() -> Iterator[Bad]:
    for value, words in (*NO_DATASETS, *NO_BATCHES):
        shown = f"{short(value)} {short(getattr(value, 'rows', ''))}"
        yield Bad(f"train {shown}", lambda value=value: trainer(train_dataset=value).train(), words)
        yield Bad(
            f"evaluate {shown}", lambda value=value: trainer().evaluate(value), _by_name(value) or words
        )
        yield Bad(f"predict {shown}", lambda value=value: trainer().predict(value), _by_name(value) or words)
        options = {"eval_strategy": "epoch"}
        give = lambda value=value, options=options: trainer(options, eval_dataset=value).train()  # noqa: E731
        yield Bad(f"eval {shown}", give, words)
        named = {"dev": value}
        give = lambda named=named, options=options: trainer(options, eval_dataset=named).train()  # noqa: E731
        yield Bad(f"eval dev {shown}", give, words.replace(r"\w+", r"\S+"))
    yield Bad("no data", lambda: trainer(train_dataset=None).train(), "got no train_dataset")
    yield Bad("train dict of datasets", lambda: trainer(train_dataset={"a": DATA}), "a dict of datasets")
    yield Bad("train {}", lambda: trainer(train_dataset={}), "train_dataset has no samples")
    yield Bad("eval {}", lambda: trainer(eval_dataset={}), "eval_dataset={} names no dataset")
    yield Bad("eval None", lambda: trainer(eval_dataset={"a": None}), r"eval_dataset\['a'\]=None is None")
    yield Bad("eval key", lambda: trainer(eval_dataset={1: DATA}), "has the key 1, an int.*Write '1'")
    yield Bad("evaluate nothing", lambda: trainer().evaluate(), "nothing to evaluate")
    yield Bad("evaluate {}", lambda: trainer().evaluate({}), "eval_dataset={} names no dataset")
    yield Bad("eval without data", lambda: trainer({"eval_strategy": "epoch"}), "got no eval_dataset")
    for columns in ({"x": [[1.0, 2.0]] * 2, "labels": [1.0]},):
        yield Bad(
            "columns", lambda columns=columns: trainer(train_dataset=columns).train(), "different lengths"
        )


def _by_name(value: object) -> str | None:
    return "names no dataset of the Trainer" if isinstance(value, str) else None


COLLATORS: tuple[tuple[Any, str], ...] = (
    (lambda samples: 5, "made a int of the first samples|made an int"),
    (lambda samples: None, "made None of the first samples"),
    (lambda samples: samples, "made a list of the first samples"),
    (lambda samples: torch.zeros(1), "made a Tensor of the first samples"),
    (lambda samples: (samples, samples), "made a tuple of the first samples"),
    (lambda samples: {}, "The first batch of train_dataset is empty"),
    (lambda samples: {"y": torch.zeros(1)}, r"forward cannot be called with.*has \['y'\]"),
    (lambda samples: {"x": torch.zeros(1), "y": torch.zeros(1)}, "unexpected keyword argument 'y'"),
    (lambda samples: 1 / 0, "raised ZeroDivisionError"),
    (lambda samples: samples[0]["absent"], "raised KeyError: 'absent'"),
    (lambda samples: samples.input_ids, "raised AttributeError"),
    (lambda: {"x": 1}, "cannot be called with .samples.*too many positional arguments"),
    (lambda samples, more: {}, "cannot be called with .samples.*missing a required argument: 'more'"),
)


# ---- objects ----------------------------------------------------------------------------------------------------

NO_FUNCTIONS: tuple[tuple[Any, str], ...] = (
    (5, "is a int, which cannot be called"),
    ("accuracy", "is a str, which cannot be called"),
    ([len], "is a list, which cannot be called"),
    ({}, "is a dict, which cannot be called"),
    (OTHER, "is a object, which cannot be called"),
    (Model, "is the class Model, but a function"),
    (int, "is the class int, but a function"),
)
NO_CALLBACKS: tuple[tuple[Any, str], ...] = (
    (5, "callbacks=5 is an int, but a list of callbacks was expected"),
    (True, "callbacks=True is a bool"),
    ("wandb", "callbacks='wandb' is text"),
    ({}, "callbacks=... is a dict"),
    (OTHER, "callbacks=... is an object"),
    (EarlyStoppingCallback(), "is an EarlyStoppingCallback, but a list.*also for one"),
    ([5, OTHER], "The callback 5 is a int, which listens to no event"),
    ([OTHER], "which listens to no event"),
    ([None], "The callback None is a NoneType, which listens to no event"),
    (["wandb"], "The callback 'wandb' is a str, which listens to no event"),
    ([Model], "which listens to no event"),
    ([NeedsPatience], r"takes arguments \(\(patience: 'int'\).*NeedsPatience\(...\)"),
)
NO_PROCESSING: tuple[Any, ...] = (5, "bert-base-uncased", True, [], {}, (), {1}, OTHER, int)


def of_objects() -> Iterator[Bad]:
    for name in ("data_collator", "compute_metrics", "preprocess_logits_for_metrics", "compute_loss_func"):
        for value, words in NO_FUNCTIONS:
            give = lambda name=name, value=value: trainer(**{name: value})  # noqa: E731
            yield Bad(f"{name}={short(value)}", give, f"{name}= {words}")
    for number, (value, words) in enumerate(COLLATORS):
        yield Bad(f"collator {number}", lambda value=value: trainer(data_collator=value).train(), words)
    yield Bad(
        "metrics()", lambda: trainer(compute_metrics=lambda: {"a": 1}), "compute_metrics= cannot be called"
    )
    yield Bad(
        "metrics(a, b)", lambda: trainer(compute_metrics=lambda a, b: {}), "missing a required argument: 'b'"
    )
    give = lambda: trainer(preprocess_logits_for_metrics=lambda logits: logits)  # noqa: E731
    yield Bad("preprocess(logits)", give, "preprocess_logits_for_metrics= cannot be called")
    yield Bad(
        "loss(outputs)", lambda: trainer(compute_loss_func=lambda outputs: 1), "compute_loss_func= takes"
    )
    give = lambda: trainer({"batch_eval_metrics": True}, compute_metrics=lambda p: {})  # noqa: E731
    yield Bad("batch metrics", give, "Add a compute_result parameter")
    for value, words in NO_CALLBACKS:
        yield Bad(f"callbacks={short(value)}", lambda value=value: trainer(callbacks=value), words)
        if isinstance(value, list):
            give = lambda value=value: trainer().add_callback(value[0])  # noqa: E731
            yield Bad(f"add_callback({short(value[0])})", give, words)
    for value in NO_PROCESSING:
        give = lambda value=value: trainer(processing_class=value)  # noqa: E731
        yield Bad(
            f"processing_class={short(value)}", give, "processing_class=.*but a tokenizer.* was expected"
        )
    for value in (5, True, [], {}, OTHER, b"x", Model):
        yield Bad(
            f"model={short(value)}", lambda value=value: trainer(model=value), "model= is a .*was expected"
        )
        if value is not Model:
            give = lambda value=value: trainer(model=None, model_init=value)  # noqa: E731
            yield Bad(f"model_init={short(value)}", give, "model_init= is .*returns a model was expected")
    yield Bad("model_init=int", lambda: trainer(model=None, model_init=int), "model_init= is the class")
    yield Bad("no model", lambda: trainer(model=None), "neither model= nor model_init=")
    yield Bad("two models", lambda: trainer(model_init=Model), "both model= and model_init=")
    yield Bad(
        "frozen",
        lambda: trainer(model=Model().requires_grad_(False)).train(),
        "All 2 parameters .* are frozen",
    )
    yield Bad(
        "without values",
        lambda: trainer(model=Model().to("meta")).train(),
        r"2 of the 2 parameters .* of Model are on the meta device.*: layer.weight, layer.bias\. .*to_empty",
    )
    yield Bad("no parameters", lambda: trainer(model=WithoutParameters()).train(), "has no parameters")
    for value in ("out", 5, {"output_dir": "x"}, [], OTHER):
        yield Bad(
            f"args={short(value)}", lambda value=value: trainer(args=value), "TrainingArguments was expected"
        )


def of_optimizers() -> Iterator[Bad]:
    for value in (5, True, "adamw", [], {}, OTHER, (None,), (None, None, None), torch.optim.SGD):
        yield Bad(
            f"optimizers={short(value)}",
            lambda value=value: trainer(optimizers=value),
            "but a pair was expected",
        )
    for value in ((5, None), ("adamw", None), (torch.optim.SGD, None), (OTHER, None)):
        give = lambda value=value: trainer(optimizers=value)  # noqa: E731
        yield Bad(f"optimizers={short(value)}", give, "where an optimizer was expected")
    for value in ((None, 5), (None, "cosine"), (None, torch.optim.lr_scheduler.LambdaLR)):
        give = lambda value=value: trainer(optimizers=value)  # noqa: E731
        yield Bad(f"optimizers={short(value)}", give, "where a learning rate schedule was expected")
    for value in (5, "adamw", (), (torch.optim.SGD,), (torch.optim.SGD, 5), (5, {}), torch.optim.SGD):
        give = lambda value=value: trainer(optimizer_cls_and_kwargs=value)  # noqa: E731
        yield Bad(f"class {short(value)}", give, "a pair of an optimizer's class and a dict of its arguments")
    for value, words in (
        ((dict, {}), "names dict, but an optimizer's class"),
        ((torch.optim.SGD, {"learning_rate": 1}), "does not take.*learning_rate"),
        ((torch.optim.SGD, {"lr": "fast"}), "refuses"),
        ((torch.optim.SGD, {"lr": -1}), "refuses.*Invalid learning rate"),
    ):
        give = lambda value=value: trainer(optimizer_cls_and_kwargs=value)  # noqa: E731
        yield Bad(f"class {short(value)}", give, words)
    yield Bad(
        "of another model", lambda: trainer(optimizers=(sgd(Model()), None)), "none of which is among the 2"
    )
    yield Bad("schedule alone", _schedule_alone, "has a schedule and no optimizer")
    yield Bad("schedule of another optimizer", _schedule_of_another, "learning rate of another SGD")
    yield Bad("optimizer and model_init", _optimizer_and_init, "model_init makes another one")


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def _constant(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)


def _schedule_alone() -> object:
    model = Model()
    return trainer(model=model, optimizers=(None, _constant(sgd(model))))


def _schedule_of_another() -> object:
    model = Model()
    return trainer(model=model, optimizers=(sgd(model), _constant(sgd(model))))


def _optimizer_and_init() -> object:
    return trainer(model=None, model_init=Model, optimizers=(sgd(Model()), None))


# ---- paths and calls --------------------------------------------------------------------------------------------


def of_places() -> Iterator[Bad]:
    for value, words in (
        ("", "output_dir='' is empty"),
        (" ", "output_dir=' ' is empty"),
        ("a\0b", "contains a NUL character"),
        ("a" * 300, "cannot be the name of a directory: File name too long"),
        ("x/" + "y" * 5000, "cannot be the name of a directory: File name too long"),
        ("/dev/null", "'/dev/null' is a file"),
        ("/dev/null/x", "'/dev/null' is a file"),
        ("/proc/1/x", "cannot be written to"),
        (True, "output_dir=True is a bool, but text"),
        ([], "output_dir=.* is a list, but text"),
        (b"x", "output_dir=b'x' is a bytes, but text"),
        (OTHER, "output_dir=.* is a object, but text"),
    ):
        give = lambda value=value: trainer({"output_dir": value}).train()  # noqa: E731
        yield Bad(f"output_dir={short(value)}", give, words)
    for value, words in (
        *(
            (one, "but a path, True, 'auto' or None was expected")
            for one in (5, 0, 1.5, -1, [], {}, OTHER, b"x", Model)
        ),
        ("\0", "resume_from_checkpoint=.*cannot be opened: embedded null"),
        ("a" * 300, "resume_from_checkpoint=.*cannot be opened: File name too long"),
        ("nowhere", "nowhere"),
        (True, "checkpoint"),
        (Path("nowhere"), "nowhere"),
    ):
        give = lambda value=value: trainer().train(resume_from_checkpoint=value)  # noqa: E731
        yield Bad(f"resume={short(value)}", give, words)


def of_calls() -> Iterator[Bad]:
    yield Bad("train(foo)", lambda: trainer().train(foo=5), r"train\(\) cannot be called like this.*'foo'")
    yield Bad("train(1, 2, 3, 4)", lambda: trainer().train(1, 2, 3, 4), "too many positional arguments")
    yield Bad("evaluate(foo)", lambda: trainer().evaluate(foo=5), r"evaluate\(\) cannot be called like this")
    yield Bad("predict()", lambda: trainer().predict(), "missing a required argument: 'test_dataset'")
    for value in (5, "logits", [5], {}):
        give = lambda value=value: trainer().train(ignore_keys_for_eval=value)  # noqa: E731
        yield Bad(f"ignore_keys_for_eval={short(value)}", give, "a list of names of the model's outputs")
        give = lambda value=value: trainer().evaluate(DATA, ignore_keys=value)  # noqa: E731
        yield Bad(f"ignore_keys={short(value)}", give, "a list of names of the model's outputs")
    yield Bad("trial", lambda: trainer().train(trial=5), "trial")


CHANGED: tuple[tuple[str, Any, str], ...] = (
    ("learning_rate", "fast", "learning_rate='fast' is text"),
    ("max_steps", NAN, "max_steps=nan is not a whole number"),
    ("eval_strategy", "epoch", "got no eval_dataset"),
    ("bf16", "maybe", "bf16='maybe' is text"),
    ("save_total_limit", 1.5, "save_total_limit=1.5 is not a whole number"),
    ("per_device_train_batch_size", 0, "per_device_train_batch_size=0"),
    ("optim", "adamx", "optim='adamx' is not one of"),
    ("output_dir", "", "output_dir='' is empty"),
    ("output_dir", "a" * 300, "File name too long"),
    ("num_train_epochs", 0, "leave nothing to train"),
    ("num_workers", "two", "num_workers='two'"),
)
REPLACED: tuple[tuple[str, Any, str], ...] = (
    ("args", 5, "trainer.args was set to a int"),
    ("train_dataset", 5, "train_dataset=5 is an int"),
    ("train_dataset", None, "got no train_dataset"),
    ("eval_dataset", "dev", "eval_dataset='dev' is text"),
    ("model", 5, "model= is a int"),
    ("data_collator", lambda samples: 5, "made a int"),
    ("compute_metrics", 5, "compute_metrics= is a int"),
    ("processing_class", "bert", "processing_class='bert' is text"),
    ("optimizer", 5, "where an optimizer was expected"),
    ("optimizer", sgd(Model()), "none of which is among the 2"),
    ("lr_scheduler", "cosine", "where a learning rate schedule was expected"),
)


def changed_since() -> Iterator[Bad]:
    for name, value, words in CHANGED:
        yield Bad(
            f"later args.{name}={short(value)}", lambda n=name, v=value: _later(n, v, of_args=True), words
        )
    for name, value, words in REPLACED:
        yield Bad(f"later {name}={short(value)}", lambda n=name, v=value: _later(n, v, of_args=False), words)


def _later(name: str, value: object, *, of_args: bool) -> object:
    made = trainer()
    setattr(made.args if of_args else made, name, value)
    return made.train()
