"""Which numbers of a run Ray exports to Prometheus, and what each of them is called.

They are made on the driver, of the events that the workers send it anyway: no worker sends anything for them, and
setting one takes microseconds. Ray adds its prefix ``ray_`` to each name, and exports them at the port of the driver's
node, where it exports its own. ``cluster/monitoring`` has a dashboard of them.

A name never holds a step, a rank or a metric of the user: what varies is a label, and there are few values of each.

On where the driver has joined a cluster, whose nodes export Ray's own numbers anyway. Off on a Ray of the driver's own,
which ends with it and which nobody scrapes. ``RAYTRAINER_METRICS`` in the driver's environment says otherwise: 1 or 0.

Ray exports the value of a gauge once, and its node forgets it 20 s later. So values are set again while a call lasts:
the time of the newest checkpoint, of which nothing is heard for an hour, is what a person looks for.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import numbers
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, Protocol, Self

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.driver import ray_threads
from raytrainer.driver.cluster import is_private
from raytrainer.telemetry.events import CheckpointCommitted, Logged, StepDone, TrainEnded, TrainStarted
from raytrainer.telemetry.formatting import is_evaluation
from raytrainer.telemetry.redaction import redacted_text

logger = logging.getLogger(__name__)

GAUGES = {
    "raytrainer_training": "1 while the run trains, 0 when it has ended.",
    "raytrainer_step": "Optimizer steps that are done.",
    "raytrainer_max_steps": "Optimizer steps of the whole run.",
    "raytrainer_epoch": "Epochs that are done.",
    "raytrainer_workers": "Workers that train.",
    "raytrainer_restarts": "How often the workers were started again since train() was called.",
    "raytrainer_samples_per_second": "Training samples per second, over all workers.",
    "raytrainer_tokens_per_second": "Input tokens per second, over all workers (include_num_input_tokens_seen).",
    "raytrainer_loss": "Training loss, as logged.",
    "raytrainer_grad_norm": "Norm of the gradients before clipping, as logged.",
    "raytrainer_learning_rate": "Learning rate, as logged.",
    "raytrainer_last_checkpoint_timestamp_seconds": "When the newest checkpoint was committed [s since the epoch].",
    "raytrainer_last_checkpoint_step": "Step of the newest checkpoint.",
    "raytrainer_last_checkpoint_bytes": "Size of the newest checkpoint.",
}
"""Name -> description of what is labelled by the run alone."""
EVALUATION = "raytrainer_evaluation"
"""A gauge, labelled by the name of the metric too."""
COUNTERS = {
    "raytrainer_saves": "Checkpoints that were committed.",
    "raytrainer_save_stall_seconds": "Seconds for which training waited for saves.",
}
"""Name -> description; Prometheus's names of them end in ``_total``."""

_LOGGED = {
    "loss": "raytrainer_loss",
    "grad_norm": "raytrainer_grad_norm",
    "learning_rate": "raytrainer_learning_rate",
}
_TOKENS = "num_input_tokens_seen"
SWITCH = "RAYTRAINER_METRICS"
"""The environment variable that has numbers exported everywhere if it is 1, and nowhere if it is 0."""
_NEXT_TO_NOTHING = sys.float_info.min
"""Ray refuses to add 0 to a counter. Any number that counts plus this one is that number."""
REPEAT_S = 5.0
"""How often gauges are set again; Ray exports them every 10 s."""


class Sink(Protocol):
    """Where numbers go."""

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        ...

    def add(self, name: str, value: float, **labels: str) -> None:
        """Add to a counter."""
        ...


class RaySink:
    """Ray's metrics. Each name is made when it gets its first number, which no run has before Ray is up."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def set(self, name: str, value: float, **labels: str) -> None:
        self._metric(name, labels).set(value, tags=labels)

    def add(self, name: str, value: float, **labels: str) -> None:
        self._metric(name, labels).inc(max(value, _NEXT_TO_NOTHING), tags=labels)

    def _metric(self, name: str, labels: Mapping[str, str]) -> Any:
        if name not in self._made:
            from ray.util import metrics

            kind: Any = metrics.Counter if name in COUNTERS else metrics.Gauge
            text = GAUGES.get(name) or COUNTERS.get(name) or "What an evaluation gave, by metric."
            self._made[name] = kind(name, description=text, tag_keys=tuple(labels))
        return self._made[name]


class SinkOfCluster:
    """Ray's metrics, where they are wanted: known when the first number comes, because Ray has been joined then."""

    def __init__(self) -> None:
        self._sink: RaySink | None = None
        self._is_decided = False

    def set(self, name: str, value: float, **labels: str) -> None:
        if (sink := self._decided()) is not None:
            sink.set(name, value, **labels)

    def add(self, name: str, value: float, **labels: str) -> None:
        if (sink := self._decided()) is not None:
            sink.add(name, value, **labels)

    def _decided(self) -> RaySink | None:
        if not self._is_decided:
            self._sink, self._is_decided = _ray_sink() if exports() else None, True
        return self._sink


