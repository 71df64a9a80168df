"""How numbers, durations, sizes and paths are written for people.

One place, so that the live line, the log lines, the table and the summary agree. Pure functions of values; the only
thing read from outside is the working directory. Never writes anything.
"""

from __future__ import annotations

import math
import numbers
import os
import re
import textwrap
from collections.abc import Mapping

MAX_STRING = 100
"""Longer strings in logs are cut [characters]; the same limit as in transformers."""


def format_value(value: object) -> str:
    """One value of a log, on one line: floats with four significant digits, so that columns stay aligned."""
    if type(value) is float:  # most of what is logged
        return _format_float(value)
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real):
        return _format_float(float(value))
    text = " ".join(str(value).split())
    if len(text) > MAX_STRING:
        return f"{text[: MAX_STRING - 1]}… ({len(text)} characters)"
    return text


def _format_float(value: float) -> str:
    size = abs(value)
    if not math.isfinite(value) or value == 0:
        return f"{value:.4f}" if value == 0 else str(value)
    if size < 1e-3 or size >= 1e7:
        return f"{value:.3e}"
    if size >= 1000:
        return f"{value:.1f}"
    return f"{value:#.4g}".rstrip(".")


def format_duration(seconds: float) -> str:
    """``12 s``, ``1:10``, ``2:05:00`` or ``3 d 04:10``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d}"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}:{minutes:02d}:{rest:02d}"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours:02d}:{minutes:02d}"


def format_ago(seconds: float) -> str:
    """``12 s ago``, ``28 min ago``, ``5 h ago`` or ``3 days ago``."""
    for unit, size, limit in (("s", 1, 60), ("min", 60, 3600), ("h", 3600, 2 * 86400)):
        if seconds < limit:
            return f"{max(0, int(seconds / size))} {unit} ago"
    return f"{int(seconds / 86400)} days ago"


def format_time_left(seconds: float) -> str:
    """Like ``format_duration`` in whole seconds, since tenths of an estimate mean nothing."""
    return f"{max(0, round(seconds))} s" if seconds < 60 else format_duration(seconds)


def format_bytes(num_bytes: float) -> str:
    """Decimal units, two to three digits: ``912 B``, ``9.1 MB``, ``91 MB``, ``1.2 GB``."""
    size = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.1f} {unit}" if unit != "B" and size < 9.95 else f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def format_count(count: int) -> str:
    """``912``, ``91.2 k``, ``22.7 M`` or ``1.3 B``."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if count >= limit:
            return f"{count / (1e3 if unit == 'k' else limit):.1f} {unit}"
    return str(count)


def wrapped(text: str, width: int) -> list[str]:
    """Lines of a text, broken between words: neither a path or URL, which rich would break, nor a number and its unit.

    Args:
        text: May have several lines.
        width: Available width [columns].
    """
    together = re.sub(r"(?<=\d) (?=(?:[kMGT]?B|s|CPUs)\b)", "\u00a0", text)
    lines: list[str] = []
    for line in together.split("\n"):
        lines += (
            textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False)
            if len(line) > width
            else [line]
        )
    return [line.replace("\u00a0", " ") for line in lines]


def is_summary(logs: Mapping[str, object]) -> bool:
    """Whether logs are what ``train()`` returns; with ``include_num_input_tokens_seen`` all have a run time."""
    return "train_runtime" in logs and "train_loss" in logs


def is_evaluation(logs: Mapping[str, object]) -> bool:
    """Whether these logs are the metrics of an evaluation."""
    return any(key.startswith("eval_") for key in logs)


def shorten_path(path: str) -> str:
    """``path`` relative to the working directory when that is shorter; URIs stay as they are."""
    if "://" in path:
        return path
    try:
        relative = os.path.relpath(path)
    except (OSError, ValueError):  # No working directory any more, or another drive.
        return path
    return relative if len(relative) < len(path) else path
