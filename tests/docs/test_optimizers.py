"""docs/optimizers.md matches the catalogue."""

from __future__ import annotations

from pathlib import Path

from docs.generate.optimizers import table

PAGE = Path(__file__).parents[2] / "docs" / "optimizers.md"


def test_the_page_has_the_table_of_the_catalogue() -> None:
    assert table() in PAGE.read_text(), (
        "Run: python -c 'from docs.generate.optimizers import table; print(table())'"
    )
