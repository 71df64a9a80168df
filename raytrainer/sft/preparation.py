"""Preparing a dataset for fine-tuning: tokenize, shuffle, pack. Once per run, before any worker starts.

The driver maps a dataset once (``num_proc`` processes, the cache of ``datasets``), and workers get the result. The
result for a dataset that is read from files is cached next to them under a fingerprint of its contents, the tokenizer
and the options, so that a second run, or the next rank of a launcher, reuses it. The global random state is not used.
A stream is prepared while it is read, on every worker.
"""

# datasets and pyarrow have no types.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, IterableDataset
from datasets.fingerprint import Hasher

from raytrainer.errors import ConfigurationError
from raytrainer.sft.chat import Form, check_template
from raytrainer.sft.config import SFTConfig
from raytrainer.sft.examples import ExampleMaker, maker_for
from raytrainer.sft.packed_stream import PackedStream
from raytrainer.sft.packing import LENGTHS, PackingPlan, PackingReport, plan_packing
from raytrainer.user_types import DatasetLike

logger = logging.getLogger(__name__)

_VERSION = 1
"""Incremented when the same options give different examples, so that old caches are not used."""


@dataclass
class Preparation:
    """How the datasets of one trainer are prepared, and reports on their packing."""

    args: SFTConfig
    tokenizer: Any
    formatting_func: Callable[[Any], Any] | None = None
    reports: dict[str, PackingReport] = field(default_factory=dict[str, PackingReport])
    """Name of a dataset -> the report on its packing."""

    def prepare(self, dataset: DatasetLike | list[dict[str, Any]], name: str, *, packing: bool) -> Any:
        """Make examples, and blocks of them if wanted, from a user's dataset.

        Args:
            dataset: A ``datasets`` dataset, or a list of rows.
            name: Its name in messages: "train", "eval", or the user's name.
            packing: Whether to pack examples into blocks.

        Raises:
            ConfigurationError: If its form is unknown, or it does not fit the arguments.
        """
        if isinstance(dataset, list | tuple):
            dataset = Dataset.from_list(list(dataset))
        check_kind(dataset, name)
        if is_prepared(dataset):
            return dataset
        with one_rank_at_a_time(dataset):
            return self._prepare(dataset, name, packing=packing)

    def _prepare(self, dataset: Any, name: str, *, packing: bool) -> Any:
        maker = self.maker(dataset, name, packing=packing)
        if isinstance(dataset, IterableDataset):
            return self._stream(dataset, maker, name, packing=packing)
        examples = dataset.map(
            maker,
            batched=True,
            remove_columns=dataset.column_names,
            num_proc=self.args.dataset_num_proc,
            new_fingerprint=fingerprint(dataset, maker),
            desc=f"Tokenizing the {name} dataset",
        )
        if len(examples) == 0:
            raise ConfigurationError(
                f"No example of the {name} dataset has a target in its first {self.args.max_length} tokens. Set "
                "max_length higher, or check which tokens completion_only_loss and assistant_only_loss keep."
            )
        if self.args.shuffle_dataset:
            examples = examples.shuffle(seed=self.args.seed)
        if packing:
            examples = self._pack(examples, name)
            if self.args.shuffle_dataset:
                examples = examples.shuffle(seed=self.args.seed)
        return examples

    def _stream(self, dataset: Any, maker: ExampleMaker, name: str, *, packing: bool) -> Any:
        if self.args.dataset_num_proc is not None:
            raise ConfigurationError(
                f"dataset_num_proc={self.args.dataset_num_proc}, but the {name} dataset is a stream, which is "
                "tokenized while it is read. Leave dataset_num_proc out, or pass a Dataset."
            )
        if packing and self.args.packing_strategy != "wrapped":
            raise ConfigurationError(
                f"packing_strategy={self.args.packing_strategy!r} needs the lengths of all examples, but the {name} "
                "dataset is a stream. Use packing_strategy='wrapped', or pass a Dataset."
            )
        if self.args.shuffle_dataset:
            dataset = dataset.shuffle(seed=self.args.seed)
        columns = dataset.column_names or list(next(iter(dataset)))
        examples = dataset.map(maker, batched=True, remove_columns=columns)
        if not packing:
            return examples
        assert self.args.max_length is not None
        return PackedStream(examples, self.args.max_length)

    def maker(self, dataset: DatasetLike, name: str, *, packing: bool) -> ExampleMaker:
        """Return what makes examples from the rows of a dataset, after checking that it can.

        Args:
            dataset: A ``datasets`` dataset.
            name: Its name in messages.
            packing: Whether examples are packed, and so not truncated here.

        Raises:
            ConfigurationError: If the dataset is empty, its form is unknown, or it does not fit the arguments.
        """
        args = self.args
        try:
            first = next(iter(dataset))
        except StopIteration:
            raise ConfigurationError(
                f"The {name} dataset has no rows, but at least one was expected. Pass a dataset with rows."
            ) from None
        maker = maker_for(
            first,
            name,
            tokenizer=self.tokenizer,
            text_field=args.dataset_text_field,
            completion_only=args.completion_only_loss is not False,
            assistant_only=args.assistant_only_loss,
            max_length=None if packing else args.max_length,
            keeps_end=args.truncation_mode == "keep_end",
            formatting_func=None if "input_ids" in first else self.formatting_func,
        )
        check_fit(args, maker, first, name)
        return maker

    def _pack(self, examples: Any, name: str) -> Any:
        assert self.args.max_length is not None
        plan = plan_packing(lengths_of(examples), self.args.max_length, self.args.packing_strategy)
        self.reports[name] = plan.report
        logger.info("Packed the %s dataset: %s.", name, plan.report)
        return pack(examples, plan)


