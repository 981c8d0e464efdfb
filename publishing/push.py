"""Pushes the folders of a release, each as a repository of the Hugging Face Hub.

push("release", "USER", report=print)
"""

import os
from collections.abc import Callable
from pathlib import Path

from granted import __version__
from granted.model_cards.kinds import KINDS, REPOSITORIES
from granted.publishing.checks import check_folder
from granted.publishing.upload import Pushed, push_folder


def push(
    release: str | os.PathLike,
    owner: str,
    *,
    private: bool = True,
    tag: str | None = None,
    report: Callable[[str], object] = lambda line: None,
) -> list[Pushed]:
    """Check the folders of a release once more and push them, models before what names them.

    Args:
        release (`str` or `os.PathLike`): what `build_release` made for this owner.
        owner (`str`): user or organisation.
        private (`bool`, defaults to `True`): the visibility of new repositories.
        tag (`str`, *optional*): of the commits.
        report (`Callable`): called with a line about what is being done and one about what was done.

    Raises:
        InputError: one of them may not be published or could not be pushed. What was pushed before it stays, and the
            same call goes on.
    """
    pushed = []
    folders = {name: kind for name, kind in REPOSITORIES.items() if (Path(release) / name).is_dir()}
    for name, kind in folders.items():
        report(f"checking {name}")
        check_folder(Path(release) / name, kind)
    for name, kind in folders.items():
        report(f"pushing {name}")
        one = push_folder(
            Path(release) / name,
            f"{owner}/{name}",
            KINDS[kind].repo_type,
            private=private,
            tag=tag,
            message=f"Release by granted {__version__}",
            space_sdk="gradio" if KINDS[kind].repo_type == "space" else None,
            report=report,
        )
        done = f"commit {one.commit[:7]}" if one.commit else "nothing had changed"
        report(f"{one.url}: {done}" + (f", tag {tag}" if tag else ""))
        pushed.append(one)
    return pushed
