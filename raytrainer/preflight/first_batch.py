"""Whether the first samples of a dataset make a batch that the model takes, tried on the driver before workers start.

One sample is read; where that is fast, a few more, up to a micro-batch. They are collated, and the batch is compared
with the signature of the model's ``forward``, and with what a model of transformers says about itself. No forward
pass is made, so no device is touched. Streams are never read, nor is anything that hooks of the user's would make
different. What reading changes is put back: the random state of this process, and attributes and generators of the
dataset and the collator.

A sample that cannot be read here is left to the workers: the data may exist only there. So are the samples of a model
that is made there (``model_init``, a name), if columns that it does not take are dropped.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.utils.data import IterableDataset

from raytrainer.checkpoint.model_classes import is_transformers_model
from raytrainer.data.columns import has_transform, signature_columns
from raytrainer.data.dataset_kinds import as_dataset
from raytrainer.data.own_generators import OwnGenerators, unwrapped
from raytrainer.errors import ConfigurationError
from raytrainer.preflight.columns import forward_columns
from raytrainer.preflight.datasets import named_datasets
from raytrainer.preflight.facts import MAKES_BATCHES, USES_INPUTS, TrainerFacts
from raytrainer.random_state import HostRandomState

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

_TIME_S = 0.1
"""After this time no further sample is read."""
_MOST_SAMPLES = 8
_CAUSED_BY_DATA = (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError)
"""What a collator of the user's raises because of its samples; other errors may come from this machine."""


def check_first_batches(facts: TrainerFacts, keyword: str, datasets: object) -> None:
    """Check the first samples of a dataset, or of each of a dict of datasets.

    Args:
        facts: What the trainer was given.
        keyword: The argument that has them, for messages.
        datasets: A dataset, a dict of them, or None.

    Raises:
        ConfigurationError: If they make no batch, or one that the model does not take.
    """
    if facts.overrides & (MAKES_BATCHES | {"_get_train_sampler"}) or facts.collate is None:
        return
    if keyword == "train_dataset":
        check_first_batch(facts, keyword, datasets)
        return
    for name, dataset in named_datasets(datasets, keyword):
        check_first_batch(facts, name, dataset)


def check_first_batch(facts: TrainerFacts, name: str, given: Any) -> None:
    """Check the first samples of one dataset.

    Args:
        facts: What the trainer was given; no hook of its that makes batches is overridden.
        name: The dataset in messages.
        given: Anything that is read as a dataset.

    Raises:
        ConfigurationError: If they make no batch, or one that the model does not take.
    """
    if facts.args.remove_unused_columns and not isinstance(facts.model, torch.nn.Module):
        return  # A model that model_init or a name will make says which columns are left.
    dataset = as_dataset(given)
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__") or has_transform(dataset):
        return
    with _nothing_changed(dataset, facts.collate):
        samples = _first_samples(dataset, facts.args.per_device_train_batch_size)
        if not samples:
            return
        if facts.args.remove_unused_columns:
            samples = [_without_unused(one, facts) for one in samples]
        batch = _collated(facts, name, samples)
    if not facts.overrides & USES_INPUTS:
        _check_is_mapping(facts, name, batch)
        if isinstance(facts.model, torch.nn.Module):
            _check_signature(facts, name, batch)
            _check_values(facts.model, name, batch)


def _first_samples(dataset: Any, batch_size: int) -> list[Any]:
    samples: list[Any] = []
    end = time.monotonic() + _TIME_S
    try:
        for index in range(min(len(dataset), batch_size, _MOST_SAMPLES)):
            samples.append(dataset[index])
            if time.monotonic() > end:
                break
    except Exception as error:  # noqa: BLE001 - the data may exist on the workers only, where the error is raised
        logger.debug(
            "The first samples are not checked, because they cannot be read on the driver: %s", error
        )
        return []
    return samples