def check_kind(dataset: DatasetLike, name: str) -> None:
    """Refuse datasets that cannot be mapped.

    Raises:
        ConfigurationError: If it is not a dataset of ``datasets``, or has a transform that runs when rows are read.
    """
    if not isinstance(dataset, Dataset | IterableDataset | PackedStream):
        raise ConfigurationError(
            f"The {name} dataset is a {type(dataset).__module__}.{type(dataset).__name__}, but a datasets.Dataset, "
            "an IterableDataset or a list of rows was expected. Make one with Dataset.from_generator, or pass "
            "tokenized samples with dataset_kwargs={'skip_prepare_dataset': True}."
        )
    if isinstance(dataset, Dataset) and dataset.format["type"] == "custom":
        raise ConfigurationError(
            f"The {name} dataset has a transform (set_transform, with_transform), which would run only once. "
            "Use map() instead, or let the transform return tokenized samples and set "
            "dataset_kwargs={'skip_prepare_dataset': True}."
        )


def check_fit(args: SFTConfig, maker: ExampleMaker, row: Mapping[str, Any], name: str) -> None:
    """Refuse arguments that a dataset cannot satisfy.

    Args:
        args: The arguments.
        maker: What makes examples from the dataset.
        row: Any row of it.
        name: Its name in messages.

    Raises:
        ConfigurationError: If its form does not mark the requested targets, or the tokenizer lacks something.
    """
    form = maker.form
    is_marked = form is Form.TOKENS and "labels" in row
    if args.completion_only_loss and not (form.has_completion or is_marked or "completion_mask" in row):
        raise ConfigurationError(
            f"completion_only_loss=True, but the {name} dataset has {form.value} instead of 'prompt' and "
            "'completion'. Leave it out, or split the rows into prompt and completion."
        )
    if args.assistant_only_loss and not (form.is_chat or is_marked or "assistant_masks" in row):
        raise ConfigurationError(
            f"assistant_only_loss=True, but the {name} dataset has {form.value} instead of 'messages'. Leave "
            "it out, or pass conversations."
        )
    if form.is_chat:
        check_template(maker.tokenizer, marks_assistant=args.assistant_only_loss)
    elif form is not Form.TOKENS and maker.tokenizer.eos_token is None:
        raise ConfigurationError(
            f"The {type(maker.tokenizer).__name__} has no end-of-text token. Set eos_token to one of its tokens."
        )


