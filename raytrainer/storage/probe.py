"""Whether a bucket can be written to, and what a person is told if not.

This is tested by writing a small object, reading it back, listing and deleting it: permissions reveal themselves in no
other way.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from raytrainer.errors import ConfigurationError
from raytrainer.storage.locations import scheme_of, without_options
from raytrainer.storage.retry import BEFORE_A_RUN, Patience
from raytrainer.storage.store import ObjectStore

_AWS_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
_AWS_FILES = (("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"), ("AWS_CONFIG_FILE", "~/.aws/config"))
_NO_PERMISSION = (
    "access_denied",
    "access denied",
    "accessdenied",
    "http status 403",
    "permission",
    "forbidden",
)
_BAD_KEYS = (
    "invalid_access_key_id",
    "signature_does_not_match",
    "expired",
    "unrecognized_client",
    "invalid_client",
)
_NO_CREDENTIALS = (
    "no credentials",
    "anonymous",
    "unauthenticated",
    "could not create a oauth2",
    "defaultcredential",
)
_NO_BUCKET = (
    "no_such_bucket",
    "nosuchbucket",
    "containernotfound",
    "bucket does not exist",
    "container does not exist",
)


_TEXT = "raytrainer checks that it can write here.\n" * 50
"""Long enough: AWS's client reads an error into the space of the object, and loses one that does not fit."""


def check_bucket(uri: str, argument: str = "output_dir", patience: Patience | None = None) -> None:
    """Check that objects can be written, read, listed and deleted below a URI.

    Args:
        uri: Where.
        argument: What the user gave it as.
        patience: How long to try; by default as long as somebody at a terminal waits.

    Raises:
        ConfigurationError: If not; says why, and what to do.
    """
    store = ObjectStore(uri, patience or BEFORE_A_RUN)
    name = f".writable-{secrets.token_hex(4)}"
    try:
        store.put_text(name, _TEXT)
        store.get_text(name)
        store.folders()
        store.delete(name)
    except OSError as error:
        raise ConfigurationError(
            f"{argument}={without_options(uri)!r} cannot be written to: {reason(uri, error)} ({error})"
        ) from error


def reason(uri: str, error: OSError) -> str:
    """Why a request failed, as far as it can be told, and what to do."""
    text = str(error).lower()
    place = without_options(uri).partition("://")[2].partition("/")[0]
    if any(words in text for words in _NO_BUCKET):
        return f"there is no bucket {place!r}. Create it, or correct the name or AWS_ENDPOINT_URL."
    if any(words in text for words in _BAD_KEYS):
        return "the credentials of this process are not valid, or no longer. Renew them."
    if _lacks_credentials(uri, text):
        return f"this process has no credentials. {_where_from(uri)}"
    if any(words in text for words in _NO_PERMISSION):
        return (
            f"the credentials of this process may not do that in {place!r}. They must be allowed to read, write, list "
            f"and delete objects there. {_where_from(uri)}"
        )
    return "the store does not answer as one does. Check the network, the URI, and AWS_ENDPOINT_URL if it is set."


def _lacks_credentials(uri: str, text: str) -> bool:
    if scheme_of(uri) != "s3":
        return any(words in text for words in _NO_CREDENTIALS)
    files = (os.environ.get(variable) or default for variable, default in _AWS_FILES)
    has_some = any(os.environ.get(name) for name in _AWS_VARIABLES) or any(
        Path(file).expanduser().is_file() for file in files
    )
    return not has_some and any(words in text for words in _NO_PERMISSION)


def _where_from(uri: str) -> str:
    variables = {
        "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the role of the instance",
        "gs": "GOOGLE_APPLICATION_CREDENTIALS, or the service account of the instance",
        "gcs": "GOOGLE_APPLICATION_CREDENTIALS, or the service account of the instance",
        "az": "AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET, or a managed identity",
        "abfs": "AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET, or a managed identity",
        "abfss": "AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET, or a managed identity",
    }
    from_where = variables.get(scheme_of(uri) or "", "where its package looks for them")
    return f"They come from {from_where}, on every machine where driver and workers run."
