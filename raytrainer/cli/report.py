"""``raytrainer report``: writes the page of runs."""

from __future__ import annotations

import json
import sys
import webbrowser
from pathlib import Path

from raytrainer.report.page import PAGE_NAME, write_report
from raytrainer.storage.locations import below, is_uri


def report(run_dirs: list[str], *, output: str | None, png: bool, opens: bool, as_json: bool) -> int:
    """Write the page of runs, and print where it is.

    Args:
        run_dirs: Directories or URIs.
        output: Where the page goes; ``report.html`` in the first directory, or for a URI in this one, by default.
        png: Write pictures too.
        opens: Open the page in a browser.
        as_json: Print JSON.

    Returns:
        The exit code: 1 if the page cannot be written.

    Raises:
        ConfigurationError: If a directory holds no run, or the library that draws is missing.
    """
    target = output or (PAGE_NAME if is_uri(run_dirs[0]) else below(run_dirs[0], PAGE_NAME))
    page = Path(PAGE_NAME if is_uri(target) else target)
    pictures = page.with_suffix("") if page.suffix else page.with_name(f"{page.name}-pictures")
    try:
        written = write_report(run_dirs, target, pictures=str(pictures) if png else None)
    except OSError as error:
        print(
            f"raytrainer report: {target} cannot be written: {error}. Name a place with --output.",
            file=sys.stderr,
        )
        return 1
    if as_json:
        print(json.dumps({"page": target, "pictures": written[1:]}))
    else:
        print("\n".join(written))
    if opens and not is_uri(target):
        webbrowser.open(Path(target).resolve().as_uri())
    return 0
