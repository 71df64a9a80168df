"""What is known not to work between versions of the packages that a run stands on, each with its source.

Beside the table, what packages themselves require of each other is looked up where they are installed: pip installs
what contradicts an earlier installation, and says so once.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from raytrainer.cli.findings import Finding, State

SECTION = "versions"
PACKAGES = (
    "raytrainer",
    "torch",
    "transformers",
    "accelerate",
    "ray",
    "datasets",
    "deepspeed",
    "peft",
    "bitsandbytes",
    "torchao",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownIssue:
    """Something that does not work where all of some versions are installed."""

    versions: Mapping[str, str]
    """Package, or ``python`` -> its versions, as in a requirement of pip."""
    text: str
    source: str
    state: State = "warning"


KNOWN = (
    KnownIssue(
        versions={"bitsandbytes": "<0.50"},
        text="its optimizers do not train on a CPU. Install bitsandbytes>=0.50.",
        source="https://github.com/bitsandbytes-foundation/bitsandbytes/pull/1901",
    ),
    KnownIssue(
        versions={"torchao": ">=0.18", "torch": "<2.11"},
        text="torchao leaves out its compiled kernels under torch before 2.11. Its optimizers do without.",
        source="https://github.com/pytorch/ao/issues/2919",
        state="note",
    ),
    KnownIssue(
        versions={"torchao": ">=0.18,<0.19", "python": ">=3.11"},
        text="its mxfp8 kernels are built for Python 3.10 alone. Nothing in raytrainer uses them.",
        source="https://github.com/pytorch/ao/pull/3471",
        state="note",
    ),
    KnownIssue(
        versions={"ray": ">=2.60,<2.61"},
        text=(
            "Ray Train counts with the room of a lost node until its start times out. raytrainer looks for room "
            "itself and does not wait for that."
        ),
        source="https://github.com/ray-project/ray/pull/66002",
        state="note",
    ),
)


def is_installed(requirement: str) -> bool:
    """Whether a package is installed in a version that a requirement such as ``torch>=2.9,<3`` allows."""
    from transformers.utils.versions import require_version

    try:
        require_version(requirement)
    except (ImportError, ValueError):
        return False
    return True


def known_issues(matches: Callable[[str], bool] = is_installed) -> Iterator[Finding]:
    """The rows of the table that apply here.

    Args:
        matches: Whether a requirement is met.
    """
    for issue in KNOWN:
        if all(matches(name + versions) for name, versions in issue.versions.items()):
            yield Finding(
                section=SECTION,
                what=next(iter(issue.versions)),
                state=issue.state,
                text=f"{issue.text} {issue.source}",
            )


def broken_requirements() -> Iterator[Finding]:
    """What installed packages require of each other and do not have; what only some systems need is not looked at."""
    for name in PACKAGES:
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for line in required:
            if ";" in line:
                continue
            requirement = _without_extras(line)
            if not is_installed(requirement):
                text = f"needs {requirement}, and here is {_version(requirement)}. Install what it needs."
                yield Finding(section=SECTION, what=name, state="bad", text=text)


def _without_extras(requirement: str) -> str:
    head, bracket, rest = requirement.partition("[")
    return (head + rest.partition("]")[2] if bracket else requirement).replace(" ", "")


def _version(requirement: str) -> str:
    name = requirement
    for mark in "<>=!~":
        name = name.partition(mark)[0]
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return f"no {name}"