def is_prepared(dataset: Any) -> bool:
    """Whether a dataset consists of blocks. Preparing examples again changes nothing, so they need no mark."""
    return isinstance(dataset, PackedStream) or LENGTHS in (dataset.column_names or ())


def lengths_of(examples: Any) -> np.ndarray[Any, Any]:
    """Number of tokens of each example."""
    column = examples.with_format("arrow").select_columns(["input_ids"])[:]["input_ids"]
    return pa.compute.list_value_length(column).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]


def pack(examples: Any, plan: PackingPlan) -> Any:
    """Make the dataset of blocks that a plan describes."""
    blocks = [(part.start, part.stop) for part in plan.blocks()]
    table = Dataset.from_dict({"begin": [b for b, _ in blocks], "end": [e for _, e in blocks]})
    files = examples.cache_files
    print_of = Hasher.hash([_VERSION, examples._fingerprint, plan.report])
    return (
        table.with_format("arrow")
        .map(
            BlockMaker(examples, plan),
            batched=True,
            remove_columns=["begin", "end"],
            new_fingerprint=print_of,
            cache_file_name=examples._get_cache_file_path(print_of) if files else None,
            desc="Packing",
        )
        .with_format(None)
    )


class BlockMaker:
    """Makes blocks: reads the examples of several blocks at once, and cuts out their pieces."""

    def __init__(self, examples: Any, plan: PackingPlan) -> None:
        self.examples = examples.with_format("arrow")
        self.plan = plan

    def __call__(self, batch: pa.Table) -> pa.Table:
        block_ends = batch["end"].to_numpy()
        begin, end = int(batch["begin"][0].as_py()), int(block_ends[-1])
        lengths = self.plan.lengths[begin:end]
        table = self.examples[self.plan.rows[begin:end].tolist()]
        ends = block_ends - begin
        made: dict[str, Any] = {}
        for name in ("input_ids", "labels"):
            column = table[name].combine_chunks()
            offsets = column.offsets.to_numpy()
            first = offsets[:-1] + self.plan.starts[begin:end]
            # Indices of the tokens of all pieces, concatenated: those of each piece count up from its first.
            shift = np.repeat(first - (np.cumsum(lengths) - lengths), lengths)
            places = shift + np.arange(int(lengths.sum()))
            values = column.values.take(pa.array(places))
            borders = np.concatenate([[0], np.cumsum(lengths)[ends - 1]])
            made[name] = pa.ListArray.from_arrays(pa.array(borders, type=pa.int32()), values)
        made[LENGTHS] = pa.ListArray.from_arrays(
            pa.array(np.concatenate([[0], ends]), type=pa.int32()), pa.array(lengths)
        )
        return pa.table(made)


def fingerprint(dataset: Any, maker: ExampleMaker) -> str:
    """Return a name for the examples that a maker makes from a dataset."""
    tokenizer = maker.tokenizer
    words = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else tokenizer
    options = [getattr(maker, name) for name in maker.__dataclass_fields__ if name != "tokenizer"]
    return Hasher.hash(
        [_VERSION, dataset._fingerprint, words, tokenizer.chat_template, tokenizer.eos_token, *options]
    )


@contextlib.contextmanager
def one_rank_at_a_time(dataset: Any) -> Generator[None, None, None]:
    """Let one of the ranks that a launcher started on a machine prepare the dataset; the others use its cache.

    A dataset in memory has no cache; every rank then prepares it by itself, with the same result.
    """
    files = getattr(dataset, "cache_files", None)
    if not files or "LOCAL_RANK" not in os.environ:
        yield
        return
    from filelock import FileLock

    with FileLock(f"{files[0]['filename']}.{dataset._fingerprint}.lock"):
        yield
