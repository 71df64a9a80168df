"""What is shown in a notebook is one output that is replaced, not a stream of them."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from rich.text import Text

from raytrainer.telemetry.notebook_cell import NotebookCell, in_notebook


class ZMQInteractiveShell:
    """Named as the shell of a notebook's kernel."""


class TerminalInteractiveShell:
    """Named as IPython's in a terminal."""


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What a frontend is told, in order: display or update, and the HTML."""
    told: list[tuple[str, str]] = []

    def display(html: SimpleNamespace, *, display_id: bool) -> Any:
        assert display_id
        told.append(("display", html.data))
        return SimpleNamespace(update=lambda newer: told.append(("update", newer.data)))

    module = SimpleNamespace(HTML=lambda data: SimpleNamespace(data=data), display=display)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return told


def test_the_second_state_replaces_the_first(outputs: list[tuple[str, str]]) -> None:
    cell = NotebookCell(40)
    cell.show(Text("one <b>"))
    cell.show(Text("two"))
    assert [kind for kind, _ in outputs] == ["display", "update"]
    assert "one &lt;b&gt;" in outputs[0][1], "text is not markup"
    assert "two" in outputs[1][1]
    assert "one" not in outputs[1][1]


@pytest.mark.parametrize(
    ("shell", "is_one"), [(ZMQInteractiveShell(), True), (TerminalInteractiveShell(), False), (None, False)]
)
def test_a_notebook_is_told_from_a_terminal(
    shell: object, is_one: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert in_notebook() is is_one
