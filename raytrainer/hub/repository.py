"""How files are committed to one repository on the Hub, and what an error there says.

An upload is one commit, so readers of the repository see all of its files or none. The client's ``upload_folder`` may
split a folder into several commits and is not used. Unchanged files are neither sent nor committed, so repeating an
upload adds no commit.

Every failure becomes a ``HubError`` that says what to do; neither its text nor its exception chain contains a token.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from raytrainer._version import __version__
from raytrainer.errors import HubError
from raytrainer.hub.secrecy import without_tokens

T = TypeVar("T")

MAX_REASON = 400
"""Longest part of the Hub's own message that is shown [characters]."""
_GIVE_A_TOKEN = (
    "Give the process that uploads a token with write access: HF_TOKEN in its environment, `hf auth login` on its "
    "machine, or hub_token=."
)
_LASTING = {400, 401, 403, 404, 409, 413, 422}
"""HTTP statuses that the same request would get again."""
_REQUEST_ID = re.compile(r" ?\(Request ID: [^)]*\)")
"""Removed, since it differs each time and would make a repeated failure look new."""
_CAN_BE_BRANCH = re.compile(r"(?!refs/)(?![0-9a-f]{40}$).+")


class Repository:
    """A repository, and the token to write to it.

    Args:
        name: ``name`` (in the namespace of the token's user) or ``namespace/name``.
        token: None takes the token of this process: HF_TOKEN, or that of ``hf auth login``.
        private: Whether the repository is private if it is created; None for the namespace's default.
        repo_id: Its full name, if it is known to exist.
    """

    def __init__(
        self, name: str, *, token: str | None = None, private: bool | None = None, repo_id: str | None = None
    ) -> None:
        self.name = name
        self.repo_id = repo_id
        self._token = token
        self._private = private
        self._branches: set[str] = set()
        self._api = HfApi(token=token, library_name="raytrainer", library_version=__version__)

    @property
    def url(self) -> str:
        """Web address of the repository."""
        return f"{self._api.endpoint}/{self.repo_id or self.name}"

    def open(self) -> str:
        """Create the repository if it does not exist.

        Returns:
            Its full name.

        Raises:
            HubError: If the Hub does not answer, or refuses.
        """
        if self.repo_id is None:
            create = functools.partial(self._api.create_repo, self.name, private=self._private, exist_ok=True)
            self.repo_id = str(self._request(create).repo_id)
        return self.repo_id

    def commit(
        self,
        files: Mapping[str, Path],
        *,
        message: str,
        revision: str | None = None,
        replaces: Callable[[str], bool] = lambda _: False,
        shows_progress: bool = False,
    ) -> CommitInfo:
        """Upload files, in one commit.

        Args:
            files: Path in the repository -> local file, which must not change during the upload.
            message: The commit message.
            revision: The branch, which is created if it does not exist; None for the main branch.
            replaces: Says by its path whether a file of the repository is deleted if it is not among ``files``.
            shows_progress: Show the progress bars of the client.

        Raises:
            HubError: If the upload failed; the repository is unchanged.
        """
        repo_id = self.open()

        def send() -> CommitInfo:
            self._create_branch(repo_id, revision)
            existing = self._api.list_repo_files(repo_id, revision=revision)
            deletions = [
                CommitOperationDelete(path) for path in existing if path not in files and replaces(path)
            ]
            additions = [CommitOperationAdd(path, file) for path, file in files.items()]
            unique = list({addition.path_or_fileobj: addition for addition in additions}.values())
            if len(unique) < len(additions):
                # The weights of a checkpoint go to two paths; this sends their bytes only once.
                self._api.preupload_lfs_files(repo_id, unique, revision=revision, free_memory=False)
            return self._api.create_commit(
                repo_id, [*deletions, *additions], commit_message=message, revision=revision
            )

        with contextlib.nullcontext() if shows_progress else _without_progress_bars():
            return self._request(send)

    def _create_branch(self, repo_id: str, revision: str | None) -> None:
        if revision in (None, "main") or revision in self._branches or not _CAN_BE_BRANCH.match(revision):
            return
        self._api.create_branch(repo_id, branch=revision, exist_ok=True)
        self._branches.add(revision)

    def _request(self, request: Callable[[], T]) -> T:
        try:
            return request()
        except Exception as error:  # noqa: BLE001  a network client may raise anything
            explained = self._explain(error)
        # Raised outside the handler, or the exception chain would show the token that the message hides.
        raise explained

    def _explain(self, error: Exception) -> HubError:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        message = " ".join(_REQUEST_ID.sub("", str(error)).split())
        reason = without_tokens(message or type(error).__name__, self._token, _token_of_this_process())
        where = without_tokens(self.repo_id or self.name)
        return HubError(
            f"{where} on {self._api.endpoint}: {reason[:MAX_REASON].rstrip('.')}. {_advice(error, status)}",
            is_lasting=status in _LASTING or isinstance(error, OfflineModeIsEnabled | ValueError),
        )


def _advice(error: Exception, status: int | None) -> str:
    if status == 401:
        return _GIVE_A_TOKEN
    if status == 403:
        return f"The token may not do this. {_GIVE_A_TOKEN}"
    if status == 404:
        return (
            "Check hub_model_id and hub_revision; the Hub answers the same to a token that may not see the "
            "repository."
        )
    if isinstance(error, OfflineModeIsEnabled):
        return "Unset HF_HUB_OFFLINE where the upload runs, or leave push_to_hub out."
    if status is None and not isinstance(error, OSError | ValueError):
        return "Check the network, HF_ENDPOINT and proxies of the machine that uploads."
    return "Upload it again later: trainer.push_to_hub(), or `hf upload`."


def _token_of_this_process() -> str | None:
    try:
        return get_token()
    except Exception:  # noqa: BLE001  then there is no token to hide
        return None


@contextlib.contextmanager
def _without_progress_bars() -> Generator[None]:
    """Hide the client's progress bars: from a background thread they would break the live progress line."""
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
