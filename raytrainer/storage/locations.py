"""Which places are URIs of an object store, and how the names below one are made.

A location is text. A path of this machine has no scheme; ``s3://bucket/run`` has one, and may carry options of its
file system behind a ``?``, which stay at the end when a name is added.
"""

from __future__ import annotations

import os
import re
from urllib.parse import parse_qsl, unquote, urlsplit

from raytrainer.errors import ConfigurationError

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_SECRETS = ("key", "secret", "token", "password", "credential", "signature", "sas", "sig")


def is_uri(location: str | os.PathLike[str]) -> bool:
    """Whether a location has a scheme."""
    return scheme_of(location) is not None


def scheme_of(location: str | os.PathLike[str]) -> str | None:
    """The scheme of a URI, in lower case; None of a path."""
    found = _SCHEME.match(os.fspath(location))
    return found[1].lower() if found else None


def options_of(uri: str) -> dict[str, str]:
    """What stands behind the ``?`` of a URI."""
    return dict(parse_qsl(uri.partition("?")[2], keep_blank_values=True))


def without_options(uri: str) -> str:
    """A URI without what stands behind its ``?``, and without a slash at its end."""
    path = uri.partition("?")[0]
    scheme = _SCHEME.match(path)
    trimmed = path.rstrip("/")
    return scheme[0] if scheme and len(trimmed) < len(scheme[0]) else trimmed


def join(uri: str, *names: str) -> str:
    """The URI of what is below another one."""
    _, mark, options = uri.partition("?")
    path = without_options(uri)
    return "/".join([path.removesuffix("/"), *names]) + mark + options if names else path + mark + options


def below(directory: str | os.PathLike[str], *names: str) -> str:
    """Where something below a directory or a URI is."""
    return join(os.fspath(directory), *names) if is_uri(directory) else os.path.join(directory, *names)


def split(uri: str) -> tuple[str, str]:
    """The URI of the folder that a URI is in, and its name there; a bucket is in ``s3://``."""
    _, mark, options = uri.partition("?")
    parent, _, name = without_options(uri).rpartition("/")
    return (f"{parent}/" if parent.endswith(":/") else parent) + mark + options, name


def as_path(location: str) -> str:
    """A ``file://`` URI as the path that it names; anything else as it is."""
    return unquote(urlsplit(location).path) if scheme_of(location) == "file" else location


def refuse_secrets(uri: str) -> None:
    """Check that a URI holds no credentials: it is written to logs, manifests and pickles.

    Raises:
        ConfigurationError: If it does. The message does not repeat them.
    """
    if not is_uri(uri):
        return
    names = sorted(name for name in options_of(uri) if any(word in name.lower() for word in _SECRETS))
    try:
        has_password = urlsplit(uri).password is not None
    except ValueError:
        has_password = False
    if names or has_password:
        scheme = scheme_of(uri)
        what = f"the option {names[0]}" if names else "a user and a password"
        raise ConfigurationError(
            f"The {scheme}:// URI has {what} in it, and URIs are written to logs and checkpoints. Leave credentials "
            "out: they are read from the environment (AWS_ACCESS_KEY_ID and the like), from the provider's own files, "
            "or from the instance."
        )
