"""The library that draws: Vega-Lite, which ``vl-convert-python`` carries as JavaScript for pages and draws to PNGs.

A page holds the JavaScript (0.9 MB), so it needs no server and no network. Putting it together takes 1.5 s, so it is
kept in the user's cache.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import tempfile
from pathlib import Path
from typing import Any, cast

from raytrainer.errors import ConfigurationError

PACKAGE = "vl-convert-python"
_CACHE = "raytrainer"


def can_draw() -> bool:
    """Whether the library is installed. Does not import it."""
    return importlib.util.find_spec("vl_convert") is not None


def javascript() -> str:
    """The JavaScript that a page needs; it defines ``vegaEmbed``.

    Raises:
        ConfigurationError: If the library is not installed.
    """
    _check()
    version = importlib.metadata.version(PACKAGE)
    cached = _cache_directory() / f"vega-{version}.js"
    try:
        return cached.read_text(encoding="utf-8")
    except OSError:
        text: str = _library().javascript_bundle().replace("</script", "<\\/script")
    _keep(cached, text)
    return text


def to_png(spec: dict[str, Any], *, scale: float = 2.0) -> bytes:
    """Draw a specification of Vega-Lite.

    Args:
        spec: With its data.
        scale: Pixels for each unit of length.

    Raises:
        ConfigurationError: If the library is not installed.
    """
    _check()
    return cast("bytes", _library().vegalite_to_png(spec, scale=scale))


def _check() -> None:
    if not can_draw():
        raise ConfigurationError(
            f"The page of a run is drawn by {PACKAGE}, which is not installed. Run: pip install 'raytrainer[report]'."
        )


def _library() -> Any:
    import vl_convert

    return vl_convert


def _cache_directory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / _CACHE


def _keep(path: Path, text: str) -> None:
    """Write a file completely or not at all; a cache that cannot be written is none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            file.write(text)
        os.replace(file.name, path)
    except OSError:
        return
