"""What of a driver's trainer has changed since its workers were given it.

Found by comparison before each task: whatever the user did to the trainer, its arguments, callbacks, datasets or
weights, and in whatever way, shows in the fingerprint of a part. What standing workers cannot take over needs new ones.
"""

# The underscore of a trainer's attribute keeps users out; the files of this package share it.

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from raytrainer.arguments.set_up_fields import SET_UP_FIELDS
from raytrainer.trainer_protocol import TrainerProtocol
from raytrainer.wire.fingerprint import Fingerprint, Reading, fingerprint, tensor_digest
from raytrainer.wire.parts import (
    APART,
    Gone,
    Path,
    by_identity,
    is_module,
    known_objects,
    name_of_object,
    state_of,
    tensors_of,
)

_OF_MODULES = frozenset({"_parameters", "_buffers", "_modules", "training", "config", "generation_config"})
"""Attributes of a module that are parts of their own, or that every task sets."""
_MODEL = frozenset({"weight", "trainable", "config", "generation_config", "structure"})
"""Kinds of parts that are the model's."""
_READ_WITH_THREADS = 1 << 22
"""Numbers of a model from which its weights are read by several threads."""


class TrainerParts:
    """The parts of a trainer as they were when they were last sent, or came back.

    Args:
        trainer: About to be sent as a whole.
    """

    def __init__(self, trainer: TrainerProtocol) -> None:
        self._callbacks: list[object] = list(trainer.callback_handler.callbacks)
        """All that were ever seen; the index is the number of a callback."""
        self._seen: dict[Path, object] = {}
        self._seen = self._now = self._read(trainer)

    @property
    def too_large(self) -> list[Path]:
        """Parts of which a change inside the items of a long list may be missed."""
        return [path for path, seen in self._seen.items() if _is_partly_read(seen)]

    def callbacks(self) -> dict[str, object]:
        """Number -> callback."""
        return {str(number): callback for number, callback in enumerate(self._callbacks)}

    def note(self, trainer: TrainerProtocol, paths: Iterable[Path]) -> None:
        """Parts that came back are those of the workers."""
        known = self._known(trainer)
        values = _parts_of(trainer, self.callbacks())
        for path in paths:
            self._seen[path] = _fingerprint(path, values.get(path, Gone.GONE), known, self._seen.get(path))

    def note_model(self, trainer: TrainerProtocol) -> None:
        """The model is that of the workers."""
        now = self._read(trainer)
        for path in [*self._seen, *now]:
            if path[0] in _MODEL:
                self._seen.pop(path, None)
        self._seen.update({path: seen for path, seen in now.items() if path[0] in _MODEL})

    def find_changes(self, trainer: TrainerProtocol) -> dict[Path, Any]:
        """The parts that have changed since. A part that is gone is ``Gone.GONE``."""
        self._number_callbacks(trainer)
        values = _parts_of(trainer, self.callbacks())
        now = self._read(trainer, values)
        gone = [path for path in self._seen if path not in now]
        paths = _with_dependents([path for path, seen in now.items() if self._seen.get(path) != seen], now)
        changes: dict[Path, Any] = {path: values[path] for path in paths} | dict.fromkeys(gone, Gone.GONE)
        # A new callback is sent as a whole.
        new = {path[1] for path in changes if path[0] == "callback" and len(path) == 2}
        for path in [path for path in changes if path[0] == "callback" and len(path) == 3 and path[1] in new]:
            del changes[path]
        self._now = now
        return changes

    def accept_changes(self) -> None:
        """The changes that were found last have been sent."""
        self._seen = self._now

    def _number_callbacks(self, trainer: TrainerProtocol) -> None:
        for callback in trainer.callback_handler.callbacks:
            if not any(seen is callback for seen in self._callbacks):
                self._callbacks.append(callback)

    def _read(self, trainer: TrainerProtocol, values: Mapping[Path, Any] | None = None) -> dict[Path, object]:
        values = _parts_of(trainer, self.callbacks()) if values is None else values
        known = self._known(trainer)
        seen = {
            path: _fingerprint(path, value, known, self._seen.get(path))
            for path, value in values.items()
            if path[0] != "weight"
        }
        return seen | _read_weights(values)

    def _known(self, trainer: TrainerProtocol) -> dict[int, str]:
        return by_identity(known_objects(trainer, self.callbacks()))