def exports() -> bool:
    """Whether numbers of this driver go to Ray's metrics; after Ray was joined."""
    wanted = os.environ.get(SWITCH, "")
    return wanted == "1" or (wanted != "0" and not is_private())


@functools.cache
def _ray_sink() -> RaySink:
    return RaySink()


class RunMetrics:
    """Turns the events of one call on a trainer into numbers; within ``with``, they stay until the call is over.

    Args:
        args: Name the run: ``run_name``, else ``output_dir``.
        sink: Where numbers go.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, args: TrainingArguments, sink: Sink | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._run = redacted_text(str(args.run_name or args.output_dir))
        self._sink = sink or SinkOfCluster()
        self._clock = clock
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        """Name and labels of each gauge, and what it was set to."""
        self._is_over = threading.Event()
        self._tokens: tuple[float, float] | None = None
        """When tokens were counted last [s since the epoch], and how many."""

    def handle(self, event: object) -> None:
        """Take over what an event says. An error is logged: a number is never worth a run."""
        with _logged():
            self._take(event)

    def __enter__(self) -> Self:
        ray_threads.start(self._keep, "raytrainer-metrics")
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        if any(name == "raytrainer_training" for name, _ in self._values):
            with _logged():
                self._set(training=0)

    def _keep(self) -> None:
        while not self._is_over.wait(REPEAT_S):
            self.repeat()

    def repeat(self) -> None:
        """Set all gauges again."""
        with _logged():
            for (name, labels), value in list(self._values.items()):
                self._sink.set(name, value, **dict(labels))

    def _take(self, event: object) -> None:
        if isinstance(event, TrainStarted):
            self._set(training=1, step=event.first_step, max_steps=event.max_steps)
            self._set(workers=event.num_workers, restarts=event.attempt)
            for (
                name
            ) in COUNTERS:  # A counter that appears with its first save hides it from rate() and increase().
                self._sink.add(name, 0, run=self._run)
            self._tokens = None
        elif isinstance(event, StepDone):
            self._set(step=event.step, epoch=event.epoch)
            if event.samples_per_s:
                self._set(samples_per_second=sum(event.samples_per_s))
        elif isinstance(event, Logged):
            self._set(step=event.step)
            self._take_logs(event.logs)
        elif isinstance(event, CheckpointCommitted):
            self._set(last_checkpoint_timestamp_seconds=self._clock(), last_checkpoint_step=event.step)
            self._set(last_checkpoint_bytes=event.num_bytes)
            self._sink.add("raytrainer_saves", 1, run=self._run)
            stall_s = event.seconds if event.waited_s is None else event.waited_s
            self._sink.add("raytrainer_save_stall_seconds", stall_s, run=self._run)
        elif isinstance(event, TrainEnded):
            self._set(step=event.step)

    def _take_logs(self, logs: Mapping[str, object]) -> None:
        values = {name: float(value) for name, value in logs.items() if isinstance(value, numbers.Real)}
        if is_evaluation(logs):
            for name, value in values.items():
                if name not in ("epoch", _TOKENS):
                    self._set_gauge(EVALUATION, value, metric=name)
            return
        for name, value in values.items():
            if name in _LOGGED:
                self._set_gauge(_LOGGED[name], value)
        if _TOKENS in values:
            self._take_tokens(values[_TOKENS])

    def _take_tokens(self, tokens: float) -> None:
        now, before = self._clock(), self._tokens
        self._tokens = now, tokens
        if before is not None and now > before[0] and tokens >= before[1]:
            self._set(tokens_per_second=(tokens - before[1]) / (now - before[0]))

    def _set(self, **values: float) -> None:
        for name, value in values.items():
            self._set_gauge(f"raytrainer_{name}", value)

    def _set_gauge(self, name: str, value: float, **labels: str) -> None:
        of_run = {"run": self._run, **labels}
        self._values[name, tuple(of_run.items())] = value
        self._sink.set(name, value, **of_run)


@contextlib.contextmanager
def _logged() -> Generator[None]:
    """Log an exception of the block, and go on."""
    try:
        yield
    except Exception:
        logger.debug("Could not export a number.", exc_info=True)
