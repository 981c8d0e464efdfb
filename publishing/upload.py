"""Pushes a built folder to the Hub: one commit, none where nothing changed, and a tag.

    pushed = push_folder(Path("release/ted-6k"), "me/ted-6k", "dataset", tag="v0.1.0", message="Release 0.1.0")

The repository then has the files of the folder and no others. What broke off is finished by the same call: large files
that the Hub has already are not sent again. The token is the one that `hf auth login` stored.
Tiny: a folder with one file will do; the environment variable HF_ENDPOINT names another Hub than huggingface.co.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.constants import REPO_TYPES_URL_PREFIXES, SPACES_SDK_TYPES
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from granted.publishing.hub import Hub, HubError
from granted.utils.errors import InputError


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
    report: Callable[[str], object] = lambda line: None,
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
        report (`Callable`): called with a line each time that the Hub is asked again.

    Returns:
        [`Pushed`]: what was done.

    Raises:
        InputError: the folder, an argument, the token or the Hub's answer does not allow it. One line says what to
            do. If the push had begun, doing it again goes on where it stopped.
    """
    _check_arguments(folder, repo_id, repo_type, tag, message, space_sdk)
    hub = Hub(repo_id, repo_type, report)
    additions = _additions(folder)
    head = _head(hub, repo_type)
    if head is None:
        _check_other_types(hub)
        # That of a creation whose answer was lost exists.
        hub.ask(
            hub.api.create_repo, repo_id, repo_type=repo_type, private=private, space_sdk=space_sdk, exist_ok=True
        )
        head = _head(hub, repo_type)
        if head is None:
            raise InputError(f"got no repository {repo_id} after creating it, expected one: run it again to go on")
    changes = _changes(hub, head, additions)
    tagged = _commit_of_tag(hub, tag) if tag else None
    if tagged and (changes or tagged != head):
        raise InputError(
            f"got the tag {tag}, which {repo_id} has at another content (commit {tagged[:7]}), expected a new one, "
            "since tags do not move: choose another"
        )
    commit = _commit(hub, head, changes, additions, message) if changes else None
    if commit and _changes(hub, commit, additions):
        raise InputError(f"got other files in {repo_id} than were pushed, expected the same: run it again")
    if tag and not tagged:
        _create_tag(hub, tag, commit or head)
    url = f"{hub.api.endpoint}/{REPO_TYPES_URL_PREFIXES.get(repo_type, '')}{repo_id}"
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
    if space_sdk not in (None, *SPACES_SDK_TYPES):
        raise InputError(f"got the SDK {space_sdk!r}, expected one of {', '.join(SPACES_SDK_TYPES)}")
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


def _additions(folder: Path) -> list[CommitOperationAdd]:
    """The files of a folder, hashed."""
    try:
        return [
            CommitOperationAdd(path.relative_to(folder).as_posix(), path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]
    except OSError as error:
        raise InputError(f"got '{error.strerror}' at {error.filename}, expected a file that can be read") from error
    except ValueError as error:  # such as one of .git
        raise InputError(f"got a file in {folder} that the Hub does not take ({error}): take it away") from error


def _head(hub: Hub, repo_type: str) -> str | None:
    """The last commit of the repository, `None` if there is no such repository (that we may see)."""
    try:
        return hub.ask(lambda: _oid(hub.api.repo_info(hub.repo_id, repo_type=repo_type).sha))
    except HubError as error:
        if error.no_repository:
            return None
        raise


def _oid(value: object) -> str:
    """A commit's hash; an answer with anything else in its place is none."""
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{40}", value):
        raise ValueError(f"{value!r} for the hash of a commit")
    return value


def _check_other_types(hub: Hub) -> None:
    """Raises if the name, new as this type, is in use as another: the Hub allows it, but here it is a slip."""
    for other in ("model", "dataset", "space"):
        if other == hub.repo_type:
            continue
        try:
            found = _head(hub, other)
        except HubError as error:
            if error.status is None:
                raise
            continue  # where the token may not look we cannot know
        if found is not None:
            raise InputError(
                f"got {hub.repo_id} for a {hub.repo_type}, which is a {other} on the Hub, expected a name of its own: "
                "choose another"
            )


def _changes(
    hub: Hub, head: str, additions: list[CommitOperationAdd]
) -> list[CommitOperationAdd | CommitOperationDelete]:
    """What a commit on top of `head` has to do: delete what is gone, add what differs."""

    def read_tree() -> dict[str, RepoFile]:
        tree = hub.api.list_repo_tree(hub.repo_id, recursive=True, revision=head, repo_type=hub.repo_type)
        files = {str(entry.path): entry for entry in tree if isinstance(entry, RepoFile)}
        if any(file.lfs and not isinstance(file.lfs.sha256, str) for file in files.values()):
            raise ValueError
        return files

    remote = hub.ask(read_tree)
    gone = remote.keys() - {addition.path_in_repo for addition in additions} - {_OF_THE_HUB}
    differing = [addition for addition in additions if not _equals(addition, remote.get(addition.path_in_repo))]
    return [CommitOperationDelete(path) for path in sorted(gone)] + differing


def _commit(
    hub: Hub,
    head: str,
    changes: list[CommitOperationAdd | CommitOperationDelete],
    additions: list[CommitOperationAdd],
    message: str,
) -> str:
    """Commits on top of `head`."""

    def create() -> str:
        made = hub.api.create_commit(
            hub.repo_id, changes, commit_message=message, repo_type=hub.repo_type, parent_commit=head
        )
        return _oid(made.oid)

    try:
        return hub.ask(create)
    except HubError as error:
        # The head has moved: by somebody else, or by a commit of ours whose answer was lost.
        if error.status not in (409, 412):
            raise
        now = _head(hub, hub.repo_type)
        if now in (None, head) or _changes(hub, now, additions):
            raise
        return now


def _equals(addition: CommitOperationAdd, remote: RepoFile | None) -> bool:
    """Whether the Hub has this content under this name."""
    if remote is None or remote.size != addition.upload_info.size:
        return False
    if remote.lfs:
        return remote.lfs.sha256 == addition.upload_info.sha256.hex()
    with addition.as_file() as file:
        return remote.blob_id == git_hash(file.read())


def _commit_of_tag(hub: Hub, tag: str) -> str | None:
    """The commit that the tag is at, if there is such a tag."""

    def read_tags() -> dict[str, str]:
        refs = hub.api.list_repo_refs(hub.repo_id, repo_type=hub.repo_type)
        return {ref.name: _oid(ref.target_commit) for ref in refs.tags}

    return hub.ask(read_tags).get(tag)


def _create_tag(hub: Hub, tag: str, commit: str) -> None:
    try:
        hub.ask(hub.api.create_tag, hub.repo_id, tag=tag, revision=commit, repo_type=hub.repo_type)
    except HubError as error:
        # There is such a tag by now: somebody else's, or ours, and the answer was lost.
        if error.status != 409 or _commit_of_tag(hub, tag) != commit:
            raise
