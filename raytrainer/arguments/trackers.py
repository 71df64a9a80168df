"""Arguments of trackers that would have no effect: refused rather than ignored."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from raytrainer.errors import ConfigurationError

if TYPE_CHECKING:
    from raytrainer.arguments.training_arguments import TrainingArguments


def check_trackio(args: TrainingArguments) -> None:
    """Check the arguments about Trackio's Spaces and Buckets.

    Raises:
        ConfigurationError: For a Space or Bucket that nothing would be written to.
    """
    names = ("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id")
    given = [name for name in names if getattr(args, name)]
    reporters = [args.report_to] if isinstance(args.report_to, str) else args.report_to or []
    if given and not {"trackio", "all"} & set(reporters):
        raise ConfigurationError(
            f"{given[0]}={getattr(args, given[0])!r} is an argument of Trackio, but report_to={args.report_to!r} does "
            f"not include it. Set report_to='trackio', or leave {given[0]} out."
        )
    has_space = bool(args.trackio_space_id or os.environ.get("TRACKIO_SPACE_ID"))
    if given and not has_space and not args.push_to_hub:
        raise ConfigurationError(
            f"{given[0]}={getattr(args, given[0])!r} needs a Space, but none is named: Trackio would write "
            "to this machine only. Set trackio_space_id, or leave it out."
        )
