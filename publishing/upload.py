"""Pushes a built folder to the Hub: one commit, none where nothing changed, and a tag.

    pushed = push_folder(Path("release/ted-6k"), "me/ted-6k", "dataset", tag="v0.1.0", message="Release 0.1.0")

The repository then has the files of the folder and no others. What broke off is finished by the same call: large files
that the Hub has already are not sent again. The token is the one that `hf auth login` stored.
Tiny: a folder with one file will do; the environment variable HF_ENDPOINT names another Hub than huggingface.co.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.constants import REPO_TYPES_URL_PREFIXES
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from granted.errors import InputError


RepoType = Literal["model", "dataset", "space"]

# The Hub makes this file with a repository and needs it to tell large files.
_OF_THE_HUB = ".gitattributes"


@dataclass(frozen=True)
class Pushed:
    """What a push did.

    Args:
        repo_id (`str`): the repository.
        url (`str`): its page.
        commit (`str`, *optional*): the commit that was made; `None`: nothing had changed.
        tag (`str`, *optional*): the tag, which is now at the repository's last commit.
    """

    repo_id: str
    url: str
    commit: str | None
    tag: str | None


def push_folder(
    folder: Path,
    repo_id: str,
    repo_type: RepoType,
    *,
    private: bool = True,
    tag: str | None = None,
    message: str,
    space_sdk: str | None = None,
) -> Pushed:
    """Make a repository on the Hub hold exactly the files of `folder`.

    All is checked that can be before the Hub is changed. Then the repository is created if there is none, one commit
    adds what is new and deletes what is gone (never `.gitattributes`, which is the Hub's own), and the tag is set.
    A commit of somebody else in the meantime stops the push; nothing is overwritten unseen.

    Args:
        folder (`Path`): with at least one file.
        repo_id (`str`): `namespace/name`.
        repo_type (`str`): `"model"`, `"dataset"` or `"space"`.
        private (`bool`, defaults to `True`): the visibility of a new repository; that of an existing one stays.
        tag (`str`, *optional*): a tag for the commit. A tag is never moved.
        message (`str`): of the commit.
        space_sdk (`str`, *optional*): for a Space and only for one: `"gradio"`, `"static"`, `"docker"`.

    Returns:
        [`Pushed`]: what was done.

    Raises:
        InputError: the folder, an argument, the token or the Hub's answer does not allow it. One line says what to
            do. If the push had begun, doing it again goes on where it stopped.
    """
    _check_arguments(folder, repo_id, repo_type, tag, message, space_sdk)
    token = _stored_token()
    with _as_input_error(repo_id, token):
        api = HfApi(token=token)
        additions = [
            CommitOperationAdd(path.relative_to(folder).as_posix(), path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]
        head = _head(api, repo_id, repo_type)
        if head is None:
            _check_other_types(api, repo_id, repo_type)
            api.create_repo(repo_id, repo_type=repo_type, private=private, space_sdk=space_sdk)
            head = _head(api, repo_id, repo_type)
        changes = _changes(api, repo_id, repo_type, head, additions)
        tagged = _commit_of_tag(api, repo_id, repo_type, tag) if tag else None
        if tagged and (changes or tagged != head):
            raise InputError(
                f"got the tag {tag}, which {repo_id} has at another content (commit {tagged[:7]}), expected a new "
                "one, since tags do not move: choose another"
            )
        commit = None
        if changes:
            commit = api.create_commit(
                repo_id, changes, commit_message=message, repo_type=repo_type, parent_commit=head
            ).oid
        if tag and not tagged:
            api.create_tag(repo_id, tag=tag, revision=commit or head, repo_type=repo_type)
    url = f"{api.endpoint}/{REPO_TYPES_URL_PREFIXES.get(repo_type, '')}{repo_id}"
    return Pushed(repo_id, url, commit, tag)


def _check_arguments(
    folder: Path, repo_id: str, repo_type: str, tag: str | None, message: str, space_sdk: str | None
) -> None:
    """Raises about what can be known without the Hub."""
    if not any(path.is_file() for path in folder.rglob("*")):
        raise InputError(f"got {folder}, which holds no files, expected a built folder: build it first")
    if repo_id.count("/") != 1:
        raise InputError(f"got the repository {repo_id!r}, expected namespace/name: add your user or organisation")
    if repo_type not in ("model", "dataset", "space"):
        raise InputError(f"got the type {repo_type!r}, expected model, dataset or space")
    if (space_sdk is not None) != (repo_type == "space"):
        raise InputError(f"got the SDK {space_sdk} for a {repo_type}, expected one for a Space and for nothing else")
    if not message.strip():
        raise InputError("got no message for the commit, expected one: say what is new")
    if tag is not None:
        check_tag(tag)


def check_tag(tag: str) -> None:
    """Raise unless a tag can be set and asked for everywhere."""
    # Stricter than git, which would refuse after the commit.
    if not re.fullmatch(r"[A-Za-z0-9]+([._+-][A-Za-z0-9]+)*(?<!\.lock)", tag):
        raise InputError(f"got the tag {tag!r}, expected letters and digits with single . _ + - between: v0.1.0")
    if re.fullmatch(r"\d+\.\d+\.\d+", tag):  # evaluate.load would ask the Hub for v0.1.0
        raise InputError(f"got the tag {tag!r}, expected a v before the numbers: v{tag}")


def _stored_token() -> str:
    """The token that huggingface_hub will send."""
    with _as_input_error("the stored token"):
        token = get_token()
    if not token:
        raise InputError("got no token for the Hub, expected one with write access: run `hf auth login`")
    if not token.isascii() or not token.isprintable():  # the HTTP library's error would quote the header
        raise InputError("got a token with characters that no token has, expected a valid one: run `hf auth login`")
    return token


def _head(api: HfApi, repo_id: str, repo_type: str) -> str | None:
    """The last commit of the repository, `None` if there is no such repository (that we may see)."""
    try:
        return api.repo_info(repo_id, repo_type=repo_type).sha
    except RepositoryNotFoundError:
        return None


def _check_other_types(api: HfApi, repo_id: str, repo_type: str) -> None:
    """Raises if the name, new as this type, is in use as another: the Hub allows it, but here it is a slip."""
    for other in ("model", "dataset", "space"):
        with suppress(HfHubHTTPError):  # where the token may not look we cannot know
            if other != repo_type and _head(api, repo_id, other) is not None:
                raise InputError(
                    f"got {repo_id} for a {repo_type}, which is a {other} on the Hub, expected a name of its own: "
                    "choose another"
                )


def _changes(
    api: HfApi, repo_id: str, repo_type: str, head: str, additions: list[CommitOperationAdd]
) -> list[CommitOperationAdd | CommitOperationDelete]:
    """What a commit on top of `head` has to do: delete what is gone, add what differs."""
    tree = api.list_repo_tree(repo_id, recursive=True, revision=head, repo_type=repo_type)
    remote = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    gone = remote.keys() - {addition.path_in_repo for addition in additions} - {_OF_THE_HUB}
    differing = [addition for addition in additions if not _equals(addition, remote.get(addition.path_in_repo))]
    return [CommitOperationDelete(path) for path in sorted(gone)] + differing


def _equals(addition: CommitOperationAdd, remote: RepoFile | None) -> bool:
    """Whether the Hub has this content under this name."""
    if remote is None or remote.size != addition.upload_info.size:
        return False
    if remote.lfs:
        return remote.lfs.sha256 == addition.upload_info.sha256.hex()
    with addition.as_file() as file:
        return remote.blob_id == git_hash(file.read())


def _commit_of_tag(api: HfApi, repo_id: str, repo_type: str, tag: str) -> str | None:
    """The commit that the tag is at, if there is such a tag."""
    tags = api.list_repo_refs(repo_id, repo_type=repo_type).tags
    return next((ref.target_commit for ref in tags if ref.name == tag), None)


# What to do about an HTTP status. The library has tried several times where the Hub is in trouble or overrun.
_AGAIN = "run it again to go on"
_ADVICE = {
    408: _AGAIN,
    429: _AGAIN,
    401: "the token is not valid (any more): run `hf auth login`, or correct HF_TOKEN where it is set",
    402: "that account has to pay for it: choose another account, or `static` as a Space's SDK",
    403: "the token may not write there: run `hf auth login` with one that may, or choose another namespace",
    404: "check the name, and that the token may see it",
    409: "it was changed at the same time: run it again",
    412: "it was changed at the same time: run it again",
    413: "the Hub takes no file that large: split it",
}


@contextmanager
def _as_input_error(repo_id: str, token: str = "") -> Iterator[None]:
    """Turns what goes wrong with the Hub into one line that says what to do and holds no secret."""
    try:
        yield
    except InputError:
        raise
    except (TypeError, AttributeError):  # a mistake of ours
        raise
    # huggingface_hub, its HTTP library (httpx or httpx2, by version) and its storage library each raise their own.
    except Exception as error:
        while isinstance(error, RuntimeError) and error.__cause__:  # "Error while uploading", and why
            error = error.__cause__
        if isinstance(error, OfflineModeIsEnabled):
            line = "got HF_HUB_OFFLINE in the environment, expected to reach the Hub: unset it"
        elif isinstance(error, HfHubHTTPError):
            status = error.response.status_code
            advice = _AGAIN if status >= 500 else _ADVICE.get(status, "correct that")
            said = _without_secrets(error.server_message or error.response.reason_phrase, token)
            line = f"got HTTP {status} ({said}) from the Hub for {repo_id}, expected it to be accepted: {advice}"
        elif isinstance(error, OSError) and error.filename:
            line = f"got '{error.strerror}' at {error.filename}, expected files that can be read: correct that"
        elif isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError):
            line = f"got what the Hub does not take for {repo_id} ({_without_secrets(error, token)}): correct that"
        else:
            said = _without_secrets(f"{type(error).__name__}: {error}", token)
            line = f"got no proper answer from the Hub for {repo_id} ({said}): check the network, {_AGAIN}"
        raise InputError(line) from error


def _without_secrets(said: object, token: str) -> str:
    """At most 300 characters in one line, without the token, headers, or the signatures in addresses."""
    text = " ".join((str(said).replace(token, "***") if token else str(said)).split())
    text = re.sub(r"(?i)\b(hf_|bearer |basic )[^\s'\"]+", "***", text)
    return re.sub(r"\?[^\s'\"]+", "", text)[:300]
