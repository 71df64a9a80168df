"""Where and how the workers run: Ray's options as flat fields of ``TrainingArguments``.

Flat, so that a command line, a JSON file and a YAML file can set them. Each value is normalized and checked by itself
here; what the cluster can provide is checked where the cluster is known. This file never imports ray.
"""

# No `from __future__ import annotations`: HfArgumentParser evaluates the types of the fields below.
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from raytrainer.arguments.worker_count import WorkerCount, read_worker_count
from raytrainer.errors import ConfigurationError

PLACEMENT_STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")


@dataclass(repr=False)
class RayOptions:
    """How many workers run, with which resources, and how often they are restarted."""

    num_workers: WorkerCount = field(
        default=None,
        metadata={
            "help": "Number of workers, each with one device. Default: one per GPU of the cluster, or one "
            "if it has no GPU. 0: train in this process, without Ray. A pair such as (1, 4), on a command line 1,4: at "
            "least 1 and at most 4, as the cluster has room, also while the run lasts; its batches are those of 4."
        },
    )
    use_gpu: bool | None = field(
        default=None,
        metadata={
            "help": "Whether each worker gets a GPU. Default: when the cluster has GPUs and `use_cpu` is not set.",
            "nargs": "?",
            "const": True,
        },
    )
    resources_per_worker: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": 'Resources that each worker reserves, a dict or JSON such as \'{"CPU": 4, "GPU": 1}\'. '
            "Default: one GPU if GPUs are used, and an equal share of the cores that are free, at least one."
        },
    )
    placement_strategy: str = field(
        default="PACK",
        metadata={
            "help": "How Ray places the workers on nodes: PACK, SPREAD, STRICT_PACK or STRICT_SPREAD.",
            "choices": list(PLACEMENT_STRATEGIES),
        },
    )
    accelerator_type: str | None = field(
        default=None,
        metadata={"help": "Place workers only on nodes with this type of accelerator, for instance 'A100'."},
    )
    label_selector: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Place workers only on nodes with these labels, a dict or JSON such as "
            '\'{"ray.io/market-type": "spot"}\'.'
        },
    )
    max_failures: int = field(
        default=3,
        metadata={
            "help": "How often the workers are restarted after failures within one call of train() or another method, "
            "from the newest committed checkpoint. 0: never. -1: no limit."
        },
    )
    ray_address: str | None = field(
        default=None,
        metadata={
            "help": "Address of the Ray cluster. Default: the value of RAY_ADDRESS, else a local Ray "
            "that is started for this script."
        },
    )
    worker_idle_timeout_s: float = field(
        default=300.0,
        metadata={
            "help": "How long workers wait for the next task (evaluate, predict, ...) before they exit, in seconds."
        },
    )
    cluster_timeout_s: float = field(
        default=60.0,
        metadata={
            "help": "How long to wait for a cluster that may still scale up to the requested workers, in seconds. "
            "Time in which nodes are being started does not count."
        },
    )
    placement_timeout_s: float = field(
        default=600.0,
        metadata={
            "help": "How long to wait for CPUs and GPUs that others hold, in seconds. Longer than "
            "`worker_idle_timeout_s`, after which idle workers of other trainers leave. Time in which nodes are being "
            "started does not count."
        },
    )

    elastic_timeout_s: float = field(
        default=15.0,
        metadata={
            "help": "With a pair as `num_workers`: how long to wait for the largest number of workers, in seconds, at "
            "the start and after a node was lost, before fewer are taken. Time in which nodes are being started does "
            "not count."
        },
    )

    fork_workers: bool = field(
        default=True,
        metadata={
            "help": "Fork the workers of a local Ray from a process that has imported torch and transformers for all "
            "of them, so that they start and restart sooner and share the memory of that code; in a cluster, those "
            "that are started again. On Linux only; a worker that could differ from one that Ray starts is started by "
            "Ray. False: Ray starts each worker."
        },
    )

    hang_warning_s: float = field(
        default=60.0,
        metadata={
            "help": "After how long without a step you are told which ranks wait for which, in seconds; but not sooner "
            "than after 20 times the median step. A first step, a save and what comes next to one get ten times as "
            "long. 0: never."
        },
    )
    hang_timeout_s: float | None = field(
        default=None,
        metadata={
            "help": "After how long without a step the workers are ended and started again, in seconds, measured as "
            "`hang_warning_s` is. It counts as one of `max_failures`. Default: never."
        },
    )

    @property
    def is_elastic(self) -> bool:
        """The number of workers may change during a run: ``num_workers`` is a pair.

        The batch of an optimizer step is that of ``max_workers``, however many there are: ``max_workers`` x
        ``per_device_train_batch_size`` x ``gradient_accumulation_steps`` samples.
        """
        return isinstance(self.num_workers, tuple)

    @property
    def min_workers(self) -> int | None:
        """The least number of workers; None where the cluster decides."""
        return self._bounds[0]

    @property
    def max_workers(self) -> int | None:
        """The largest number of workers, and that of a run whose number is fixed; None where the cluster decides."""
        return self._bounds[1]

    @property
    def _bounds(self) -> tuple[int | None, int | None]:
        count = read_worker_count(self.num_workers)
        return count if isinstance(count, tuple) else (count, count)

    def allows_workers(self, number: int) -> bool:
        """Whether a run may have so many workers."""
        least, most = self._bounds
        return least is None or most is None or least <= number <= most

    def normalize_ray_options(self) -> None:
        """Parse JSON strings and check each value.

        Raises:
            ConfigurationError: For an invalid value.
        """
        self.num_workers = read_worker_count(self.num_workers)
        _check_count("max_failures", self.max_failures, minimum=-1)
        self.resources_per_worker = _checked_resources(
            _parsed_dict("resources_per_worker", self.resources_per_worker)
        )
        self.label_selector = _parsed_dict("label_selector", self.label_selector)
        self.placement_strategy = _checked_strategy(self.placement_strategy)
        for name in (
            "worker_idle_timeout_s",
            "cluster_timeout_s",
            "placement_timeout_s",
            "elastic_timeout_s",
            "hang_warning_s",
        ):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
                raise ConfigurationError(
                    f"{name}={value!r} is not a number of seconds. Give a number of 0 or more, for instance "
                    f"{name}=60."
                )
        _check_hang_timeout(self.hang_timeout_s)


