"""The Hugging Face hub: what a repository holds at a revision, and the client's many errors as one line each."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import huggingface_hub
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from core.errors import UserError
from core.messages import first_line


@dataclass(frozen=True, slots=True)
class Repo:
    """A repository of models ("model") or data ("dataset") at `revision`: a branch, a tag or a commit."""

    name: str
    revision: str = "main"
    kind: str = "model"

    @property
    def page(self) -> str:
        return f"{endpoint()}/{'datasets/' if self.kind == 'dataset' else ''}{self.name}"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as the hub describes it. Large files have a SHA-256, small ones only git's blob id (SHA-1)."""

    path: str
    size: int
    blob_id: str
    sha256: str | None


def endpoint() -> str:
    """The hub's address; HF_ENDPOINT names another, as for every Hugging Face library."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def commit(repo: Repo) -> str:
    """The commit that the revision stands for now."""
    huggingface_hub.logging.set_verbosity_error()  # what it has to say is in our one line
    with explained(repo):
        info: Any = HfApi(endpoint()).repo_info(repo.name, revision=repo.revision, repo_type=repo.kind)
        return str(info.sha)


def listing(repo: Repo) -> dict[str, RemoteFile]:
    """The files of the repository by their path."""
    with explained(repo):
        tree = HfApi(endpoint()).list_repo_tree(repo.name, recursive=True, revision=repo.revision, repo_type=repo.kind)
        entries: list[Any] = [entry for entry in tree if hasattr(entry, "blob_id")]  # the others are folders
    return {e.path: RemoteFile(e.path, e.size, e.blob_id, e.lfs.sha256 if e.lfs else None) for e in entries}


@contextmanager
def explained(repo: Repo) -> Iterator[None]:
    """Turn whatever a Hugging Face client raises in the block into a UserError that says what to do."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # transport errors have no class that all versions of the clients share
        raise UserError(_reason(error, repo)) from error


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from."""
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        yield current
        current = current.__cause__ or current.__context__


def _reason(error: Exception, repo: Repo) -> str:
    for cause in _chain(error):
        text = _known(cause, repo)
        if text:
            return text
    last = list(_chain(error))[-1]
    what = f"{type(last).__name__}: {first_line(last)}"
    if isinstance(last, OSError) or type(last).__module__.startswith("http"):
        return (
            f"{repo.name}: cannot reach {endpoint()} ({what}); with a network run this again, complete files are kept"
        )
    return f"{repo.name}: {what}"


def _known(error: BaseException, repo: Repo) -> str | None:
    """What went wrong and what to do, for errors that say it; the most special class first."""
    if isinstance(error, GatedRepoError):
        if get_token() is None:
            return (
                f"{repo.name} is gated: accept its licence at {repo.page}, then set HF_TOKEN to an access token of "
                "that account (or run `hf auth login`) and run this again"
            )
        return f"{repo.name} is gated and your token has no access: ask for it at {repo.page}, then run this again"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"no {repo.kind} '{repo.name}' at {endpoint()} (a private one needs HF_TOKEN or `hf auth login`); "
            "--repo ORG/NAME names another"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{repo.name} has no revision '{repo.revision}'; {repo.page} lists its branches and commits"
    if isinstance(error, EntryNotFoundError) and isinstance(error, HfHubHTTPError):
        return f"{repo.name} at {repo.revision}: {first_line(error)}"
    if isinstance(error, HFValidationError):
        return f"'{repo.name}' is no repository name: expected ORG/NAME ({first_line(error)})"
    if isinstance(error, HfHubHTTPError):
        advice = {401: "renew your access token (HF_TOKEN or `hf auth login`), or unset it", 403: f"see {repo.page}"}
        otherwise = "wait some minutes and run this again, complete files are kept"
        return f"{repo.name}: {first_line(error)}; {advice.get(error.response.status_code, otherwise)}"
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return f"{repo.name}: the transfer broke ({first_line(error)}); run this again, complete files are kept"
    if isinstance(error, OSError) and error.errno and error.filename:
        return f"{error.filename}: {error.strerror}"
    return None