def needs_new_workers(paths: Collection[Path], *, num_workers: int, is_sharded: bool) -> list[Path]:
    """Those of the changed parts that standing workers cannot take over.

    Args:
        paths: What has changed.
        num_workers: How many workers stand.
        is_sharded: Each of them holds a part of the model.
    """

    def is_fixed(path: Path) -> bool:
        kind = path[0]
        if kind == "args":
            return len(path) == 1 or path[1] in SET_UP_FIELDS
        if kind == "weight":
            return is_sharded
        # DDP has decided which gradients it reduces. All ranks prepare together, once, when they are set up.
        return kind in ("structure", "prepared") or (kind == "trainable" and (is_sharded or num_workers > 1))

    return [path for path in paths if is_fixed(path)]


def _with_dependents(changed: list[Path], now: Mapping[Path, object]) -> list[Path]:
    """Changed parts, and all that refer to one of their objects, which the workers will have as another one."""
    paths = dict.fromkeys(changed)
    names = {name_of_object(path) for path in changed}
    while names:
        found = [
            path
            for path, seen in now.items()
            if path not in paths and isinstance(seen, Fingerprint) and seen.names & names
        ]
        paths |= dict.fromkeys(found)
        names = {name_of_object(path) for path in found}
    return list(paths)


def _parts_of(trainer: TrainerProtocol, callbacks: Mapping[str, object]) -> dict[Path, Any]:
    parts: dict[Path, Any] = {("args",): type(trainer.args)}
    parts |= {("args", name): value for name, value in trainer.args.__getstate__().items()}
    parts |= {("attribute", name): value for name, value in state_of(trainer).items() if name not in APART}
    numbers = {id(callback): number for number, callback in callbacks.items()}
    for number, callback in callbacks.items():
        parts["callback", number] = callback
        parts |= {("callback", number, name): value for name, value in state_of(callback).items()}
    early = trainer._unbound_accelerator
    parts["prepared",] = (
        0
        if early is None
        else early.num_kept(
            [trainer._user_attributes(), *(state_of(callback) for callback in callbacks.values())]
        )
    )
    parts["callbacks",] = [numbers[id(callback)] for callback in trainer.callback_handler.callbacks]
    return parts | _parts_of_model(trainer._own_model)


def _parts_of_model(model: Any) -> dict[Path, Any]:
    if not is_module(model):
        return {("structure",): model}
    parts: dict[Path, Any] = {("weight", name): tensor for name, tensor in tensors_of(model)}
    parts["trainable",] = {name: tensor.requires_grad for name, tensor in model.named_parameters()}
    for kind in ("config", "generation_config"):
        config: object = getattr(model, kind, None)
        if config is not None and not isinstance(config, dict):
            parts |= {(kind, name): value for name, value in vars(config).items()}
    parts["structure",] = [
        (name, type(module), _own_attributes(module)) for name, module in model.named_modules()
    ]
    return parts


def _own_attributes(module: object) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in _OF_MODULES}


def _fingerprint(path: Path, value: Any, known: Mapping[int, str], before: object) -> object:
    if path[0] == "callback" and len(path) == 2:
        return "there"  # what it consists of is compared part by part
    own = id(value)
    if path[0] == "attribute" and known.get(own) == name_of_object(path):
        known = {identity: name for identity, name in known.items() if identity != own}
    try:
        return fingerprint(value, known, like=before if isinstance(before, Fingerprint) else None)
    except Exception:  # noqa: BLE001 - whoever sends it finds out what is wrong with it
        return f"unreadable {own}"


def _read_weights(values: Mapping[Path, Any]) -> dict[Path, object]:
    weights = {path: tensor for path, tensor in values.items() if path[0] == "weight"}
    if sum(tensor.numel() for tensor in weights.values()) < _READ_WITH_THREADS:
        return {path: tensor_digest(tensor) for path, tensor in weights.items()}
    with ThreadPoolExecutor() as pool:
        return dict(zip(weights, pool.map(tensor_digest, weights.values()), strict=True))


def _is_partly_read(seen: object) -> bool:
    return isinstance(seen, Fingerprint) and seen.reading is not Reading.WHOLE
