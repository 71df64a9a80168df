"""A terminal for tests: a stream with ``isatty``, and what its screen would show."""

from __future__ import annotations

import io
import re

_STYLE = re.compile(r"\x1b\[[0-9;]*m")


def without_color(text: str) -> str:
    """``text`` without styles."""
    return _STYLE.sub("", text)


class Stream(io.StringIO):
    """Text that was written, with or without being a terminal."""

    def __init__(self, is_terminal: bool = False, encoding: str = "utf-8") -> None:
        super().__init__()
        self._is_terminal = is_terminal
        self._encoding = encoding

    def isatty(self) -> bool:
        return self._is_terminal

    @property
    def encoding(self) -> str:
        return self._encoding

    def screen(self) -> list[str]:
        """The lines that a terminal would show, without those that are empty at the end."""
        lines, column = [""], 0
        for token in re.findall(r"\x1b\[K|[\r\n]|[^\x1b\r\n]", without_color(self.getvalue())):
            if token == "\n":
                lines.append("")
                column = 0
            elif token == "\r":
                column = 0
            elif token == "\x1b[K":
                lines[-1] = lines[-1][:column]
            else:
                lines[-1] = lines[-1][:column].ljust(column) + token + lines[-1][column + 1 :]
                column += 1
        while len(lines) > 1 and not lines[-1]:
            lines.pop()
        return [line.rstrip() for line in lines]


class Clock:
    """A clock that advances only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now