def _checked_strategy(value: object) -> str:
    strategy = value.upper() if isinstance(value, str) else value
    if strategy not in PLACEMENT_STRATEGIES:
        raise ConfigurationError(
            f"placement_strategy={strategy!r} is not one of {list(PLACEMENT_STRATEGIES)}. Use one of them; "
            "PACK keeps workers on as few nodes as possible."
        )
    return str(strategy)


def _check_count(name: str, value: object, *, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ConfigurationError(
            f"{name}={value!r} is not a whole number of {minimum} or more. Give one, for instance {name}=2."
        )


def _check_hang_timeout(value: object) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
        raise ConfigurationError(
            f"hang_timeout_s={value!r} is not a number of seconds. Give one, for instance hang_timeout_s=600, or None "
            "to end no worker because it stands still."
        )


def _parsed_dict(name: str, value: object) -> dict[str, Any] | None:
    parsed = value
    if isinstance(value, str):
        try:
            parsed = json.loads(value)
        except json.JSONDecodeError as error:
            raise ConfigurationError(
                f"{name}={value!r} is not JSON ({error}). Write a JSON object, for instance "
                f'\'{{"key": "value"}}\', and quote it for your shell.'
            ) from error
    if parsed is None:
        return None
    keys: list[object] = [*parsed] if isinstance(parsed, Mapping) else [None]
    if not all(isinstance(key, str) for key in keys):
        raise ConfigurationError(
            f"{name}={value!r} is a {type(cast('object', parsed)).__name__}, but a dict with string keys was expected. "
            "Write it as a dict in Python or as a JSON object on the command line."
        )
    return dict(cast("Mapping[str, Any]", parsed))


def _checked_resources(resources: dict[str, Any] | None) -> dict[str, float] | None:
    for key, amount in (resources or {}).items():
        if isinstance(amount, bool) or not isinstance(amount, int | float) or amount < 0:
            raise ConfigurationError(
                f"resources_per_worker asks for {key}={amount!r}, which is not an amount. Give a number of 0 "
                'or more, for instance {"CPU": 2, "GPU": 1}.'
            )
        if key in ("cpu", "gpu", "Cpu", "Gpu"):
            raise ConfigurationError(
                f"resources_per_worker has the key {key!r}, but Ray's name is {key.upper()!r}. Write it in "
                "capitals: in this spelling it is a custom resource that no node has."
            )
    return resources
