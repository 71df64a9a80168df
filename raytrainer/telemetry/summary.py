"""What the block at the end of a run says: how it ended, how good and how fast it was, and where everything is.

The block answers the next question ("where is my model?") on one screen. Pure: it formats what it is given and does
not look at the disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.cells import cell_len, set_cell_size

from raytrainer.telemetry.formatting import format_duration, format_value, shorten_path, wrapped
from raytrainer.telemetry.log_lines import SPEED_SUFFIXES
from raytrainer.telemetry.paint import UNICODE, Glyphs, Paint

RULE_WIDTH = 72
_LEAST_COLUMNS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """Everything that the summary shows."""

    step: int
    max_steps: int = 0
    """0 when unknown."""
    epoch: float | None = None
    interrupted: bool = False
    metrics: Mapping[str, object] = field(default_factory=dict[str, object])
    """What training returned: ``train_runtime``, ``train_samples_per_second``, ``train_loss``, ..."""
    last_loss: object | None = None
    """The last loss that was logged."""
    eval_metrics: Mapping[str, object] = field(default_factory=dict[str, object])
    """The last evaluation, with its prefix in the keys."""
    places: Mapping[str, str] = field(default_factory=dict[str, str])
    """Label -> path."""


def run_status(facts: RunFacts) -> str:
    """``finished``, ``stopped early`` or ``interrupted``."""
    if facts.interrupted:
        return "interrupted"
    return "stopped early" if facts.step < facts.max_steps else "finished"


def run_summary(
    facts: RunFacts, *, width: int = RULE_WIDTH, glyphs: Glyphs = UNICODE, paint: Paint | None = None
) -> str:
    """Write the final block.

    Args:
        facts: What happened.
        width: Available width [columns].
        glyphs: What can be shown.
        paint: Colors; none by default.

    Returns:
        Lines without a trailing newline. Paths are never cut or wrapped, so that they can be copied.
    """
    paint = paint or Paint(on=False)
    status = run_status(facts)
    dot = f" {glyphs.dot} "
    groups = [
        [("steps", _steps(facts, dot)), *_speed(facts, dot), *_losses(facts, dot)],
        _evaluation(facts.eval_metrics),
        [(label, shorten_path(path)) for label, path in facts.places.items()],
    ]
    column = max(cell_len(label) for group in groups for label, _ in group) + 2
    color = "bold green" if status == "finished" else "bold yellow"
    title = f"{glyphs.rule * 2} {status} "
    rule = glyphs.rule * max(2, min(width, RULE_WIDTH) - len(title))
    lines = [f"{paint.dim(glyphs.rule * 2)} {paint(color, status)} {paint.dim(rule)}"]
    for index, group in enumerate(group for group in groups if group):
        if index:
            lines.append("")
        for label, text in group:
            whole = label in facts.places  # to be copied
            first, *others = [text] if whole else wrapped(text, max(_LEAST_COLUMNS, width - column - 3))
            lines.append(f"   {paint.dim(set_cell_size(label, column))}{first}")
            lines += [" " * (column + 3) + line for line in others]
    lines.append(paint.dim(glyphs.rule * (len(title) + len(rule))))
    return "\n".join(lines)


def _steps(facts: RunFacts, dot: str) -> str:
    text = f"{facts.step} of {facts.max_steps}" if facts.max_steps else str(facts.step)
    if facts.epoch is None:
        return text
    epochs = f"{facts.epoch:.2f}".rstrip("0").rstrip(".")
    return f"{text}{dot}{epochs} {'epoch' if epochs == '1' else 'epochs'}"


def _speed(facts: RunFacts, dot: str) -> list[tuple[str, str]]:
    parts: list[str] = []
    runtime = facts.metrics.get("train_runtime")
    if isinstance(runtime, int | float):
        parts.append(format_duration(runtime))
    for key, unit in (("train_samples_per_second", "samples/s"), ("train_steps_per_second", "steps/s")):
        if key in facts.metrics:
            parts.append(f"{format_value(facts.metrics[key])} {unit}")
    return [("time", dot.join(parts))] if parts else []


def _losses(facts: RunFacts, dot: str) -> list[tuple[str, str]]:
    parts: list[str] = []
    if facts.last_loss is not None:
        parts.append(f"{format_value(facts.last_loss)} at the end")
    if "train_loss" in facts.metrics:
        parts.append(f"{format_value(facts.metrics['train_loss'])} on average")
    return [("loss", dot.join(parts))] if parts else []


def _evaluation(metrics: Mapping[str, object]) -> list[tuple[str, str]]:
    """The metrics without their timings; losses come last, since other metrics are more interesting."""
    kept = [key for key in metrics if key != "epoch" and not key.endswith(SPEED_SUFFIXES)]
    kept.sort(key=lambda key: key.endswith("_loss"))
    return [(key, format_value(metrics[key])) for key in kept]
