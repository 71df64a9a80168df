"""Ships a trainer to its workers, and names the attribute at fault when it cannot be shipped."""

from __future__ import annotations

from raytrainer.errors import ConfigurationError
from raytrainer.wire.pickling import Shipped, pack, unpack
from raytrainer.wire.unpicklable import find_unpicklable

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
        path, culprit, reason = find_unpicklable(name, value, error)
        what = f"{path} ({type(culprit).__module__}.{type(culprit).__qualname__})"
        raise ConfigurationError(
            f"{what} cannot be sent to the workers: {type(reason).__name__}: {str(reason).splitlines()[0][:300]}. "
            "Workers are other processes, so everything in the trainer must be picklable: leave it out, make it where "
            "it is used (for instance in model_init= or in a callback's on_train_begin), or drop it in __getstate__."
        ) from error
