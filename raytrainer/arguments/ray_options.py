"""Where and how the workers run: Ray's options as flat fields of ``TrainingArguments``.

Flat, so that a command line, a JSON file and a YAML file reach them. Values are normalized and checked one by one
here; what the cluster can give is checked where the cluster is known. This file never imports ray.
"""

# No `from __future__ import annotations`: HfArgumentParser evaluates the types of the fields below.
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raytrainer.errors import ConfigurationError

PLACEMENT_STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")


@dataclass(repr=False)
class RayOptions:
    """Fields that say how many workers run, on what, and how often they are started again."""

    num_workers: int | None = field(
        default=None,
        metadata={
            "help": "Number of workers, each with one device. Default: one per GPU of the cluster, and one "
            "where there is no GPU. 0: train in this process, without Ray."
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
            "Default: one GPU where GPUs are used, and a fair share of the cores."
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
            "help": "How often the workers are started again after failures in one call of train() or another method, "
            "from the newest committed checkpoint. 0: never. -1: no limit."
        },
    )
    ray_address: str | None = field(
        default=None,
        metadata={
            "help": "Address of the Ray cluster. Default: the one that RAY_ADDRESS names, else a local Ray "
            "that is started for this script."
        },
    )
    worker_idle_timeout_s: float = field(
        default=300.0,
        metadata={
            "help": "How long workers wait for the next task (evaluate, predict, ...) before they leave, in seconds."
        },
    )
    cluster_timeout_s: float = field(
        default=60.0,
        metadata={
            "help": "How long to wait for a cluster that may still grow to the requested workers, in seconds."
        },
    )

    def normalize_ray_options(self) -> None:
        """Parse JSON strings and check each value.

        Raises:
            ConfigurationError: For a value that can never be right.
        """
        if self.num_workers is not None:
            _check_count("num_workers", self.num_workers, minimum=0)
        _check_count("max_failures", self.max_failures, minimum=-1)
        self.resources_per_worker = _checked_resources(
            _parsed_dict("resources_per_worker", self.resources_per_worker)
        )
        self.label_selector = _parsed_dict("label_selector", self.label_selector)
        if isinstance(self.placement_strategy, str):
            self.placement_strategy = self.placement_strategy.upper()
        if self.placement_strategy not in PLACEMENT_STRATEGIES:
            raise ConfigurationError(
                f"placement_strategy={self.placement_strategy!r} is none of {list(PLACEMENT_STRATEGIES)}. "
                "Take one of them; PACK keeps workers on as few nodes as possible."
            )
        for name in ("worker_idle_timeout_s", "cluster_timeout_s"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
                raise ConfigurationError(
                    f"{name}={value!r} is no number of seconds. Give a number of 0 or more, for instance "
                    f"{name}=60."
                )


def _check_count(name: str, value: Any, *, minimum: int) -> None:
    if isinstance(value, tuple | list):
        raise ConfigurationError(
            f"{name}={value!r} asks for an elastic number of workers, and this version of raytrainer "
            f"trains with a fixed one. Give one number, for instance {name}=2."
        )
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ConfigurationError(
            f"{name}={value!r} is not a whole number of {minimum} or more. Give one, for instance {name}=2."
        )


def _parsed_dict(name: str, value: Any) -> dict[str, Any] | None:
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
    if not isinstance(parsed, Mapping) or not all(isinstance(key, str) for key in parsed):
        raise ConfigurationError(
            f"{name}={value!r} is a {type(parsed).__name__}, where a dict with string keys was expected. "
            "Write it as a dict in Python or as a JSON object on the command line."
        )
    return dict(parsed)


def _checked_resources(resources: dict[str, Any] | None) -> dict[str, float] | None:
    for key, amount in (resources or {}).items():
        if isinstance(amount, bool) or not isinstance(amount, int | float) or amount < 0:
            raise ConfigurationError(
                f"resources_per_worker asks for {key}={amount!r}, which is no amount. Give a number of 0 "
                'or more, for instance {"CPU": 2, "GPU": 1}.'
            )
        if key in ("cpu", "gpu", "Cpu", "Gpu"):
            raise ConfigurationError(
                f"resources_per_worker has the key {key!r}, and Ray knows {key.upper()!r}. Write it in "
                "capitals: the small spelling is a custom resource that no node has."
            )
    return resources
