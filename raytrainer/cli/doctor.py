"""``raytrainer doctor``: whether runs can work here, on every node of a cluster, and with a storage."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import secrets
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import cast

from raytrainer.cli import node_packages
from raytrainer.cli.findings import Finding
from raytrainer.cli.known_issues import PACKAGES, broken_requirements, is_installed, known_issues
from raytrainer.cli.node_facts import NodeFacts, node_facts
from raytrainer.cli.telling import Telling
from raytrainer.storage.locations import as_path, is_uri
from raytrainer.telemetry.environment import environment
from raytrainer.telemetry.formatting import format_bytes, format_duration

_OBJECT_STORE_SHARE = 0.3
"""Of a machine's memory that Ray takes for objects in shared memory."""
_HERE = "this machine"
_MUST_AGREE = ("python", "raytrainer", "torch", "transformers", "ray", "accelerate")


def doctor(*, address: str | None, storage: str | None, as_json: bool) -> int:
    """Look at this machine, and at the nodes of a cluster if there is one; print what was found.

    Args:
        address: Of a cluster; that in ``RAY_ADDRESS`` by default. No Ray is started.
        storage: A directory or URI for runs, tried from each machine.
        as_json: Print JSON.

    Returns:
        The exit code: 1 if something keeps runs from working.

    Raises:
        ConfigurationError: If no cluster answers at the address.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    findings: list[Finding] = []
    with left_marker(storage) as marker, Telling(findings, is_shown=not as_json) as telling:
        telling.begin(_asked(address, storage))
        here = _examine(telling, address, storage, marker)
    is_well = all(finding.state != "bad" for finding in findings)
    if as_json:
        shown = {"well": is_well, "machine": asdict(here), "findings": [asdict(one) for one in findings]}
        print(json.dumps(shown, indent=2))
    else:
        bad = sum(finding.state == "bad" for finding in findings)
        print(f"\n{bad} problem{'s' * (bad != 1)} found." if bad else "\nNo problem found.")
    return 0 if is_well else 1


def _asked(address: str | None, storage: str | None) -> str:
    what = ["this machine", "its packages", "the optimizers"]
    what += [str(storage)] if storage else []
    what += [f"every node of the cluster at {address}"] if address and address != "local" else []
    return f"Looking at {', '.join(what[:-1])} and {what[-1]}."


def _examine(telling: Telling, address: str | None, storage: str | None, marker: str | None) -> NodeFacts:
    """Look at everything, and tell each finding as soon as it is known."""
    facts = environment()
    telling.tell([_computer(facts, _HERE)])
    telling.wait("importing torch, to see its devices" + (f"; trying {storage}" if storage else ""))
    here = node_facts(storage)
    telling.tell(_devices(here, _HERE))
    telling.wait("comparing the versions of packages")
    telling.tell(_packages())
    telling.wait("importing the optimizers")
    telling.tell(_optimizers())
    telling.tell(_storage(here, storage))
    telling.wait(f"asking the cluster at {address}")
    telling.tell(_cluster(address, here, storage, marker))
    return here


@contextlib.contextmanager
def left_marker(storage: str | None) -> Generator[str | None]:
    """A file in a directory that other machines must see, for the length of a block; none in a bucket.

    A directory that is not there yet is made for the block.

    Args:
        storage: The directory or URI.
    """
    if storage is None or is_uri(as_path(storage)):
        yield None
        return
    path = Path(as_path(storage))
    made = [one for one in (path, *path.parents) if not one.exists()]
    marker = path / f".doctor-{secrets.token_hex(4)}"
    try:
        with contextlib.suppress(OSError):  # The check of this machine says it.
            path.mkdir(parents=True, exist_ok=True)
            marker.touch()
        yield marker.name
    finally:
        with contextlib.suppress(OSError):
            marker.unlink(missing_ok=True)
            for one in made:
                one.rmdir()


def _machine(node: NodeFacts, section: str) -> Iterator[Finding]:
    yield _computer(node.facts, section)
    yield from _devices(node, section)


def _computer(facts: Mapping[str, object], section: str) -> Finding:
    memory = format_bytes(float(cast("int", facts["memory_bytes"])))
    text = f"{facts['host']}: {facts['platform']}, {facts['cpus']} CPUs, {memory}, Python {facts['python']}"
    return Finding(section=section, what="machine", state="ok", text=text)


def _devices(node: NodeFacts, section: str) -> Iterator[Finding]:
    gpus = ", ".join(node.gpus) or "CPUs alone: torch sees no GPU"
    yield Finding(section=section, what="devices", state="ok", text=gpus)
    if node.shared_memory is None:
        return
    free, _ = node.shared_memory
    wanted = _OBJECT_STORE_SHARE * cast("int", node.facts["memory_bytes"])
    if free < wanted:
        text = (
            f"{format_bytes(float(free))} are free in /dev/shm, and Ray takes up to {format_bytes(wanted)} for "
            "objects. With less it stores them on a disk, which is slow: give a container more with --shm-size."
        )
        yield Finding(section=section, what="/dev/shm", state="warning", text=text)


def _packages() -> Iterator[Finding]:
    found: list[str] = []
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    yield Finding(section="versions", what="installed", state="ok", text=", ".join(found))
    broken = list(broken_requirements())
    yield from broken
    if not broken:
        yield Finding(
            section="versions", what="requirements", state="ok", text="what they need of each other is there"
        )
    yield from known_issues()
    if os.environ.get("RAY_AUTH_MODE") == "":
        text = "it is set and empty, which switches Ray's tokens off: whoever reaches its ports can run code. Unset it."
        yield Finding(section="versions", what="RAY_AUTH_MODE", state="warning", text=text)


def _optimizers() -> Iterator[Finding]:
    from raytrainer.optim.catalogue import entries

    lacking: dict[str, list[str]] = {}
    total = 0
    for entry in entries():
        total += 1
        if entry.package is not None and not is_installed(entry.package):
            lacking.setdefault(entry.package, []).append(entry.name)
    there = total - sum(map(len, lacking.values()))
    yield Finding(section="optimizers", what="zoo", state="ok", text=f"{there} of {total} can be used")
    for package, names in lacking.items():
        text = f"pip install '{package}' for {', '.join(names)}"
        yield Finding(section="optimizers", what="not there", state="note", text=text)


def _storage(node: NodeFacts, storage: str | None, section: str = "storage") -> Iterator[Finding]:
    if storage is None:
        return
    if node.storage_problem is not None:
        yield Finding(section=section, what="storage", state="bad", text=node.storage_problem)
        return
    text = f"{storage} was written, read, listed and deleted in {format_duration(node.storage_s or 0.0)}"
    yield Finding(section=section, what="storage", state="ok", text=text)


def _cluster(
    address: str | None, here: NodeFacts, storage: str | None, marker: str | None
) -> Iterator[Finding]:
    if not address or address == "local":
        text = "none is named. --address HOST:PORT, or RAY_ADDRESS, looks at one."
        yield Finding(section="cluster", what="cluster", state="note", text=text)
        return
    from raytrainer.driver.every_node import ask_every_node, by_value, joined

    with joined(address):
        answers = ask_every_node(node_facts, storage, marker)
        packages: dict[str, dict[str, str | None] | str] = {}
        if any(isinstance(answer, str) for answer in answers.values()):
            with by_value(node_packages):
                packages = ask_every_node(node_packages.packages_there, [*_MUST_AGREE[1:]])
    text = f"{address} answers, with {len(answers)} node{'s' * (len(answers) != 1)}"
    yield Finding(section="cluster", what="cluster", state="ok", text=text)
    for name, answer in answers.items():
        if isinstance(answer, str) and isinstance(there := packages.get(name), dict):
            yield _silent(f"node {name}", answer, there, here)
        else:
            yield from _node(f"node {name}", answer, here, storage)


def _node(section: str, answer: NodeFacts | str, here: NodeFacts, storage: str | None) -> Iterator[Finding]:
    if isinstance(answer, str):
        text = f"it could not be looked at: {answer}"
        yield Finding(section=section, what="machine", state="bad", text=text)
        return
    yield from _machine(answer, section)
    differing = [
        f"{name} {there}, and {ours} here"
        for name in _MUST_AGREE
        if (there := _version_on(answer, name)) != (ours := _version_on(here, name))
    ]
    if differing:
        text = f"{'; '.join(differing)}. What is pickled in one version may not be read in another."
        yield Finding(section=section, what="versions", state="bad", text=text)
    yield from _storage(answer, storage, section)


def _silent(section: str, problem: str, there: dict[str, str | None], here: NodeFacts) -> Finding:
    """A node that runs Python, and could not say more: probably because of what it lacks."""
    where = there.pop("python")
    lacking = [name for name, version in there.items() if version is None]
    differing = [
        f"{name} {version}, and {ours} here"
        for name, version in there.items()
        if version is not None and version != (ours := _version_on(here, name))
    ]
    text = f"it could not be looked at: {problem}"
    if lacking:
        text = (
            f"{where} there has no {', no '.join(lacking)}: install the same versions as here on every node"
        )
    if differing:
        text += f". It has {'; '.join(differing)}"
    return Finding(section=section, what="packages", state="bad", text=f"{text.rstrip('.')}.")


def _version_on(node: NodeFacts, name: str) -> str:
    if name == "python":
        return ".".join(str(node.facts["python"]).split(".")[:2])
    return cast("dict[str, str]", node.facts["versions"]).get(name, "not installed")