@contextmanager
def _nothing_changed(*owners: Any) -> Generator[None]:
    """Put back the random state, and the attributes and generators of some objects."""
    state = HostRandomState.now()
    generators = OwnGenerators(**{str(number): owner for number, owner in enumerate(owners)})
    generator_states = generators.states()
    inner: list[Any] = [unwrapped(owner) for owner in owners]
    attributes: list[Any] = [getattr(one, "__dict__", None) for one in inner]
    kept: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (one, dict(cast("dict[str, Any]", one))) for one in attributes if type(one) is dict
    ]
    try:
        yield
    finally:
        for now, before in kept:
            now.clear()
            now.update(before)
        generators.restore(generator_states)
        state.restore()


def _without_unused(sample: Any, facts: TrainerFacts) -> Any:
    """A sample with the columns that are not dropped before it is collated."""
    if not isinstance(sample, Mapping):
        return sample
    takes = forward_columns(facts.model, facts.args.label_names)
    names = signature_columns(facts.model, list(takes.labels))
    return {key: value for key, value in cast("Mapping[Any, Any]", sample).items() if key in names}


def _collated(facts: TrainerFacts, name: str, samples: list[Any]) -> Any:
    collate: Callable[[list[Any]], Any] = facts.collate
    owner = unwrapped(collate)
    module = str(getattr(owner, "__module__", "") if callable(owner) else type(owner).__module__)
    is_known = module.partition(".")[0] in ("transformers", "torch")
    called = getattr(collate, "__name__", None) or type(collate).__name__
    try:
        return collate(samples)
    except Exception as error:
        if not is_known and not isinstance(error, _CAUSED_BY_DATA):
            logger.debug("The collator cannot be tried on the driver: %s", error)
            return _UNKNOWN
        raise ConfigurationError(
            f"The first {len(samples)} samples of {name} make no batch: {called} raised {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no message'}. The samples are {_described(samples)}. "
            "Give all samples the same keys, with values that can be stacked, or pass a data_collator that makes them "
            "so."
        ) from error


_UNKNOWN = object()


def _check_is_mapping(facts: TrainerFacts, name: str, batch: Any) -> None:
    if batch is _UNKNOWN:
        return
    called = getattr(facts.collate, "__name__", None) or type(facts.collate).__name__
    if not isinstance(batch, Mapping):
        raise ConfigurationError(
            f"The collator {called} made {_kind(batch)} of the first samples of {name}, but a dict was expected, whose "
            "keys are the names of the model's inputs. Return such a dict, or override compute_loss."
        )
    if not batch:
        raise ConfigurationError(
            f"The first batch of {name} is empty: no key of its samples is left after {called}. The model takes "
            f"{_names_of(facts)}. Rename the columns, turn text into numbers, or set remove_unused_columns=False if "
            "the collator needs them."
        )


def _names_of(facts: TrainerFacts) -> list[str]:
    if not isinstance(facts.model, torch.nn.Module):
        return []
    return list(forward_columns(facts.model, facts.args.label_names).names)


def _check_signature(facts: TrainerFacts, name: str, batch: Any) -> None:
    """``forward`` is called with the batch as keywords."""
    if batch is _UNKNOWN or facts.model._forward_pre_hooks:
        return
    forward = facts.model.forward
    try:
        signature = inspect.signature(forward)
    except (TypeError, ValueError):
        return
    keys = {str(key) for key in batch}
    takes_labels = facts.compute_loss_func is not None or facts.args.label_smoothing_factor > 0
    if takes_labels:
        keys.discard("labels")
    try:
        signature.bind(**dict.fromkeys(keys))
    except TypeError as error:
        raise ConfigurationError(
            f"{type(facts.model).__name__}.forward cannot be called with the first batch of {name}: {error}. The batch "
            f"has {sorted(keys)}, and forward takes {list(signature.parameters)}. Rename the columns or the "
            "parameters, pass a data_collator that makes what forward takes, or override compute_loss."
        ) from error


