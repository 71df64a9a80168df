"""How numbers, durations, sizes, paths and symbols are written for people.

One place, so that the live line, the log lines, the table and the summary agree. Pure functions of values; the
only things read from outside are the environment variable ``NO_COLOR`` (https://no-color.org) and the working
directory. Never writes anything.
"""

from __future__ import annotations

import math
import numbers
import os
import re
import unicodedata
from dataclasses import dataclass
from typing import TextIO

MAX_STRING = 100
"""Longer strings in logs are cut [characters]; the same limit as in transformers."""

_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, kw_only=True, slots=True)
class Glyphs:
    """The characters that differ between terminals with and without Unicode."""

    dot: str
    full: str
    partial: str
    """Glyphs for 1/n ... (n-1)/n of a bar's cell."""
    empty: str
    edge: str
    rule: str
    ok: str
    bad: str
    dash: str
    ellipsis: str
    box: str
    """Top left, top, top tee, top right; the same for middle and bottom; vertical: 10 + 1 + 2 characters."""


UNICODE = Glyphs(
    dot="·",
    full="█",
    partial="▏▎▍▌▋▊▉",
    empty=" ",
    edge="|",
    rule="─",
    ok="✓",
    bad="✗",
    dash="–",
    ellipsis="…",
    box="┌─┬┐├─┼┤└─┴┘│",
)
ASCII = Glyphs(
    dot="-",
    full="#",
    partial="",
    empty=" ",
    edge="|",
    rule="-",
    ok="ok",
    bad="!!",
    dash="-",
    ellipsis="...",
    box="+-+++-+++-++|",
)


def glyphs_for(stream: TextIO) -> Glyphs:
    """The characters that ``stream`` can show, judged by its encoding (a stream without one shows all)."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return UNICODE if encoding.lower().replace("-", "").replace("_", "").startswith("utf") else ASCII


@dataclass(frozen=True, slots=True)
class Paint:
    """Wraps text in color, or leaves it unchanged when color is off."""

    on: bool

    def _wrap(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.on and text else text

    def dim(self, text: str) -> str:
        """Dim: for details."""
        return self._wrap("2", text)

    def bold(self, text: str) -> str:
        """Bold: for what matters most."""
        return self._wrap("1", text)

    def good(self, text: str) -> str:
        """Green."""
        return self._wrap("32", text)

    def warn(self, text: str) -> str:
        """Yellow."""
        return self._wrap("33", text)

    def info(self, text: str) -> str:
        """Cyan."""
        return self._wrap("36", text)


def wants_color(is_terminal: bool) -> bool:
    """Whether to use color: on terminals, unless ``NO_COLOR`` is set to anything."""
    return is_terminal and not os.environ.get("NO_COLOR")


def without_color(text: str) -> str:
    """``text`` without color sequences."""
    return _ESCAPE.sub("", text)


def display_width(text: str) -> int:
    """Columns that ``text`` takes on a terminal; East Asian wide characters take two, combining ones none."""
    if "\x1b" in text:
        text = without_color(text)
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def pad(text: str, columns: int) -> str:
    """``text`` filled with blanks to ``columns``."""
    return text + " " * (columns - display_width(text))


def cut(text: str, columns: int, ellipsis: str = "…") -> str:
    """Truncate text without color codes to a display width.

    Args:
        text: The text.
        columns: The width [terminal columns].
        ellipsis: Replaces what is cut off.
    """
    if display_width(text) <= columns:
        return text
    kept: list[str] = []
    left = columns - len(ellipsis)
    for char in text:
        left -= display_width(char)
        if left < 0:
            break
        kept.append(char)
    return "".join(kept) + ellipsis[: max(0, columns)]


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


def shorten_path(path: str) -> str:
    """``path`` relative to the working directory when that is shorter; URIs stay as they are."""
    if "://" in path:
        return path
    try:
        relative = os.path.relpath(path)
    except (OSError, ValueError):  # No working directory any more, or another drive.
        return path
    return relative if len(relative) < len(path) else path
