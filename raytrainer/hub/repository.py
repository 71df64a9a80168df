"""One repository on the Hub, as one process writes to it.

An upload is one commit: whoever reads the repository sees all of its files, or none. So the client's ``upload_folder``,
which may make several commits of one folder, is not used. Files that have not changed are neither sent nor committed,
so an upload that is made twice makes one commit.

Whatever goes wrong is a ``HubError`` that says what to do, and whose text and chain hold no token.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Mapping
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
"""Characters of a reason that are worth showing."""
_GIVE_A_TOKEN = (
    "Give the process that uploads a token that may write there: HF_TOKEN in its environment, `hf auth login` on its "
    "machine, or hub_token=."
)
_LASTING = {400, 401, 403, 404, 409, 413, 422}
"""Answers that the same request would get again."""
_REQUEST_ID = re.compile(r" ?\(Request ID: [^)]*\)")
"""Another one each time, so that the same failure would look new."""
_CAN_BE_BRANCH = re.compile(r"(?!refs/)(?![0-9a-f]{40}$).+")


class Repository:
    """A repository and the right to write to it.

    Args:
        name: ``name`` (in the namespace of the token's user) or ``namespace/name``.
        token: None takes the one of this process: HF_TOKEN, or that of ``hf auth login``.
        private: Who may see it, if it has to be made; None for the namespace's default.
        repo_id: Its whole name, if it is known to exist.
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
        """Where people look at it."""
        return f"{self._api.endpoint}/{self.repo_id or self.name}"

    def open(self) -> str:
        """Make the repository, unless it exists.

        Returns:
            Its whole name.

        Raises:
            HubError: If the Hub does not answer, or refuses.
        """
        if self.repo_id is None:
            make = functools.partial(self._api.create_repo, self.name, private=self._private, exist_ok=True)
            self.repo_id = str(self._ask(make).repo_id)
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
            files: Path in the repository -> local file. Nobody may change these files meanwhile.
            message: Of the commit.
            revision: The branch, which is made if it does not exist; None for the main one.
            replaces: Which files of the repository go if they are not among ``files``.
            shows_progress: Leave the client's progress bars on.

        Raises:
            HubError: If it failed; then the repository is as it was.
        """
        repo_id = self.open()

        def send() -> CommitInfo:
            self._make_branch(repo_id, revision)
            there = self._api.list_repo_files(repo_id, revision=revision)
            deletions = [
                CommitOperationDelete(path) for path in there if path not in files and replaces(path)
            ]
            additions = [CommitOperationAdd(path, file) for path, file in files.items()]
            once = list({addition.path_or_fileobj: addition for addition in additions}.values())
            if len(once) < len(additions):
                # The model of a checkpoint has two places: its bytes go over the line once.
                self._api.preupload_lfs_files(repo_id, once, revision=revision, free_memory=False)
            return self._api.create_commit(
                repo_id, [*deletions, *additions], commit_message=message, revision=revision
            )

        with contextlib.nullcontext() if shows_progress else _without_progress_bars():
            return self._ask(send)

    def _make_branch(self, repo_id: str, revision: str | None) -> None:
        if revision in (None, "main") or revision in self._branches or not _CAN_BE_BRANCH.match(revision):
            return
        self._api.create_branch(repo_id, branch=revision, exist_ok=True)
        self._branches.add(revision)

    def _ask(self, request: Callable[[], T]) -> T:
        try:
            return request()
        except Exception as error:  # noqa: BLE001  a client of the network raises anything
            explained = self._explain(error)
        # Outside of the handler, or the chain of exceptions would show what the first text hides.
        raise explained

    def _explain(self, error: Exception) -> HubError:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        words = " ".join(_REQUEST_ID.sub("", str(error)).split())
        reason = without_tokens(words or type(error).__name__, self._token, _token_of_this_process())
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
        return "Check hub_model_id and hub_revision; the Hub says the same to a token that may not see a repository."
    if isinstance(error, OfflineModeIsEnabled):
        return "Unset HF_HUB_OFFLINE where the upload runs, or leave push_to_hub out."
    if status is None and not isinstance(error, OSError | ValueError):
        return "Check the network, HF_ENDPOINT and proxies of the machine that uploads."
    return "Upload it again later: trainer.push_to_hub(), or `hf upload`."


def _token_of_this_process() -> str | None:
    try:
        return get_token()
    except Exception:  # noqa: BLE001  then there is none that could be shown
        return None


@contextlib.contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Bars of a thread in the background would cut through the live line of a run."""
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
