"""Which file system of pyarrow a URI opens.

S3 is opened with its options in our own hands, so that requests are repeated by ``retry`` alone, which tells of it.
Google's and Azure's stores and HDFS are opened as pyarrow does; any other scheme through the package that implements it
for fsspec. Credentials come from the environment, the provider's files or the instance, and are never seen here.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from raytrainer.errors import ConfigurationError, MissingPackageError
from raytrainer.storage.locations import join, options_of, refuse_secrets, scheme_of, without_options

# pyarrow and fsspec have no types; both are imported where a URI is opened.

REQUEST_TIMEOUT_S, CONNECT_TIMEOUT_S = 20.0, 10.0
"""How long a connection to S3 may stall [s]; ``?request_timeout=`` and ``?connect_timeout=`` change it."""

_S3_TEXT = ("region", "scheme", "endpoint_override", "role_arn", "tls_ca_file_path")
_S3_NUMBERS = ("request_timeout", "connect_timeout")
_S3_FLAGS = ("anonymous", "force_virtual_addressing")
_S3_OPTIONS = (*_S3_TEXT, *_S3_NUMBERS, *_S3_FLAGS)
_OF_PYARROW = ("gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")
_GCS_RETRIES_S = 15
"""How long Google's client repeats a request by itself [s]; by default a quarter of an hour, without a word."""
_ACCOUNT_VARIABLES = ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")


def open_filesystem(uri: str) -> tuple[Any, str]:
    """Open the file system of a URI; nothing is sent yet, or next to nothing.

    Returns:
        The file system, and the path of the URI in it.

    Raises:
        ConfigurationError: If there is no such scheme or option, or the URI holds credentials.
        MissingPackageError: If the scheme needs a package that is not installed.
    """
    refuse_secrets(uri)
    scheme = scheme_of(uri)
    if scheme == "s3":
        return _open_s3(uri)
    if scheme in ("az", "abfs", "abfss") and "@" not in without_options(uri):
        uri = _with_account(uri)
        scheme = scheme_of(uri)
    return _open_by_pyarrow(uri) if scheme in _OF_PYARROW else _open_by_fsspec(uri)


def _open_s3(uri: str) -> tuple[Any, str]:
    fs: Any = importlib.import_module("pyarrow.fs")
    path = without_options(uri).removeprefix("s3://")
    bucket = path.partition("/")[0]
    if not bucket:
        raise ConfigurationError(f"{uri!r} names no bucket. Write it as s3://bucket/run.")
    options = _s3_options(uri)
    if "region" not in options and "endpoint_override" not in options and not _has_region():
        try:
            options["region"] = fs.resolve_s3_region(bucket)
        except OSError as error:
            raise ConfigurationError(
                f"The region of the bucket {bucket!r} cannot be found: {error}. Check the bucket's name and the "
                "network, or set AWS_REGION; a store that is not Amazon's needs AWS_ENDPOINT_URL."
            ) from error
    system = fs.S3FileSystem(
        allow_delayed_open=True,  # a small object is one request
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
        **options,
    )
    return system, path


def _s3_options(uri: str) -> dict[str, Any]:
    given = options_of(uri)
    unknown = sorted(set(given) - set(_S3_OPTIONS))
    if unknown:
        raise ConfigurationError(
            f"{uri!r} has the option {unknown[0]!r}, which S3 does not have. Options are {', '.join(_S3_OPTIONS)}."
        )
    options: dict[str, Any] = {"request_timeout": REQUEST_TIMEOUT_S, "connect_timeout": CONNECT_TIMEOUT_S}
    # pyarrow reads the variable in from_uri() alone.
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        scheme, mark, host = endpoint.rpartition("://")
        options |= {"endpoint_override": host.rstrip("/")} | ({"scheme": scheme} if mark else {})
    options |= {name: given[name] for name in _S3_TEXT if name in given}
    options |= {name: _number(uri, name, given[name]) for name in _S3_NUMBERS if name in given}
    options |= {name: given[name].lower() in ("true", "1") for name in _S3_FLAGS if name in given}
    return options


def _number(uri: str, name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigurationError(f"{uri!r} has {name}={text!r}, where seconds were expected.") from None


def _has_region() -> bool:
    return any(os.environ.get(name) for name in ("AWS_REGION", "AWS_DEFAULT_REGION"))


def _with_account(uri: str) -> str:
    """``az://container/run`` with the storage account, which is in the environment, as pyarrow writes it."""
    account = next((os.environ[name] for name in _ACCOUNT_VARIABLES if os.environ.get(name)), None)
    if account is None:
        raise ConfigurationError(
            f"{uri!r} does not say in which storage account the container is. Set AZURE_STORAGE_ACCOUNT_NAME where "
            "driver and workers run, or write abfs://container@account.dfs.core.windows.net/run."
        )
    scheme, _, rest = uri.partition("://")
    return f"{'abfss' if scheme == 'abfss' else 'abfs'}://{account}@{rest}"


def _open_by_pyarrow(uri: str) -> tuple[Any, str]:
    pyarrow: Any = importlib.import_module("pyarrow")
    fs: Any = importlib.import_module("pyarrow.fs")
    if scheme_of(uri) in ("gs", "gcs") and "retry_limit_seconds" not in options_of(uri):
        mark = "&" if "?" in uri else "?"
        uri = join(uri) + f"{mark}retry_limit_seconds={_GCS_RETRIES_S}"
    try:
        system, path = fs.FileSystem.from_uri(uri)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise ConfigurationError(
            f"pyarrow cannot open {without_options(uri)!r}: {error}. Correct the URI, or install what it needs."
        ) from error
    return system, path.rstrip("/")


def _open_by_fsspec(uri: str) -> tuple[Any, str]:
    fsspec: Any = importlib.import_module("fsspec")
    fs: Any = importlib.import_module("pyarrow.fs")
    scheme = scheme_of(uri)
    if options_of(uri):
        raise ConfigurationError(
            f"{uri!r} has options behind its ?, which {scheme}:// does not take. Set them in fsspec's configuration "
            "(~/.config/fsspec) or in the environment."
        )
    try:
        system, path = fsspec.core.url_to_fs(uri)
    except ImportError as error:
        raise MissingPackageError(
            f"{scheme}:// needs a package that is not installed here: {error}. Install it where the driver and the "
            "workers run."
        ) from error
    except ValueError as error:
        raise ConfigurationError(
            f"{scheme}:// is not a scheme that pyarrow or fsspec knows ({error}). Use s3://, gs://, az://, abfs://, "
            "hdfs:// or a path that all workers share, or install the package that implements it for fsspec."
        ) from error
    return fs.PyFileSystem(fs.FSSpecHandler(system)), str(path).rstrip("/")