def _check_values(model: torch.nn.Module, name: str, batch: Any) -> None:
    """What a model of transformers says about its inputs: the size of its vocabulary, and the shape of its labels."""
    if not is_transformers_model(model) or batch is _UNKNOWN:
        return
    tokens, labels = batch.get("input_ids"), batch.get("labels")
    if isinstance(tokens, torch.Tensor) and tokens.numel():
        _check_vocabulary(model, name, tokens)
    if isinstance(labels, torch.Tensor) and isinstance(tokens, torch.Tensor):
        _check_label_shape(model, name, tokens, labels)


def _check_vocabulary(model: PreTrainedModel, name: str, tokens: torch.Tensor) -> None:
    try:
        embeddings = cast("Any", model.get_input_embeddings())
    except (NotImplementedError, AttributeError):
        return
    size = getattr(embeddings, "num_embeddings", None)
    if not isinstance(size, int) or tokens.is_floating_point():
        return
    largest, least = int(tokens.max()), int(tokens.min())
    if largest >= size or least < 0:
        raise ConfigurationError(
            f"The first batch of {name} has the token {largest if largest >= size else least}, but "
            f"{type(model).__name__} has embeddings for the tokens 0 to {size - 1}. Use the tokenizer of this model, "
            "or call model.resize_token_embeddings(len(tokenizer))."
        )


_LABEL_OF_EACH_TOKEN = ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForTokenClassification")


def _check_label_shape(model: PreTrainedModel, name: str, tokens: torch.Tensor, labels: torch.Tensor) -> None:
    kind = type(model).__name__
    if kind.endswith(_LABEL_OF_EACH_TOKEN) and labels.shape != tokens.shape:
        raise ConfigurationError(
            f"The labels of the first batch of {name} have the shape {list(labels.shape)}, but {kind} expects a label "
            f"for each token, {list(tokens.shape)}. Pad labels like the tokens (-100 is ignored), for instance with "
            "DataCollatorForTokenClassification or DataCollatorForLanguageModeling."
        )
    if not kind.endswith("ForSequenceClassification"):
        return
    num_labels = int(getattr(model.config, "num_labels", 0))
    per_sample = labels.numel() // max(len(labels), 1) if labels.dim() else 0
    if labels.dim() == 0 or len(labels) != len(tokens) or per_sample not in (1, num_labels):
        raise ConfigurationError(
            f"The labels of the first batch of {name} have the shape {list(labels.shape)}, but {kind} with num_labels="
            f"{num_labels} expects one label for each of {len(tokens)} samples, or {num_labels} of them. Correct the "
            "labels."
        )
    is_class = per_sample == 1 and num_labels > 1 and not labels.is_floating_point()
    if is_class and int(labels.max()) >= num_labels:
        raise ConfigurationError(
            f"The first batch of {name} has the label {int(labels.max())}, but {kind} has num_labels={num_labels}, "
            f"which are 0 to {num_labels - 1}. Load the model with the number of labels that your data have."
        )


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _described(samples: list[Any]) -> str:
    """The keys and shapes of samples: those of the first one, and of the first that differs."""
    first = _described_one(samples[0])
    other = next(
        (
            f"sample {number} {text}"
            for number, sample in enumerate(samples)
            if (text := _described_one(sample)) != first
        ),
        None,
    )
    return first if other is None else f"{first}, but {other}"


def _described_one(sample: Any) -> str:
    if not isinstance(sample, Mapping):
        return _kind(sample)
    shapes = {key: _described_value(value) for key, value in cast("Mapping[Any, Any]", sample).items()}
    return "{" + ", ".join(f"{key!r}: {shape}" for key, shape in shapes.items()) + "}"


def _described_value(value: Any) -> str:
    shape: Any = getattr(value, "shape", None)
    if shape is not None:
        return f"{type(value).__name__}{list(shape)}"
    if isinstance(value, list | tuple):
        return f"{type(cast('object', value)).__name__} of {len(cast('list[object]', value))}"
    return type(value).__name__
