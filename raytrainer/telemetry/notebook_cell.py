"""One place in a notebook's output that shows the newest state of something, and needs no widgets."""

from __future__ import annotations

import html
import importlib
import io
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

_FORMAT = (
    '<pre style="font-family:Menlo,DejaVu Sans Mono,Consolas,monospace; line-height:1.25; overflow-x:auto; '
    'white-space:pre"><code style="font-family:inherit">{code}</code></pre>'
)


def in_notebook() -> bool:
    """Whether output of this process goes to the cells of a notebook."""
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and type(shell).__name__ != "TerminalInteractiveShell"


class NotebookCell:
    """What is shown replaces what was shown before.

    Args:
        width: Columns of text.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._handle: Any = None

    def show(self, content: RenderableType) -> None:
        """Show something, as a terminal of this width would have it."""
        display: Any = importlib.import_module("IPython.display")
        page = display.HTML(self._html(content))
        if self._handle is None:
            self._handle = display.display(page, display_id=True)
        else:
            self._handle.update(page)

    def show_text(self, text: str) -> None:
        """Show text as it is; needs no rich."""
        display: Any = importlib.import_module("IPython.display")
        data = {"text/plain": text, "text/html": _FORMAT.format(code=html.escape(text))}
        if self._handle is None:
            self._handle = display.display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)

    def _html(self, content: RenderableType) -> str:
        from rich.console import Console

        # Neither the terminal's colors nor its size are known here, and the notebook's own are those of its theme.
        console = Console(record=True, file=io.StringIO(), width=self._width, force_jupyter=False)
        console.print(content)
        return console.export_html(inline_styles=True, code_format=_FORMAT)
