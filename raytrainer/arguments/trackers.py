"""Arguments of trackers that would do nothing: refused, not ignored."""

from __future__ import annotations

import os
from typing import Any

from raytrainer.errors import ConfigurationError


def check_trackio(args: Any) -> None:
    """Check what was asked of Trackio's Spaces and Buckets.

    Raises:
        ConfigurationError: For a place that nothing would be written to.
    """
    names = ("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id")
    given = [name for name in names if getattr(args, name)]
    reporters = [args.report_to] if isinstance(args.report_to, str) else args.report_to or []
    if given and not {"trackio", "all"} & set(reporters):
        raise ConfigurationError(
            f"{given[0]}={getattr(args, given[0])!r} is about Trackio, and report_to={args.report_to!r} does not "
            f"report to it. Set report_to='trackio', or leave {given[0]} out."
        )
    has_space = bool(args.trackio_space_id or os.environ.get("TRACKIO_SPACE_ID"))
    if given and not has_space and not args.push_to_hub:
        raise ConfigurationError(
            f"{given[0]}={getattr(args, given[0])!r} belongs to a Space, and no Space is named: Trackio would write "
            "on this machine only. Set trackio_space_id, or leave it out."
        )
