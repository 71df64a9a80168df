"""What the live line says about training and evaluation, at any width.

A terminal line that wraps cannot be rewritten, so the line drops what matters least until it fits: first the learning
rate and the epoch, which are in the log lines above it, then the throughput of each worker. Step, bar and time left
stay longest. Pure functions from numbers to text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from raytrainer.telemetry.formatting import (
    Glyphs,
    Paint,
    cut,
    display_width,
    format_time_left,
    without_color,
)

BAR_CELLS = 10
MAX_WORKERS_LISTED = 4
"""Above this the slowest and the fastest worker are shown instead of all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainProgress:
    """Where training is."""

    step: int
    max_steps: int
    epoch: float
    loss: float | None = None
    learning_rate: float | None = None
    samples_per_s: Sequence[float] = field(default_factory=tuple)
    """Throughput of each rank [samples/s]; empty when unknown."""
    eta_s: float | None = None
    """Time left [s]; None when unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionProgress:
    """Where an evaluation or prediction is."""

    description: str
    done: int
    total: int | None


@dataclass(frozen=True, slots=True)
class LineStyle:
    """How lines are drawn."""

    glyphs: Glyphs
    paint: Paint
    with_bar: bool = True


def train_line(progress: TrainProgress, style: LineStyle, width: int) -> str:
    """The live line of training in at most ``width`` columns.

    Args:
        progress: Where training is.
        style: How the line is drawn.
        width: Available width [columns].
    """
    separator = style.paint.dim(f" {style.glyphs.dot} ")
    head = _head(progress.step, progress.max_steps, style)
    line = head
    for parts in _forms_by_width(progress, style.glyphs):
        line = separator.join([head, *parts])
        if display_width(line) <= width:
            return line
    return cut(without_color(line), width, style.glyphs.ellipsis)


def prediction_line(progress: PredictionProgress, style: LineStyle, width: int) -> str:
    """The live line of an evaluation or prediction in at most ``width`` columns.

    Args:
        progress: Where the evaluation or prediction is.
        style: How the line is drawn.
        width: Available width [columns].
    """
    if progress.total:
        line = f"{progress.description} {_head(progress.done, progress.total, style)}"
    else:
        line = f"{progress.description} {progress.done} batches"
    return line if display_width(line) <= width else cut(without_color(line), width, style.glyphs.ellipsis)


def fraction_done(done: int, total: int | None) -> float:
    """Between 0 and 1; 0 when the total is unknown."""
    return min(1.0, done / total) if total else 0.0


def format_rate(rate: float) -> str:
    """Format samples per second, with one decimal below 1000."""
    return f"{rate:.1f}" if rate < 1000 else f"{rate:.0f}"


def _head(done: int, total: int, style: LineStyle) -> str:
    if not total:
        return f"step {done}"
    fraction = fraction_done(done, total)
    count = f"{done:>{len(str(total))}}/{total}"
    # Rounded down, so that 100% means done.
    percent = f"{int(fraction * 100):>3}%"
    if not style.with_bar:
        return f"{percent} {count}"
    edge = style.glyphs.edge
    return f"{percent}{edge}{style.paint.info(_bar(fraction, style.glyphs))}{edge} {count}"


def _bar(fraction: float, glyphs: Glyphs) -> str:
    levels = len(glyphs.partial) + 1
    full, part = divmod(int(fraction * BAR_CELLS * levels), levels)
    bar = glyphs.full * full + (glyphs.partial[part - 1] if part else "")
    return bar + glyphs.empty * (BAR_CELLS - len(bar))


def _forms_by_width(progress: TrainProgress, glyphs: Glyphs) -> Iterator[list[str]]:
    """The parts after the bar, from the longest form to the shortest."""
    epoch = f"epoch {progress.epoch:.2f}"
    loss = "" if progress.loss is None else f"loss {progress.loss:#.3g}".rstrip(".")
    rate = "" if progress.learning_rate is None else f"lr {progress.learning_rate:.1e}"
    left = "" if progress.eta_s is None else f"{format_time_left(progress.eta_s)} left"
    full, shares, total, short = _speed_forms(progress.samples_per_s, glyphs)
    for parts in (
        (epoch, loss, rate, full, left),
        (epoch, loss, full, left),
        (loss, full, left),
        (loss, shares, left),
        (loss, total, left),
        (loss, short, left),
        (short, left),
        (left,),
        (),
    ):
        yield [part for part in parts if part]


def _speed_forms(rates: Sequence[float], glyphs: Glyphs) -> tuple[str, str, str, str]:
    """With workers and shares, with shares, with workers, and alone."""
    if not rates:
        return "", "", "", ""
    short = f"{format_rate(sum(rates))} samples/s"
    if len(rates) == 1:
        return short, short, short, short
    if len(rates) <= MAX_WORKERS_LISTED:
        each, tight = (join.join(format_rate(rate) for rate in rates) for join in (" + ", "+"))
    else:
        each = tight = f"{format_rate(min(rates))}{glyphs.dash}{format_rate(max(rates))} each"
    workers = f"{len(rates)} workers {short}"
    return f"{workers} ({each})", f"{short} ({tight})", workers, short
