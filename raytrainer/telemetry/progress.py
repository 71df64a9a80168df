"""What the live line says about training and evaluation, at any width.

A terminal line that wraps cannot be rewritten, so the line drops what matters least until it fits: first the learning
rate and the epoch, which are in the log lines above it, then the throughput of each worker. Step, bar and time left
stay longest. Pure functions from numbers to text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.text import Text

from raytrainer.telemetry.formatting import format_time_left
from raytrainer.telemetry.paint import UNICODE, Glyphs, Paint, as_text, drawn

BAR_CELLS = 10
MAX_WORKERS_LISTED = 4
"""Above this the slowest and the fastest worker are shown instead of all."""
SHOW_WAIT_S = 2.0
"""Waiting that takes less is shown without its time [s]."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """What is waited for before there is progress."""

    what: str
    seconds: float


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
    separator = Text(f" {style.glyphs.dot} ", style="dim")
    head = _head(progress.step, progress.max_steps, style)
    line = head
    for parts in _forms_by_width(progress, style.glyphs):
        line = separator.join([head, *map(Text, parts)])
        if line.cell_len <= width:
            break
    return _fitted(line, style, width)


def prediction_line(progress: PredictionProgress, style: LineStyle, width: int) -> str:
    """The live line of an evaluation or prediction in at most ``width`` columns.

    Args:
        progress: Where the evaluation or prediction is.
        style: How the line is drawn.
        width: Available width [columns].
    """
    if progress.total:
        line = Text.assemble(f"{progress.description} ", _head(progress.done, progress.total, style))
    else:
        line = Text(f"{progress.description} {progress.done} batches")
    return _fitted(line, style, width)


def waiting_line(waiting: Waiting, style: LineStyle, width: int) -> str:
    """The live line before there is progress, in at most ``width`` columns.

    Args:
        waiting: What is waited for.
        style: How the line is drawn.
        width: Available width [columns].
    """
    frames = Spinner(style.glyphs.spinner)
    frame = frames.frames[int(1000 * waiting.seconds / frames.interval) % len(frames.frames)]
    took = f"  {format_time_left(waiting.seconds)}" if waiting.seconds >= SHOW_WAIT_S else ""
    return _fitted(Text.assemble((frame, "cyan"), f" {waiting.what}", (took, "dim")), style, width)


def fraction_done(done: int, total: int | None) -> float:
    """Between 0 and 1; 0 when the total is unknown."""
    return min(1.0, done / total) if total else 0.0


def format_rate(rate: float) -> str:
    """Format samples per second, with one decimal below 1000."""
    return f"{rate:.1f}" if rate < 1000 else f"{rate:.0f}"


def _fitted(line: Text, style: LineStyle, width: int) -> str:
    utf8 = style.glyphs is UNICODE
    line.truncate(width, overflow="ellipsis" if utf8 else "crop")
    return drawn(line, width=width, paint=style.paint, utf8=utf8)


def _head(done: int, total: int, style: LineStyle) -> Text:
    if not total:
        return Text(f"step {done}")
    fraction = fraction_done(done, total)
    count = f"{done:>{len(str(total))}}/{total}"
    # Rounded down, so that 100% means done.
    percent = f"{int(fraction * 100):>3}%"
    if not style.with_bar:
        return Text(f"{percent} {count}")
    if style.glyphs is not UNICODE:  # rich tells what is done from what is not by color alone here
        full = int(fraction * BAR_CELLS)
        cells = Text("#" * full + " " * (BAR_CELLS - full), style="cyan")
        return Text.assemble(f"{percent} |", cells, f"| {count}")
    bar = ProgressBar(
        total=total,
        completed=done,
        width=BAR_CELLS,
        style="dim",
        complete_style="cyan",
        finished_style="green",
    )
    cells = as_text(bar, width=BAR_CELLS, paint=style.paint)
    cells.pad_right(BAR_CELLS - cells.cell_len)  # without colors rich leaves out what is not done
    return Text.assemble(f"{percent} ", cells, f" {count}")


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
