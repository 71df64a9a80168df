"""Ships a trainer to its workers, and names the attribute at fault when it cannot be shipped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import FunctionType
from typing import cast

from raytrainer.errors import ConfigurationError
from raytrainer.wire.pickling import Shipped, pack, unpack

__all__ = ["Shipped", "receive", "ship"]

receive = unpack


def ship(value: object, name: str = "trainer") -> Shipped:
    """Bring an object into transport form.

    Args:
        value: What to ship. Its ``__getstate__`` leaves out what belongs to one process.
        name: What the object is called in messages.

    Returns:
        The object, ready to be put into Ray's object store.

    Raises:
        ConfigurationError: If a part of it cannot be pickled; names the part and its type.
    """
    try:
        return pack(value)
    except Exception as error:
        path, culprit, reason = _find_culprit(name, value, error)
        what = f"{path} ({type(culprit).__module__}.{type(culprit).__qualname__})"
        raise ConfigurationError(
            f"{what} cannot be sent to the workers: {type(reason).__name__}: {str(reason).splitlines()[0][:300]}. "
            "Workers are other processes, so everything in the trainer must be picklable: leave it out, make it where "
            "it is used (for instance in model_init= or in a callback's on_train_begin), or drop it in __getstate__."
        ) from error


def _find_culprit(
    path: str, value: object, error: Exception, depth: int = 3
) -> tuple[str, object, Exception]:
    """The deepest part that fails on its own: an attribute, an item, or a variable in a function's closure."""
    if depth > 0:
        for child_path, child in _parts(path, value):
            try:
                pack(child)
            except Exception as child_error:  # noqa: BLE001  any exception marks the part that is looked for
                return _find_culprit(child_path, child, child_error, depth - 1)
    return path, value, error


def _parts(path: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        mapping = cast("Mapping[object, object]", value)
        for key, item in mapping.items():
            yield f"{path}[{key!r}]", item
    elif isinstance(value, list | tuple | set | frozenset):
        items = cast("Iterable[object]", value)
        for index, item in enumerate(items):
            yield f"{path}[{index}]", item
    elif isinstance(function := getattr(value, "__func__", value), FunctionType) and function.__closure__:
        for name, cell in zip(function.__code__.co_freevars, function.__closure__, strict=True):
            yield f"{path}.<{name}>", cast("object", cell.cell_contents)
    elif not isinstance(value, type):
        for name, item in _state_of(value).items():
            yield f"{path}.{name}", item


def _state_of(value: object) -> dict[str, object]:
    try:
        state: object = value.__getstate__()
    except Exception:  # noqa: BLE001  then its attributes are all there is to look at
        state = None
    if isinstance(state, Mapping):
        return dict(cast("Mapping[str, object]", state))
    return dict(getattr(value, "__dict__", {}))
