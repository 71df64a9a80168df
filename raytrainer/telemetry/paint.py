"""How text is styled and measured: which stream gets styles, which marks it can show, and what rich draws as text.

Styles are the terminal's own 16 colors, so that they suit its background, and no meaning is in a color alone: a word or
a mark says it too. ``NO_COLOR`` (https://no-color.org) switches all styles off, ``FORCE_COLOR`` switches them on in a
file or a job's log, and a terminal that calls itself dumb gets neither styles nor a line that is written again.

Imports rich, so it is imported where something is shown, and not by ``import raytrainer`` or on a worker.
"""

from __future__ import annotations

import functools
import io
import os
from dataclasses import dataclass
from typing import TextIO

from rich.box import ASCII2, ROUNDED, Box
from rich.color import ColorSystem
from rich.console import Console, RenderableType
from rich.style import Style
from rich.text import Text


@dataclass(frozen=True, kw_only=True, slots=True)
class Glyphs:
    """The characters that differ between terminals with and without Unicode."""

    dot: str
    rule: str
    ok: str
    bad: str
    dash: str
    spinner: str
    """Name of rich's."""
    box: Box


UNICODE = Glyphs(dot="·", rule="─", ok="✓", bad="✗", dash="–", spinner="dots", box=ROUNDED)
ASCII = Glyphs(dot="-", rule="-", ok="ok", bad="!!", dash="-", spinner="line", box=ASCII2)


def glyphs_for(stream: TextIO) -> Glyphs:
    """The characters that ``stream`` can show, judged by its encoding (a stream without one shows all)."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return UNICODE if encoding.lower().replace("-", "").replace("_", "").startswith("utf") else ASCII


def is_screen(stream: TextIO) -> bool:
    """Whether somebody sees this stream, and it has a width: a terminal, also a dumb one."""
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # A stream without isatty, or a closed one.
        return False


def is_terminal(stream: TextIO) -> bool:
    """Whether a line of this stream can be written again."""
    return is_screen(stream) and os.environ.get("TERM") not in ("dumb", "unknown")


def wants_style(stream: TextIO) -> bool:
    """Whether text for this stream gets colors and bold type."""
    if os.environ.get("NO_COLOR"):
        return False
    forced = os.environ.get("FORCE_COLOR")
    return forced not in ("0", "false") if forced else is_terminal(stream)


@dataclass(frozen=True, slots=True)
class Paint:
    """Styles text, or leaves it unchanged when styles are off."""

    on: bool

    def __call__(self, style: str, text: str) -> str:
        """``text`` in a style of rich, such as ``bold yellow``."""
        return Style.parse(style).render(text, color_system=ColorSystem.STANDARD) if self.on else text

    def dim(self, text: str) -> str:
        """For details."""
        return self("dim", text)

    def bold(self, text: str) -> str:
        """For what matters most."""
        return self("bold", text)

    def good(self, text: str) -> str:
        """For what is as it should be."""
        return self("green", text)

    def warn(self, text: str) -> str:
        """For what somebody should look at."""
        return self("yellow", text)


def drawn(content: RenderableType, *, width: int, paint: Paint, utf8: bool = True) -> str:
    """What rich draws, as lines without blanks at their ends and without a last newline.

    Args:
        content: The content.
        width: Available width [columns].
        paint: Whether it has styles.
        utf8: Whether bars and boxes can be Unicode.
    """
    console = _console(width, paint.on, utf8)
    if isinstance(content, Text):
        return _styled(content, console)
    with console.capture() as captured:
        console.print(content, soft_wrap=False, crop=False)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def as_text(content: RenderableType, *, width: int, paint: Paint, utf8: bool = True) -> Text:
    """What rich draws in one line, as a part of another.

    Args:
        content: The content.
        width: Available width [columns].
        paint: Whether it has styles.
        utf8: Whether bars can be Unicode.
    """
    segments = _console(width, paint.on, utf8).render(content)
    return Text.assemble(*((part, style or "") for part, style, _ in segments if part != "\n"))


def _styled(text: Text, console: Console) -> str:
    segments = text.render(console)
    return "".join(
        style.render(part, color_system=ColorSystem.STANDARD) if style and not console.no_color else part
        for part, style, _ in segments
    )


@functools.lru_cache(maxsize=8)
def _console(width: int, has_style: bool, utf8: bool) -> Console:
    """A console that writes nowhere; rich would look at the environment and at stdout for what is decided here."""
    return Console(
        file=io.TextIOWrapper(io.BytesIO(), encoding="utf-8" if utf8 else "ascii", errors="replace"),
        width=width,
        force_terminal=has_style,
        color_system="standard" if has_style else None,
        no_color=not has_style,
        force_jupyter=False,
        legacy_windows=False,
        markup=False,
        emoji=False,
        highlight=False,
    )
