"""What ``fsdp`` and ``fsdp_config`` ask for, in the terms of FSDP2.

Both vocabularies are read, that of FSDP1 (``fsdp="full_shard auto_wrap"``, ``sharding_strategy=1``) and that of FSDP2
(``reshard_after_forward``), with and without the prefix ``fsdp_``. Options for what FSDP2 always does are accepted
without effect; options for what it cannot do are refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from raytrainer.dialects.json_values import read_object
from raytrainer.errors import ConfigurationError
from raytrainer.suggestions import did_you_mean

Wrap = Literal["transformer", "size", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardingOptions:
    """How parameters are sharded."""

    reshard_after_forward: bool = True
    """Free a layer's whole parameters after its forward pass (full shard, ZeRO-3), or keep them until its backward
    pass (shard-grad-op, ZeRO-2)."""
    is_hybrid: bool = False
    """Shard within groups of ranks and replicate between the groups."""
    hybrid_shard_size: int | None = None
    """Number of ranks in a group; those of a node by default."""
    wrap: Wrap = "transformer"
    """Which modules are sharded and gathered as a unit: blocks by class, modules by size, or the whole model."""
    layer_classes: tuple[str, ...] = ()
    """Class names of the blocks; those that the model declares by default."""
    min_num_params: int = 0
    """With ``wrap="size"``, the number of parameters that makes a module a unit."""
    cpu_offload: bool = False
    """Keep parameters, gradients and optimizer state in CPU memory."""
    activation_checkpointing: bool = False
    loads_on_meta: bool = False
    """Build a model that is given by name on the meta device, and have each rank read only its shard."""


STRATEGIES: dict[str, dict[str, bool]] = {
    "full_shard": {"reshard_after_forward": True},
    "shard_grad_op": {"reshard_after_forward": False},
    "hybrid_shard": {"reshard_after_forward": True, "is_hybrid": True},
    "hybrid_shard_zero2": {"reshard_after_forward": False, "is_hybrid": True},
}
"""Names of FSDP1 for what FSDP2 says with ``reshard_after_forward`` and a mesh."""
_NUMBERED = {1: "full_shard", 2: "shard_grad_op", 3: "no_shard", 4: "hybrid_shard", 5: "hybrid_shard_zero2"}
_WRAPS: dict[str, Wrap] = {
    "TRANSFORMER_BASED_WRAP": "transformer",
    "SIZE_BASED_WRAP": "size",
    "NO_WRAP": "none",
}
_DONE_ANYWAY: dict[str, str] = {
    "sync_module_states": "every rank builds the same model from the same seed",
    "forward_prefetch": "FSDP2 prefetches by itself",
    "backward_prefetch": "FSDP2 prefetches by itself",
    "limit_all_gathers": "FSDP2 limits them by itself",
    "version": "every version means FSDP2",
    "state_dict_type": "checkpoints are written in shards and read as a whole",
}
"""Keys without effect here -> the reason."""
_OFF_ONLY = (
    "xla",
    "xla_fsdp_v2",
    "xla_fsdp_grad_ckpt",
    "xla_fsdp_settings",
    "activation_checkpointing_offload",
)
_KEYS = (
    "reshard_after_forward",
    "sharding_strategy",
    "auto_wrap_policy",
    "transformer_layer_cls_to_wrap",
    "min_num_params",
    "cpu_offload",
    "offload_params",
    "activation_checkpointing",
    "cpu_ram_efficient_loading",
    "hybrid_shard_size",
    "use_orig_params",
    *_DONE_ANYWAY,
    *_OFF_ONLY,
)


def read_sharding(fsdp: object, fsdp_config: object) -> ShardingOptions | None:
    """Read the two arguments; None if nothing is to be sharded.

    Args:
        fsdp: True, False, None, or options of FSDP1 in a string or list.
        fsdp_config: A dict, or the path of a JSON file.

    Raises:
        ConfigurationError: For an option, key or value that does not exist or is not available.
    """
    config = _without_prefix(read_object(fsdp_config, "fsdp_config"))
    options = _options(fsdp)
    if not options and str(fsdp).lower() != "true":  # a command line has text
        if any(value not in (None, False, 0, "", {}) for value in config.values()):
            raise ConfigurationError(
                f"fsdp_config={config!r} was given without fsdp, so nothing would be sharded. Add fsdp=True, or leave "
                "fsdp_config out."
            )
        return None
    _check_keys(config)
    chosen: dict[str, Any] = {}
    for option in options:
        _read_option(option, chosen, config)
    _read_strategy(config, chosen)
    _read_wrap(config, chosen)
    for key, name in (
        ("cpu_offload", "cpu_offload"),
        ("offload_params", "cpu_offload"),
        ("activation_checkpointing", "activation_checkpointing"),
        ("cpu_ram_efficient_loading", "loads_on_meta"),
    ):
        if key in config:
            chosen[name] = _flag(key, config[key])
    if not _flag("use_orig_params", config.get("use_orig_params", True)):
        raise ConfigurationError(
            "fsdp_config use_orig_params=False asks for flattened parameters, which FSDP2 does not have. Leave it out."
        )
    size = config.get("hybrid_shard_size")
    if size is not None:
        chosen |= {"hybrid_shard_size": _number("hybrid_shard_size", size, at_least=1), "is_hybrid": True}
    return ShardingOptions(**chosen)


def canonical(options: ShardingOptions) -> dict[str, Any]:
    """Return the options as an ``fsdp_config`` that ``transformers`` can read too."""
    config: dict[str, Any] = {
        "version": 2,
        "reshard_after_forward": options.reshard_after_forward,
        "auto_wrap_policy": next(name for name, wrap in _WRAPS.items() if wrap == options.wrap),
        "min_num_params": options.min_num_params,
        "cpu_offload": options.cpu_offload,
        "activation_checkpointing": options.activation_checkpointing,
        "cpu_ram_efficient_loading": options.loads_on_meta,
    }
    if options.layer_classes:
        config["transformer_layer_cls_to_wrap"] = list(options.layer_classes)
    if options.is_hybrid:
        full = options.reshard_after_forward
        config["sharding_strategy"] = "hybrid_shard" if full else "hybrid_shard_zero2"
    if options.hybrid_shard_size is not None:
        config["hybrid_shard_size"] = options.hybrid_shard_size
    return config


def _without_prefix(config: dict[str, Any]) -> dict[str, Any]:
    return {key.removeprefix("fsdp_"): value for key, value in config.items()}


def _options(fsdp: Any) -> list[str]:
    if fsdp in (None, False, True, ""):
        return []
    items = fsdp.split() if isinstance(fsdp, str) else list(fsdp)
    options = [str(getattr(item, "value", item)).lower() for item in items]
    return [] if options in (["true"], ["false"]) else options


def _read_option(option: str, chosen: dict[str, Any], config: dict[str, Any]) -> None:
    if option in STRATEGIES or option == "no_shard":
        config.setdefault("sharding_strategy", option)
    elif option == "offload":
        chosen["cpu_offload"] = True
    elif option != "auto_wrap":
        raise ConfigurationError(
            f"fsdp={option!r} is not an option. {_choices(option, [*STRATEGIES, 'offload', 'auto_wrap'])}"
        )


def _read_strategy(config: dict[str, Any], chosen: dict[str, Any]) -> None:
    named = config.get("sharding_strategy")
    reshard = config.get("reshard_after_forward")
    if isinstance(reshard, str) and reshard.lower() not in ("true", "false"):
        named, reshard = reshard, None  # FSDP1 keeps the name of a strategy there
    if named is not None:
        name = _NUMBERED.get(int(named), "") if str(named).isdigit() else str(named).lower()
        if name == "no_shard":
            raise ConfigurationError(
                "fsdp='no_shard' replicates the model, which is plain data parallelism. Leave fsdp out."
            )
        if name not in STRATEGIES:
            raise ConfigurationError(f"fsdp strategy {named!r} does not exist. {_choices(name, STRATEGIES)}")
        chosen |= STRATEGIES[name]
    if reshard is not None:
        chosen["reshard_after_forward"] = _flag("reshard_after_forward", reshard)


def _read_wrap(config: dict[str, Any], chosen: dict[str, Any]) -> None:
    classes = config.get("transformer_layer_cls_to_wrap")
    if isinstance(classes, str):
        classes = [name.strip() for name in classes.split(",") if name.strip()]
    smallest = _number("min_num_params", config.get("min_num_params") or 0, at_least=0)
    policy = config.get("auto_wrap_policy")
    if policy is not None:
        if str(policy).upper() not in _WRAPS:
            raise ConfigurationError(
                f"fsdp_config auto_wrap_policy={policy!r} does not exist. {_choices(str(policy).upper(), _WRAPS)}"
            )
        chosen["wrap"] = _WRAPS[str(policy).upper()]
    elif smallest and not classes:
        chosen["wrap"] = "size"
    if classes and smallest:
        raise ConfigurationError(
            f"fsdp_config has both transformer_layer_cls_to_wrap={classes!r} and min_num_params={smallest}, but "
            "units are chosen either by class or by size. Keep one of them."
        )
    chosen |= {"layer_classes": tuple(classes or ()), "min_num_params": smallest}


def _check_keys(config: dict[str, Any]) -> None:
    for key, value in config.items():
        if key not in _KEYS:
            raise ConfigurationError(f"fsdp_config has the unknown key {key!r}. {_choices(key, _KEYS)}")
        if key in _OFF_ONLY and value not in (None, False, {}, "false", "False"):
            raise ConfigurationError(f"fsdp_config {key}={value!r} is not available. Leave it out.")
    kind = str(config.get("state_dict_type", "")).upper()
    if kind == "LOCAL_STATE_DICT":
        raise ConfigurationError(
            "fsdp_config state_dict_type='LOCAL_STATE_DICT' cannot be loaded on a different number of workers. Use "
            "SHARDED_STATE_DICT or FULL_STATE_DICT."
        )


def _flag(key: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    raise ConfigurationError(f"fsdp_config {key}={value!r} is neither true nor false. Use one of them.")


def _number(key: str, value: Any, *, at_least: int) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = at_least - 1
    if number < at_least:
        raise ConfigurationError(
            f"fsdp_config {key}={value!r} is not an integer of at least {at_least}. Give one."
        )
    return number


def _choices(word: str, known: Iterable[str]) -> str:
    names = list(known)
    return f"{did_you_mean(word, names)} Options: {', '.join(names)}.".strip()
